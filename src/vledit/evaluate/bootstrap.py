"""Intervals of means over edits, and of differences between two editors on the same edits.

Shares have Wilson's interval (E. B. Wilson, JASA 1927), which is also meaningful at 0 and 100 %, where a bootstrap has no
width. The probes of an edit are not independent of each other. Therefore `n` is an effective number of edits, not of probes: the
number of independent ones that would vary as much. Harmonic means, costs and differences are bootstrapped over edits; if all
resamples agree, the width of Wilson's interval is used instead. Below `FEWEST` edits there is no interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
BOUNDS = (2.5, 97.5)
Z = 1.959964
"""Of a two-sided 95 % interval."""
FEWEST = 5
"""Edits below which no interval is given: even if all of them agree, half of all others could do otherwise."""


@dataclass(frozen=True)
class Estimate:
    """A mean over edits with its 95 % interval, NaN where there are too few. `n`: edits that have such probes."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if not self.has_interval:
            return f"{100 * self.mean:.1f} (n = {self.n})"
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    @property
    def has_interval(self) -> bool:
        """Whether there are enough edits to say how far off the mean may be."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    @property
    def ends(self) -> tuple[float, float]:
        """Of what a plot draws: the interval, or the mean alone where there is none."""
        return (self.low, self.high) if self.has_interval else (self.mean, self.mean)


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


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share that `n` independent trials gave; `n` need not be whole."""
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    # at 0 and 1 the ends are these; rounding must not put them past it
    return (0.0 if share <= 0 else max(0.0, centre - half)), (1.0 if share >= 1 else min(1.0, centre + half))


def share_interval(values: np.ndarray) -> Estimate:
    """The mean of (n,) shares, one for each edit, NaN left out, with Wilson's interval.

    Shares of several probes vary less than all-or-nothing ones of the same mean, as if there were more edits: by as much `n` is
    raised, which their variance tells. Where they do not vary at all, it is not.
    """
    values = values[~np.isnan(values)]
    n = len(values)
    mean = float(values.mean()) if n else float("nan")
    if n < FEWEST:
        return Estimate(mean, math.nan, math.nan, n)
    share = min(max(mean, 0.0), 1.0)
    most = share * (1 - share)
    varies = (float(((values - mean) ** 2).sum()) + most) / n  # as if one more edit had been all or nothing
    trials = n * max(1.0, most / varies) if varies > 0 else n
    return Estimate(mean, *wilson(share, trials), n)


def interval(point: float, samples: np.ndarray, n: int) -> Estimate:
    """An estimate from its resampled values; resamples that held no such probe are left out."""
    samples = samples[~np.isnan(samples)]
    if not len(samples) or n < FEWEST:
        return Estimate(float(point), math.nan, math.nan, n)
    low, high = np.percentile(samples, BOUNDS)
    return Estimate(float(point), float(low), float(high), n)
