"""The numbers behind a report's tables and plots: pure functions over arms, shared by the page and the Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluate.scope_shares import NAMES as SCOPES
from .runs import Arm, partial_metrics
from .text import spaced
from .why import ORDER, REASONS, letter

if TYPE_CHECKING:
    from ..evaluate.metrics import Estimate
    from ..evaluate.outcomes import Outcome

FAMILIES = ("reliability", "generality", "locality", "portability")
FIRST = {
    "generality": ("text", "image"),
    "locality": ("near_image", "other_question", "text", "random_image", "no_image", "black"),
}
"""Cells in the order of tables; others follow by name."""
ALL = (99, 99)
KINDS = ("preserved", "not_edited_answer")
"""The two locality families (methods, section 3); never mixed."""


@dataclass(frozen=True)
class Group:
    """Columns of the leaderboard that ask the same: `title` and what it means, then (metric, heading)."""

    title: str
    meaning: str
    columns: tuple[tuple[str, str], ...]


def cell_order(cells: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(family, cell) pairs in the order of tables."""

    def rank(pair: tuple[str, str]) -> tuple[int, int, str]:
        family, cell = pair
        known = FIRST.get(family, ())
        first = known.index(cell) if cell in known else len(known)
        return FAMILIES.index(family) if family in FAMILIES else len(FAMILIES), first, cell

    return sorted(set(cells), key=rank)


def cells_of(arms: Sequence[Arm], family: str | None = None) -> list[tuple[str, str]]:
    """Every (family, cell) that some arm has a probe of."""
    found = {(o.family, o.cell) for arm in arms for o in arm.outcomes}
    return [pair for pair in cell_order(found) if family in (None, pair[0])]


def metric_groups(arms: Sequence[Arm], token: bool = False, most: tuple[int, int] = ALL) -> list[Group]:
    """The metrics that there are numbers for, in groups.

    Args:
        token: teacher-forced token accuracies instead of exact matches.
        most: how many locality cells of either family; ALL: with the metrics of parts of the cells as well.
    """
    end = "_token" if token else ""
    known = {name for arm in arms for name in arm.estimates}
    parts = part_names() if most == ALL and not token else []
    generality = [
        *((f"{c}_generality{end}", c) for _, c in cells_of(arms, "generality")),
        *((name, spaced(name)) for name in parts if "_generality_" in name),
    ]
    portability = [(f"{c}_portability{end}", c) for _, c in cells_of(arms, "portability")]
    local = [c for _, c in cells_of(arms, "locality")]
    groups = [
        ("", "", [("HM", "HM")] if not token else [("HM_token", "HM")]),
        (
            "reliability",
            "gives the new answer to the edited question; retained: all edits made so far still do",
            [(f"reliability{end}", "edit"), *([] if token else [("retained", "retained")])],
        ),
        (
            "scope of the edits that succeed",
            "right; too narrow: in some cell of generality fewer than half of the probes follow; too wide: in some cell of "
            "locality fewer than half are kept",
            [] if token else [(name, spaced(name.removeprefix("scope_"))) for name in SCOPES],
        ),
        ("generality", "gives the new answer to the same fact asked otherwise", generality),
        ("portability", "gives the answer that follows from the edit", [(f"portability{end}", "all"), *portability]),
        (
            "locality: preserved",
            "answers what the base answered",
            [
                *[(f"{c}_preserved{end}", c) for c in local][: most[0]],
                *((name, spaced(name)) for name in parts if "_preserved_" in name),
            ],
        ),
        (
            "locality: not edited answer",
            "does not give the edit’s new answer",
            [(f"{c}_not_edited_answer{end}", c) for c in local][: most[1]],
        ),
    ]
    if token:
        meaning = "EasyEdit’s, for comparison: share of equal places among the ten likeliest tokens before and after"
        groups.append(("locality: top 10", meaning, [(f"{c}_top10", c) for c in local][: most[1]]))
    kept = [Group(t, m, tuple(column for column in columns if column[0] in known)) for t, m, columns in groups]
    return [group for group in kept if group.columns]


def part_names() -> list[str]:
    """Names of the metrics that count a part of a cell's probes: seen drawings, pictures that the base recognises, ..."""
    from ..evaluate.metrics import METRICS

    return [metric.name for metric in METRICS if metric.only is not None]


def base_estimates(arm: Arm) -> dict[str, Estimate]:
    """The same probes before any edit: how often the base gives the new answer already."""
    from ..evaluate.metrics import estimates

    before = [replace(outcome, fired=False) for outcome in arm.outcomes]
    partial = partial_metrics(before)
    return {name: e for name, e in estimates(before).items() if name not in partial}


@dataclass(frozen=True)
class Curve:
    """Metrics with intervals along α for one arm; `chosen`: the α of most of its edits."""

    arm: Arm
    chosen: float
    points: dict[float, dict[str, Estimate]]


ALPHA_METRICS = (
    "reliability",
    "text_generality",
    "image_generality",
    "near_image_preserved",
    "other_question_preserved",
)
"""Of the α curve, besides HM."""


def alpha_curves(arms: Sequence[Arm]) -> list[Curve]:
    """α curves of the arms that have one radius per entry and were scored one edit at a time.

    Every probe is routed again from its stored distance; no model is asked.
    """
    from ..evaluate.alpha import GRID, anchors_of

    found = []
    for arm in arms:
        anchors = anchors_of(arm.records)
        alphas = Counter(r["edit"].get("alpha") for r in arm.records if r["case"] in anchors)
        several = any(len(outcome.readings) > 1 for outcome in arm.outcomes)
        if arm.alone and anchors and not several:
            outcomes = [o for o in arm.outcomes if o.case in anchors]
            points = {alpha: _at_alpha(outcomes, anchors, alpha) for alpha in GRID}
            found.append(Curve(arm, alphas.most_common(1)[0][0], points))
    return found


