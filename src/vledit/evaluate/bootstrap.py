"""Bootstrap over edits: intervals of means, and of differences between two editors on the same edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
BOUNDS = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A mean over edits with its bootstrap 95 % interval. `n`: edits that have such probes."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


Column = Mapping[str, float]
"""Case id → value of one metric."""


def draws(count: int, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """(resamples, count) float64: how often each case is drawn, with replacement, in each resample."""
    drawn = np.random.default_rng(seed).integers(0, max(count, 1), (resamples, count))
    numbered = drawn + count * np.arange(resamples)[:, None]
    return np.bincount(numbered.ravel(), minlength=resamples * count).reshape(resamples, count).astype(float)


def matrix(columns: Sequence[Column], cases: Sequence[str]) -> np.ndarray:
    """(columns, cases) float64; NaN where a case has no such probes."""
    values = [[column.get(case, np.nan) for case in cases] for column in columns]
    return np.array(values, dtype=float).reshape(len(columns), len(cases))


def means(values: np.ndarray) -> np.ndarray:
    """Means over the last axis, of what is there; NaN where nothing is."""
    present = ~np.isnan(values)
    count = present.sum(axis=-1)
    return np.where(count > 0, np.where(present, values, 0).sum(axis=-1) / np.maximum(count, 1), np.nan)


def resampled(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """As `means`, of every resample: (..., cases), (resamples, cases) → (..., resamples)."""
    present = ~np.isnan(values)
    count = present.astype(float) @ drawn.T
    return np.where(count > 0, np.where(present, values, 0) @ drawn.T / np.maximum(count, 1), np.nan)


def harmonic(parts: np.ndarray) -> np.ndarray:
    """Harmonic mean over the first axis; 0 where any part is 0, NaN where any is NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = parts.shape[0] / (1 / parts).sum(axis=0)
    return np.where((parts <= 0).any(axis=0), 0.0, found)


def interval(point: float, samples: np.ndarray, n: int) -> Estimate:
    """An estimate from its resampled values; resamples that held no such probe are left out."""
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return Estimate(float(point), float("nan"), float("nan"), n)
    low, high = np.percentile(samples, BOUNDS)
    return Estimate(float(point), float(low), float(high), n)
