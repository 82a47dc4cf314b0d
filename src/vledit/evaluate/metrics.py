"""The metrics: pure functions over stored outcomes.  Two locality families, never mixed, each named in full.

Source: BalancEdit, App. C (Eqs. 4 to 7); De-VQA's "not the edited answer".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .outcomes import Outcome

VERSION = "1"
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean over edits with its bootstrap 95 % interval. `n`: edits that have such probes."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def preserved(outcome: Outcome) -> float:
    """The edited model answers what the base answered (Eq. 7)."""
    return float(outcome.same)


def preserved_token(outcome: Outcome) -> float:
    return outcome.same_token


def edited_answer(outcome: Outcome) -> float:
    """The edited model answers the new answer (Eqs. 4 to 6)."""
    return float(outcome.new)


def edited_answer_token(outcome: Outcome) -> float:
    return outcome.new_token


def not_edited_answer(outcome: Outcome) -> float:
    """The edited model does not answer the new answer (De-VQA's NI, RI, CI)."""
    return float(not outcome.new)


@dataclass(frozen=True)
class Metric:
    """`score` averaged over the probes of one cell of each edit, then over edits."""

    name: str
    family: str
    cell: str
    score: Callable[[Outcome], float]


METRICS: tuple[Metric, ...] = (
    Metric("reliability", "reliability", "edit", edited_answer),
    Metric("text_generality", "generality", "text", edited_answer),
    Metric("image_generality", "generality", "image", edited_answer),
    Metric("near_image_preserved", "locality", "near_image", preserved),
    Metric("text_preserved", "locality", "text", preserved),
    Metric("random_image_preserved", "locality", "random_image", preserved),
    Metric("other_question_preserved", "locality", "other_question", preserved),
    Metric("black_preserved", "locality", "black", preserved),
    Metric("near_image_not_edited_answer", "locality", "near_image", not_edited_answer),
    Metric("reliability_token", "reliability", "edit", edited_answer_token),
    Metric("text_generality_token", "generality", "text", edited_answer_token),
    Metric("image_generality_token", "generality", "image", edited_answer_token),
    Metric("near_image_preserved_token", "locality", "near_image", preserved_token),
)
HARMONIC = ("text_generality", "image_generality", "near_image_preserved")
"""HM's parts (methods.md, section 3)."""


def by_edit(outcomes: Iterable[Outcome], metrics: Sequence[Metric] = METRICS) -> dict[str, dict[str, float]]:
    """Metric name → case id → mean over the case's probes of that cell."""
    cells: dict[tuple[str, str], dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        cells[outcome.family, outcome.cell][outcome.case].append(outcome)
    table: dict[str, dict[str, float]] = {}
    for metric in metrics:
        cases = cells.get((metric.family, metric.cell), {})
        if cases:
            table[metric.name] = {c: float(np.mean([metric.score(o) for o in found])) for c, found in cases.items()}
    return table


def harmonic_mean(parts: Sequence[float]) -> float:
    """0 where any part is 0."""
    return 0.0 if min(parts) <= 0 else len(parts) / sum(1 / p for p in parts)


def estimates(outcomes: Iterable[Outcome], seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Estimate]:
    """Every metric and HM with bootstrap 95 % intervals over edits (cases resampled with replacement)."""
    table = by_edit(outcomes)
    cases = sorted({case for column in table.values() for case in column})
    values = {name: np.array([column.get(c, np.nan) for c in cases]) for name, column in table.items()}
    draws = np.random.default_rng(seed).integers(0, len(cases), (resamples, len(cases))) if cases else None
    result = {}
    for name, column in values.items():
        result[name] = _estimate(column, _mean(column[draws], axis=1))
    if all(name in values for name in HARMONIC):
        parts = [values[name] for name in HARMONIC]
        means = np.stack([_mean(part[draws], axis=1) for part in parts])
        samples = np.array([harmonic_mean(list(column)) for column in means.T])
        point = harmonic_mean([float(_mean(part)) for part in parts])
        low, high = np.percentile(samples, [2.5, 97.5])
        result["HM"] = Estimate(point, float(low), float(high), len(cases))
    return result


def _mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    present = ~np.isnan(values)
    return np.where(present, values, 0).sum(axis=axis) / np.maximum(present.sum(axis=axis), 1)


def _estimate(column: np.ndarray, samples: np.ndarray) -> Estimate:
    low, high = np.percentile(samples, [2.5, 97.5])
    return Estimate(float(_mean(column)), float(low), float(high), int((~np.isnan(column)).sum()))


def at_alpha(outcomes: Iterable[Outcome], anchors: Mapping[str, tuple[float, float]], alpha: float) -> list[Outcome]:
    """The outcomes had the radius been ε = α·d(pos, k) + (1−α)·d(neg, k) (Eq. 10): routing again, no model needed.

    Args:
        anchors: case id → (d(pos, k), d(neg, k)); single-edit protocols only, where each case has one entry.
    """
    moved = []
    for outcome in outcomes:
        d_positive, d_negative = anchors[outcome.case]
        moved.append(outcome.with_radius(alpha * d_positive + (1 - alpha) * d_negative))
    return moved
