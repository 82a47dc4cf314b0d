"""Two results files compared: which differences are significant (paired bootstrap over the edits that both have)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError, UnknownNameError
from .bootstrap import RESAMPLES, draws, harmonic, interval, matrix, means, resampled, wilson
from .metrics import COSTS, HARMONIC, Record, by_record, by_variant, last

SAME = ("fingerprint", "weights", "dtype", "benchmark", "split", "protocol", "metrics", "devqa")
"""Fields of the manifest in which two runs have to agree for their difference to be one of editors alone."""


@dataclass(frozen=True)
class Difference:
    """B less A of one metric, over the edits that both have.

    Args:
        first, second: the means.
        difference, low, high: second − first with its 95 % interval; NaN with too few edits for one. Shares that do not differ in
            any edit have the interval that so many edits leave open, not one of no width.
        p: two-sided bootstrap p-value, at least 1 / (resamples + 1).
        n: edits in common.
    """

    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    n: int

    @property
    def significant(self) -> bool:
        """Whether 0 lies outside the interval; with too few edits for one nothing is."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """All metrics of two variants. `common`: edits in common; `only_first`, `only_second`: those of one alone."""

    names: tuple[str, str]
    common: int
    only_first: int
    only_second: int
    differences: tuple[Difference, ...]


def check_comparable(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """In which of `SAME` two manifests differ (fields that one of them does not have are not compared)."""
    return [
        f"{name} ({first[name]} against {second[name]})"
        for name in SAME
        if name in first and name in second and first[name] != second[name]
    ]


def choose(records: Sequence[Record], variant: str | None, file: object) -> tuple[str, list[Record]]:
    """The records of one variant, at the largest N.

    Raises: UnknownNameError for one that is not in the file; InputError where none is named and there are several.
    """
    groups = dict(by_variant(last(records)))
    if variant is None and len(groups) == 1:
        return next(iter(groups.items()))
    if variant is None:
        example = f"FILE::{next(iter(groups), 'name')}"
        raise InputError(f"variant: {file} has {', '.join(groups) or 'no records'}; say which, e.g. {example}.")
    if variant not in groups:
        raise UnknownNameError("variant", variant, groups)
    return variant, groups[variant]


def compare(
    first: tuple[str, Sequence[Record]],
    second: tuple[str, Sequence[Record]],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compares two variants, each (name, records), on the cases that both have.

    Cases that failed before or during scoring have no outcomes and are in no figure; a metric is compared on the cases that
    have it in both.

    Raises: InputError where they have no case in common.
    """
    tables = [by_record(records) for _, records in (first, second)]
    ids = [{record["case"] for record in records if record["outcomes"]} for _, records in (first, second)]
    common = sorted(ids[0] & ids[1])
    if not common:
        raise InputError("compare: the two have no case in common.")
    drawn = draws(len(common), seed, resamples)
    found, pairs = [], {}
    for name in [name for name in tables[0] if name in tables[1]]:
        pair = matrix([tables[0][name], tables[1][name]], common)
        pair[:, np.isnan(pair).any(axis=0)] = np.nan
        if np.isnan(pair).all():
            continue
        pairs[name] = pair
        found.append(_difference(name, means(pair), resampled(pair, drawn), int((~np.isnan(pair[0])).sum())))
    if all(name in pairs for name in HARMONIC):
        found.insert(0, _harmonic([pairs[name] for name in HARMONIC], drawn))
    return Comparison((first[0], second[0]), len(common), len(ids[0] - ids[1]), len(ids[1] - ids[0]), tuple(found))


def _harmonic(parts: Sequence[np.ndarray], drawn: np.ndarray) -> Difference:
    points = harmonic(means(np.stack(parts)))
    samples = harmonic(resampled(np.stack(parts), drawn))
    complete = ~np.isnan(np.stack(parts)).any(axis=(0, 1))
    return _difference("HM", points, samples, int(complete.sum()))


def _difference(name: str, points: np.ndarray, samples: np.ndarray, n: int) -> Difference:
    """points: (2,); samples: (2, resamples)."""
    away = np.round(samples[1] - samples[0], 12)  # equal means may have been added up in another order
    away = away[~np.isnan(away)]
    estimate = interval(float(points[1] - points[0]), away, n)
    low, high = estimate.low, estimate.high
    if low == high and name not in COSTS:  # the edits in which they differ are none of n, or all alike
        open_to = wilson(0.0, n)[1]
        most = 2.0 if name == "blindness" else 1.0  # two shares differ by 1 at most
        low, high = max(low - open_to, -most), min(high + open_to, most)
    # how often chance alone goes the other way (or nowhere), both sides
    beyond = min((away <= 0).sum(), (away >= 0).sum())
    p = min(1.0, 2 * (beyond + 1) / (len(away) + 1))
    return Difference(name, float(points[0]), float(points[1]), estimate.mean, low, high, float(p), n)