def _at_alpha(
    outcomes: Sequence[Outcome], anchors: Mapping[str, tuple[float, float]], alpha: float
) -> dict[str, Estimate]:
    """`metrics.estimates` of `ALPHA_METRICS` alone, which is several times as fast as of all."""
    from ..evaluate.metrics import METRICS, at_alpha, by_edit, estimated

    chosen = [metric for metric in METRICS if metric.name in ALPHA_METRICS]
    cells = {(metric.family, metric.cell) for metric in chosen}
    some = [outcome for outcome in outcomes if (outcome.family, outcome.cell) in cells]
    return estimated(by_edit(at_alpha(some, anchors, alpha), chosen))


def retention(arms: Sequence[Arm]) -> dict[int, dict[int, tuple[Arm, dict[str, Estimate]]]]:
    """Series → number of edits there when scored → (arm, estimates); only series that were scored at two numbers or more.

    An arm scored alone gives the point of one edit, where no sequence does.
    """
    from ..evaluate.metrics import table

    found: dict[int, dict[int, tuple[Arm, dict[str, Estimate]]]] = {}
    for arm in sorted(arms, key=lambda a: a.alone):
        for made, records in arm.stages.items():
            points = found.setdefault(arm.series, {})
            if any(r["outcomes"] for r in records) and made not in points:
                points[made] = (arm, table(records))
    return {series: dict(sorted(points.items())) for series, points in found.items() if len(points) > 1}


@dataclass(frozen=True)
class Reach:
    """Distances over radii of one cell of one arm.

    Args:
        count: probes. fires, passes: shares of them. ratios: distance / radius where both are numbers, ascending.
    """

    family: str
    cell: str
    count: int
    fires: float
    passes: float
    ratios: np.ndarray

    def quantile(self, share: float) -> float:
        return float(np.quantile(self.ratios, share)) if len(self.ratios) else math.nan


def reaches(arm: Arm) -> list[Reach]:
    """Of every cell, how far its probes are from the nearest key, in radii."""
    found = []
    for family, cell in cells_of([arm]):
        some = [o for o in arm.outcomes if (o.family, o.cell) == (family, cell)]
        ratios = [o.distance / o.radius for o in some if math.isfinite(o.distance) and o.radius > 0]
        good = sum(o.same if family == "locality" else o.new for o in some)
        fires = sum(o.fired for o in some)
        found.append(Reach(family, cell, len(some), fires / len(some), good / len(some), np.sort(np.array(ratios))))
    return found


def reasons(arm: Arm) -> dict[tuple[str, str], Counter[str]]:
    """(family, cell) → letter of `why.REASONS` → how many probes; those that pass under their own letters."""
    found: dict[tuple[str, str], Counter[str]] = {pair: Counter() for pair in cells_of([arm])}
    for record in arm.records:
        edited = not record.get("error")
        for outcome in record["outcomes"]:
            found[outcome.family, outcome.cell][letter(outcome, edited, arm.alone)] += 1
    return found


@dataclass(frozen=True)
class Failures:
    """Failing probes of one cell of one arm, by the few words of `why.REASONS`; `count`: all its probes."""

    arm: Arm
    family: str
    cell: str
    by_words: Counter[str]
    count: int


def failures(arms: Sequence[Arm]) -> tuple[dict[str, str], list[Failures]]:
    """(words → the first letter that has them, in the order of tables; the cells in which something fails)."""
    rows = []
    for arm in arms:
        for (family, cell), counts in reasons(arm).items():
            by_words: Counter[str] = Counter()
            for kind in ORDER:
                by_words[REASONS[kind][0]] += counts[kind]
            if by_words.total():
                rows.append(Failures(arm, family, cell, by_words, counts.total()))
    letters: dict[str, str] = {}
    for kind in ORDER:
        words = REASONS[kind][0]
        if any(row.by_words[words] for row in rows):
            letters.setdefault(words, kind)
    return letters, rows


@dataclass(frozen=True)
class Cost:
    """What an edit takes: medians over edits, None where it was not recorded.

    Args:
        slowest: of the edits, in seconds. scoring: making and scoring an edit, or scoring a case, as the protocol has it.
        untrained: edits whose training ended before every token of the answer was the likeliest.
        failed: (case, stage, message).
    """

    edits: int
    seconds: float | None
    slowest: float | None
    scoring: float | None
    steps: float | None
    nbytes: float | None
    untrained: int
    failed: tuple[tuple[str, str, str], ...]


def cost(arm: Arm) -> Cost:
    """Seconds and bytes per edit, and which edits failed."""
    edits = [r["edit"] for r in arm.records if r.get("edit")]
    seconds = _numbers(edits, "seconds")
    return Cost(
        edits=len(edits),
        seconds=_median(seconds),
        slowest=max(seconds, default=None),
        scoring=_median(_numbers(arm.records, "seconds")),
        steps=_median(_numbers(edits, "steps")),
        nbytes=_median(_numbers(edits, "nbytes")),
        untrained=sum(edit.get("trained") is False for edit in edits),
        failed=tuple((r["case"], str(r.get("stage") or "edit"), r["error"]) for r in arm.records if r.get("error")),
    )


def _numbers(records: Iterable[Any], name: str) -> list[float]:
    return [float(r[name]) for r in records if isinstance(r.get(name), int | float)]


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None
