"""What `vledit bench` and `vledit compare` print: tables of estimates, and progress while they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from ..report.text import number, size
from .output import errors

if TYPE_CHECKING:
    from ..evaluate.bootstrap import Estimate
    from ..evaluate.compare import Comparison

SHOWN = (
    "reliability",
    "reliability_seen",
    "reliability_held_out",
    "retained",
    "text_generality",
    "image_generality",
    "image_generality_seen",
    "image_generality_held_out",
    "image_generality_recognised",
    "near_image_preserved",
    "near_image_preserved_seen",
    "near_image_preserved_held_out",
    "near_image_preserved_same_answer",
    "HM",
    "scope_right",
    "scope_too_narrow",
    "scope_too_wide",
    "scope_both",
    "text_preserved",
    "random_image_preserved",
    "random_image_preserved_seen",
    "random_image_preserved_held_out",
    "other_question_preserved",
    "same_answer_preserved",
    "other_subject_preserved",
    "black_preserved",
    "no_image_preserved",
    "portability",
    "devqa_RI_preserved",
    "devqa_NI_preserved",
    "devqa_CI_preserved",
    "devqa_RI_not_edited_answer",
    "devqa_NI_not_edited_answer",
    "devqa_CI_not_edited_answer",
    "blindness",
)


def leaderboard(tables: Mapping[str, Mapping[str, Estimate]], title: str) -> Table:
    """Metrics by editors, which fits a terminal of usual width; metrics that nobody has are left out.

    Cells of a user's own, such as `photograph`, stand below the others.
    """
    table = Table(Column("metric", no_wrap=True), *tables, title=title, box=box.SIMPLE_HEAD)
    names = dict.fromkeys(name for row in tables.values() for name in row)
    own = [name for name in names if name.endswith(("_generality", "_preserved")) and not _is_known(name)]
    for name in (*SHOWN, *own):
        if any(name in row for row in tables.values()):
            style = "bold" if name == "HM" else None
            table.add_row(name, *(str(row[name]) if name in row else "–" for row in tables.values()), style=style)
    table.add_row("seconds per edit", *(_cost(row, "seconds_per_edit", number) for row in tables.values()))
    table.add_row(
        "size of an edit", *(_cost(row, "bytes_per_edit", lambda value: size(round(value))) for row in tables.values())
    )
    return table


def _is_known(name: str) -> bool:
    from ..evaluate.metrics import METRICS

    return name in SHOWN or name.startswith("devqa_") or any(name == metric.name for metric in METRICS)


def _cost(row: Mapping[str, Estimate], name: str, write: Any) -> str:
    return write(row[name].mean) if name in row else "–"


def retention(points: Mapping[str, Mapping[int, Mapping[str, Estimate]]]) -> Table:
    """Editors by the number of edits after which was scored."""
    shown = ("retained", "HM", "near_image_preserved", "random_image_preserved")
    table = Table("editor", "edits", *shown, title="After the first N edits, scored on these edits; %")
    for name, by_number in points.items():
        for count, row in by_number.items():
            table.add_row(name, str(count), *(str(row[m]) if m in row else "–" for m in shown))
    return table


def comparison_table(found: Comparison, all_metrics: bool = False) -> Table:
    """Differences, those that are significant marked."""
    from ..evaluate.metrics import COSTS

    first, second = found.names
    table = Table(
        "metric", first, second, "difference [95 %]", "p", "edits", title=f"{second} less {first}; shares in %"
    )
    for one in found.differences:
        if not all_metrics and ("_token" in one.metric or "_top10" in one.metric):
            continue
        scale = 1 if one.metric in COSTS else 100
        away = f"{scale * one.difference:+.4g}"
        if not math.isnan(one.low):
            away += f" [{scale * one.low:+.4g}, {scale * one.high:+.4g}]"
        style = "bold" if one.significant else "dim"
        cells = (f"{scale * one.first:.4g}", f"{scale * one.second:.4g}", away + (" *" if one.significant else ""))
        table.add_row(one.metric, *cells, f"{one.p:.3f}", str(one.n), style=style)
    return table


def failures(records: Sequence[Mapping[str, Any]], most: int = 5) -> list[str]:
    """Lines about cases that failed."""
    failed = [record for record in records if record["error"]]
    if not failed:
        return []
    lines = [f"{len(failed)} of {len(records)} edits failed:"]
    for record in failed[:most]:
        kind = record.get("error_type") or "error"
        lines.append(f"  {record['variant']}, {record['case']} ({record['stage']}): {kind}: {record['error']}")
    return lines + ([f"  … and {len(failed) - most} more"] if len(failed) > most else [])


def bar() -> Progress:
    """Progress on stderr, with the time that is gone and the time that is left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=errors,
        speed_estimate_period=300,
    )
