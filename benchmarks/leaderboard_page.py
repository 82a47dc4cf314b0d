"""Fills the tables of docs/results.md from the results files of `leaderboard.py`; what people wrote between them stays.

    .venv/bin/python benchmarks/leaderboard_page.py RUNS [--sequence FILE …] [--all FILE …] [--many FILE …] [--long FILE]

`--radius balancedit=190.98` routes an editor's single edits again with another radius, as the α curve does (exact: no model is
needed), so that a threshold that was fitted after the run is scored on the same answers; `--alpha balancedit-paper=0.4` does the
same with another α.  Where several files hold different edits of one editor, these are put together; of an edit that several
hold, the first file's counts.
A table stands between `<!-- NAME -->` and `<!-- end -->`.  A name without data is an error: a table is not shortened in silence.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from vledit.data.devqa import LOCALITY_CELLS
from vledit.errors import InputError
from vledit.evaluate.alpha import anchors_of, curve
from vledit.evaluate.compare import compare
from vledit.evaluate.metrics import Estimate, at_alpha, by_after, by_variant, last, table
from vledit.evaluate.outcomes import Outcome
from vledit.evaluate.results import read_results

PAGE = Path(__file__).parent.parent / "docs" / "results.md"
ORDER = (
    *("balancedit", "balancedit-span", "balancedit-paper", "balancedit-adv", "ft", "ft-adv", "ft-1e-2", "ft_v", "mend"),
    *("mend_adv", "serac", "t_patcher", "grace", "ike", "ike-tuned", "lte", "lte-tuned", "recipe", "lemoe", "liveedit"),
    "hice",
)
SUCCESS = {
    "reliability": "reliability",
    "text_generality": "rewordings",
    "image_generality": "other drawings",
    "image_generality_seen": "… training saw",
    "image_generality_held_out": "… by held-out hands",
    "image_generality_recognised": "… the base recognises",
}
KEPT = {
    "near_image_preserved": "near pictures",
    "other_question_preserved": "other question",
    "random_image_preserved": "random picture",
    "text_preserved": "text",
    "black_preserved": "black picture",
    "no_image_preserved": "no picture",
}
WHOLE = {
    "HM": "HM",
    "scope_right": "scope right",
    "scope_too_narrow": "too narrow",
    "scope_too_wide": "too wide",
    "scope_both": "both",
}
DEVQA = {
    "devqa_RI_preserved": "RI",
    "devqa_NI_preserved": "NI",
    "devqa_CI_preserved": "CI",
    "devqa_adversarial_preserved": "mean of the seven cells",
    "devqa_RI_not_edited_answer": "RI, not the new answer",
    "devqa_CI_not_edited_answer": "CI, not the new answer",
    "blindness": "blindness",
}
PAIRS = (
    ("balancedit-paper", "balancedit"),
    ("balancedit", "balancedit-span"),
    ("ft", "balancedit"),
    ("mend", "mend_adv"),
    ("ft", "ft-adv"),
    ("balancedit", "balancedit-adv"),
)
COMPARED = {
    "reliability": "reliability",
    "text_generality": "rewordings",
    "image_generality": "other drawings",
    "near_image_preserved": "near pictures kept",
    "HM": "HM",
    "devqa_RI_preserved": "RI kept",
    "devqa_CI_preserved": "CI kept",
    "devqa_adversarial_preserved": "mean of the seven cells kept",
    "blindness": "blindness",
}
SEQUENCE = {
    "reliability": "reliability",
    "retained": "retained",
    "text_generality": "rewordings",
    "image_generality": "other drawings",
    **{name: f"{word} kept" for name, word in KEPT.items() if name not in ("black_preserved", "no_image_preserved")},
    "HM": "HM",
}
Scores = dict[str, dict[str, Estimate]]
Records = list[dict[str, Any]]


RADII: dict[str, float] = {}
"""Editor → the radius that its single edits are routed with, in place of the one that they were made with."""
ALPHAS: dict[str, float] = {}
"""Editor → the α that its radii are made with, in place of its own."""


@cache
def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file, which several tables ask for."""
    return read_results(path)[1]


@cache
def records_of(path: Path) -> list[dict[str, Any]]:
    """The records after most edits, routed again where `RADII` or `ALPHAS` says so."""
    return [{**row, "outcomes": _routed(row)} for row in last(read(path))]


