"""Means of figures that are not shares, and rank correlations (Spearman), with bootstrap intervals over cases."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..evaluate.bootstrap import RESAMPLES, Estimate, draws, interval, matrix, means, resampled


def bootstrapped(table: Mapping[str, Mapping[str, float]], seed: int = 0) -> dict[str, Estimate]:
    """Name → mean over cases with its interval, from name → case id → value of any size (nats, cosines, ratios)."""
    cases = sorted({case for column in table.values() for case in column})
    values, drawn = matrix(list(table.values()), cases), draws(len(cases), seed)
    samples = resampled(values, drawn)
    return {
        name: interval(float(point), row, len(table[name]))
        for name, point, row in zip(table, means(values), samples, strict=True)
    }


def spearman(first: Mapping[str, float], second: Mapping[str, float], seed: int = 0) -> Estimate:
    """ρ over the cases that have both; NaN with fewer than three, or where one of them is the same in all cases.

    Ties share the mean of their ranks.  Resamples in which one side is constant are left out of the interval.
    """
    cases = [case for case in first if case in second and not np.isnan(first[case]) and not np.isnan(second[case])]
    x, y = np.array([first[c] for c in cases]), np.array([second[c] for c in cases])
    if len(cases) < 3:
        return Estimate(float("nan"), float("nan"), float("nan"), len(cases))
    chosen = np.random.default_rng(seed).integers(0, len(cases), (RESAMPLES, len(cases)))
    samples = np.array([_rho(x[drawn], y[drawn]) for drawn in chosen])
    return interval(_rho(x, y), samples, len(cases))


def _rho(x: np.ndarray, y: np.ndarray) -> float:
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    spread = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / spread) if spread > 0 else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    return (ends - (count - 1) / 2)[place]
