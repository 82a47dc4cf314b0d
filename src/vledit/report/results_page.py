"""Results files as one self-contained HTML page: tables, plots, and a browser of cases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from .. import __version__
from . import devqa, plots
from .cases import browser
from .gallery import CaseSource, benchmark_cases
from .pages import write_page
from .runs import Arm, Run, base_of, by_setting
from .scores import (
    KINDS,
    Curve,
    Group,
    base_estimates,
    cost,
    failures,
    metric_groups,
    reaches,
    retention,
)
from .summary import manifest_rows, remarks, setting, title
from .svg import marker, tag
from .text import interval, number, percent, seconds, size, spaced

if TYPE_CHECKING:
    from ..evaluate.metrics import Estimate

TEMPLATE = Path(__file__).with_name("results.html.j2")
LEADING = (4, 1)
"""Locality cells of either family that the leaderboard has; the tables below it have all."""
RETAINED = ("retained", "image_generality", "near_image_preserved", "HM")
DRAWN = 8
"""Editors drawn in one radar: more cannot be told apart."""


@dataclass(frozen=True)
class Row:
    """A row of the leaderboard; `arm` is None for the base, which was not edited."""

    label: str
    note: str
    arm: Arm | None
    figures: list[tuple[Estimate | None, bool]]
    """(estimate, whether it is the best among editors of its model, data set and protocol)."""


def write_results_page(
    runs: Sequence[Run],
    arms: Sequence[Arm],
    curves: Sequence[Curve],
    out: Path,
    source: CaseSource = benchmark_cases,
    most_cases: int = 200,
    picture_budget: int = 1_500_000,
) -> Path:
    """Writes the page to `out`.  Returns: `out`.

    Args:
        curves: `scores.alpha_curves(arms)`.
        source: where the cases' pictures come from.
        most_cases: in the browser of cases, spread evenly over those that there are.
        picture_budget: bytes of all pictures, as they stand in the page.
    """
    data, missing, counts = browser(arms, source, most_cases, picture_budget)
    return write_page(
        TEMPLATE,
        out,
        version=__version__,
        title=title(runs, arms),
        runs=runs,
        arms=arms,
        remarks=remarks(runs, arms),
        setting=setting,
        boards=[(name, words, board(arms, token)) for name, words, token in _WAYS],
        tables=[(words, whole_table(arms, token)) for _, words, token in _WAYS],
        trade_offs=_trade_offs(arms),
        radars=[(kind, found) for kind in KINDS if (found := plots.radar(list(arms)[:DRAWN], kind))],
        drawn=DRAWN,
        devqa=devqa.section(arms, DRAWN),
        curves=[(curve, plots.alpha_plot(curve)) for curve in curves],
        alpha_lines=plots.ALPHA_LINES,
        retained=_retained(arms),
        reaches=[(arm, [(r, plots.violin(r)) for r in reaches(arm)]) for arm in arms if arm.scoped],
        reasons=_reasons(arms),
        costs=[(arm, cost(arm)) for arm in arms],
        manifests=[(run, manifest_rows(run)) for run in runs],
        data=_script(data),
        missing=missing,
        counts=counts,
        picture_budget=size(picture_budget),
        swatch=swatch,
        percent=percent,
        interval=interval,
        number=number,
        seconds=seconds,
        size=size,
        spaced=spaced,
        style=Markup(TEMPLATE.with_name("results.css").read_text(encoding="utf-8")),
        script=Markup(TEMPLATE.with_name("results.js").read_text(encoding="utf-8")),
    )


_WAYS = (
    ("exact", "Exact match of the greedy answer, its end included", False),
    ("token", "Token accuracy under teacher forcing, as peers publish it", True),
)


def _script(data: dict[str, Any]) -> Markup:
    """JSON that no text in it can end: "<" and the line separators of old scripts are escaped."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def swatch(arm: Arm) -> Markup:
    """The arm's mark, as in the plots."""
    mark = marker(arm.series, 7.0, 7.0, 4.6, hollow=not arm.alone)
    return tag("svg", mark, viewBox="0 0 14 14", class_="swatch-mark", aria_hidden="true")


_NOT_BETTER = ("scope_too_narrow", "scope_too_wide", "scope_both", "blindness")
"""Metrics of which more is not better: their highest is not marked."""


def board(arms: Sequence[Arm], token: bool) -> tuple[list[Group], list[Row]]:
    """The leaderboard: (groups of columns, rows), the highest HM first among editors of one model, data set and protocol."""
    groups = metric_groups(arms, token, LEADING)
    names = [name for group in groups for name, _ in group.columns]
    rows: list[Row] = []
    for some in by_setting(arms):
        some.sort(key=lambda arm: -arm.estimates["HM"].mean if "HM" in arm.estimates else 0.0)
        best = {
            name: max((a.estimates[name].mean for a in some if name in a.estimates), default=None) for name in names
        }
        note = some[0].run.protocol if len({arm.run.protocol for arm in arms}) > 1 else ""
        for arm in some:
            found = [arm.estimates.get(name) for name in names]
            marks = [
                e is not None and len(some) > 1 and n not in _NOT_BETTER and e.mean == best[n]
                for e, n in zip(found, names, strict=True)
            ]
            rows.append(Row(arm.label, f"{arm.cases} edits", arm, list(zip(found, marks, strict=True))))
        base = base_estimates(base_of(some))
        rows.append(Row("base, no edit", note, None, [(base.get(name), False) for name in names]))
    return groups, rows


def whole_table(arms: Sequence[Arm], token: bool) -> list[tuple[Group, list[tuple[str, str, list[Estimate | None]]]]]:
    """Every metric: group → (name, heading, estimates of each arm)."""
    return [
        (group, [(name, words, [arm.estimates.get(name) for arm in arms]) for name, words in group.columns])
        for group in metric_groups(arms, token)
    ]


def _trade_offs(arms: Sequence[Arm]) -> list[Markup]:
    """Image generality (or what there is) against near images (or what there is), under both locality families."""
    known = {name for arm in arms for name in arm.estimates}
    generality = [n for n in ("image_generality", "text_generality") if n in known]
    cells = [n.removesuffix("_preserved") for n in sorted(known) if n.endswith("_preserved")]
    cell = "near_image" if "near_image" in cells else next(iter(cells), None)
    if not generality or cell is None:
        return []
    drawn = [plots.trade_off(arms, generality[0], f"{cell}_{kind}") for kind in KINDS]
    return [found for found in drawn if found is not None]


def _retained(arms: Sequence[Arm]) -> dict[str, Any] | None:
    """Plots and the table of the retention curve."""
    points = retention(arms)
    if not points:
        return None
    drawn = [(name, plots.retention_plot(points, name)) for name in RETAINED]
    rows = [
        (arm, made, [(name, row.get(name)) for name in RETAINED])
        for found in points.values()
        for made, (arm, row) in found.items()
    ]
    return {"plots": [(name, plot) for name, plot in drawn if plot is not None], "names": RETAINED, "rows": rows}


def _reasons(arms: Sequence[Arm]) -> dict[str, Any] | None:
    """Why probes fail: the kinds of failures, and the cells of each arm in which something fails."""
    kinds, rows = failures(arms)
    return (
        {"kinds": kinds, "groups": [(arm, list(some)) for arm, some in groupby(rows, lambda row: row.arm)]}
        if rows
        else None
    )