def _routed(row: dict[str, Any]) -> list[Outcome]:
    name, outcomes = row["variant"], row["outcomes"]
    if name in ALPHAS:
        return at_alpha(outcomes, anchors_of([row]), ALPHAS[name])
    return [one.with_radius(RADII[name]) for one in outcomes] if name in RADII else outcomes


def place(name: str) -> int:
    """Where an editor stands in a table; those that `ORDER` does not name come last, as they were found."""
    return ORDER.index(name) if name in ORDER else len(ORDER)


def head(*columns: str) -> list[str]:
    """The first two lines of a table."""
    return ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]


def scores(files: Iterable[Path]) -> tuple[Scores, dict[str, int], dict[str, Records]]:
    """Editor → metric → estimate, after most edits; the number of its edits; its records.  In the order of `ORDER`."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in files:
        for name, rows in by_variant(records_of(path)):
            found[name] = {row["case"]: row for row in rows} | found.get(name, {})
    records = {name: list(rows.values()) for name, rows in found.items()}
    return (
        {name: table(records[name]) for name in sorted(found, key=place)},
        {name: len(rows) for name, rows in records.items()},
        records,
    )


def rows_of(all_scores: Scores, counts: dict[str, int], columns: dict[str, str]) -> list[str]:
    """A table of editors down and metrics across."""
    if missing := [name for name in columns if not any(name in one for one in all_scores.values())]:
        raise InputError(f"table: no data for {', '.join(missing)}.")
    lines = head("editor", "edits", *columns.values())
    for editor, row in all_scores.items():
        cells = [str(row[name]) if name in row else "–" for name in columns]
        lines.append(f"| `{editor}` | {counts[editor]} | " + " | ".join(cells) + " |")
    return lines


def cells_of(all_scores: Scores, kind: str) -> list[str]:
    """Editors down, De-VQA's cells across, without intervals."""
    lines = head("editor", *LOCALITY_CELLS)
    for editor, row in all_scores.items():
        cells = [
            f"{100 * row[f'{cell}_{kind}'].mean:.0f}" if f"{cell}_{kind}" in row else "–" for cell in LOCALITY_CELLS
        ]
        lines.append(f"| `{editor}` | " + " | ".join(cells) + " |")
    return lines


def pairs_of(records: dict[str, Records], compared: dict[str, str]) -> list[str]:
    """Paired differences on the edits that both have."""
    known = [(first, second) for first, second in PAIRS if first in records and second in records]
    found = []
    for first, second in known:
        by_metric = {one.metric: one for one in compare((first, records[first]), (second, records[second])).differences}
        found.append((by_metric["reliability"].n, by_metric))
    titles = [
        f"{second} less {first} ({count} edits)" for (first, second), (count, _) in zip(known, found, strict=True)
    ]
    lines = head("metric", *titles)
    for metric, word in compared.items():
        cells = []
        for _, by_metric in found:
            one = by_metric.get(metric)
            if one is None:
                cells.append("–")
                continue
            star = " *" if one.significant else ""
            cells.append(f"{100 * one.difference:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]{star}")
        lines.append(f"| {word} | " + " | ".join(cells) + " |")
    return [*lines, "", "\\* zero lies outside the paired 95 % interval."]


def alpha_of(records: dict[str, Records], name: str) -> list[str]:
    """The α curve of the paper's scope: the same edits, routed again with other radii."""
    rows = records.get(name, [])
    if not anchors_of(rows):
        raise InputError(f"{name}: there are no entries with a radius that α decides.")
    words = {name: word for name, word in COMPARED.items() if name in ("text_generality", "image_generality", "HM")}
    words["near_image_preserved"] = "near pictures kept"
    lines = head("α", *words.values())
    for value, row in curve(rows, [n / 10 for n in range(11)]).items():
        lines.append(f"| {value:g} | " + " | ".join(str(row[name]) for name in words) + " |")
    return lines


def sequence_of(files: Sequence[Path], edits: int = 0) -> list[str]:
    """Editors and the number of edits down, metrics across; "asked": of how many of the edits the questions were asked.

    Args:
        edits: after this number alone, editors in the order of `ORDER`; 0: after all numbers, in the order of the files.
    """
    found = [
        (name, count, some)
        for path in files
        for name, rows in by_variant(read(path))
        for count, some in by_after(rows).items()
        if count == edits or not edits
    ]
    if edits:
        found.sort(key=lambda one: place(one[0]))
    lines = head("editor", "edits", "asked", *SEQUENCE.values())
    for name, count, some in found:
        row = table(some)
        cells = [str(row[metric]) if metric in row else "–" for metric in SEQUENCE]
        lines.append(f"| `{name}` | {count} | {len(some)} | " + " | ".join(cells) + " |")
    return lines


def growing_of(files: Sequence[Path], metric: str, counts: Sequence[int] = (1, 10, 50, 200)) -> list[str]:
    """One metric: editors down, the number of edits that had been made across; "–" where a file has no such number.

    Of several files that have the same editor and number the first counts.
    """
    found: dict[str, dict[int, Records]] = {}
    for path in files:
        for name, rows in by_variant(read(path)):
            found[name] = by_after(rows) | found.get(name, {})
    lines = head("editor", *(f"after {count}" for count in counts))
    for name in sorted(found, key=place):
        rows = [table(found[name][count]) if count in found[name] else {} for count in counts]
        lines.append(f"| `{name}` | " + " | ".join(str(row[metric]) if metric in row else "–" for row in rows) + " |")
    return lines


def fill(page: Path, tables: dict[str, Callable[[], list[str]]]) -> None:
    """Puts each table between its marks.  Raises: InputError for a mark without a table."""

    def put(found: re.Match[str]) -> str:
        if found[1] not in tables:
            raise InputError(f"{page}: there is no table '{found[1]}'. Known: {', '.join(tables)}.")
        return f"<!-- {found[1]} -->\n" + "\n".join(tables[found[1]]()) + "\n<!-- end -->"

    page.write_text(re.sub(r"<!-- (?!end)([\w-]+) -->\n.*?<!-- end -->", put, page.read_text(), flags=re.DOTALL))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of leaderboard.py, with single/EDITOR.jsonl")
    parser.add_argument("--more", type=Path, nargs="*", default=[], help="further results files of single edits")
    parser.add_argument(
        "--sequence", type=Path, nargs="*", default=[], help="sequences of several lengths of every editor"
    )
    parser.add_argument("--all", type=Path, nargs="*", default=[], help="sequences of 200 edits of every editor")
    parser.add_argument("--many", type=Path, nargs="*", default=[], help="longer sequences, for a table of its own")
    parser.add_argument("--long", type=Path, help="a results file of more single edits, for tables of its own")
    parser.add_argument("--radius", nargs="*", default=[], help="EDITOR=RADIUS")
    parser.add_argument("--alpha", nargs="*", default=[], help="EDITOR=α")
    options = parser.parse_args()
    for given, known in ((options.radius, RADII), (options.alpha, ALPHAS)):
        known.update((name, float(value)) for name, _, value in (one.partition("=") for one in given))
    found, counts, records = scores([*sorted((options.runs / "single").glob("*.jsonl")), *options.more])
    long, long_counts, long_records = scores([options.long] if options.long else [])
    tables: dict[str, Callable[[], list[str]]] = {
        "success": lambda: rows_of(found, counts, SUCCESS),
        "kept": lambda: rows_of(found, counts, KEPT),
        "whole": lambda: rows_of(found, counts, WHOLE),
        "devqa": lambda: rows_of(found, counts, DEVQA),
        "cells": lambda: cells_of(found, "preserved"),
        "cells-token": lambda: cells_of(found, "preserved_token"),
        "pairs": lambda: pairs_of(records, COMPARED),
        "alpha": lambda: alpha_of(records, "balancedit-paper"),
        "long-success": lambda: rows_of(long, long_counts, {"HM": "HM", **SUCCESS}),
        "long-kept": lambda: rows_of(long, long_counts, KEPT),
        "long-pairs": lambda: pairs_of(
            long_records, {k: v for k, v in COMPARED.items() if k != "blindness" and "devqa" not in k}
        ),
        "growing-retained": lambda: growing_of(options.sequence, "retained"),
        "growing-hm": lambda: growing_of(options.sequence, "HM"),
        "growing-random": lambda: growing_of(options.sequence, "random_image_preserved"),
        "sequence-all": lambda: sequence_of(options.all, 200),
        "many": lambda: sequence_of(options.many),
    }
    fill(PAGE, tables)


if __name__ == "__main__":
    main()
