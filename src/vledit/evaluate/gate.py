"""A gate: thresholds that an edited model has to keep, as a YAML file that lives beside somebody's own tests.

reliability: 0.99                   # the mean, at least
near_image_preserved:
  mean: 0.95                        # the mean, at least
  low: 0.90                         # the lower end of its 95 % interval, at least
seconds_per_edit: {mean_at_most: 5}
failed_edits: {mean_at_most: 0}
variants:                           # only for these, on top of the above
  "ft": {text_preserved: 0.5}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, MissingDataError, UnknownNameError
from .bootstrap import Estimate
from .metrics import METRICS, Record, by_variant, last, table

BOUNDS = ("mean", "low", "mean_at_most", "high_at_most")
FAILED = "failed_edits"
"""Edits that could not be made or scored: a number, not a share."""
VARIANTS = "variants"


@dataclass(frozen=True)
class Threshold:
    """`bound` "mean" or "low": the value is the least allowed; "mean_at_most", "high_at_most": the most."""

    metric: str
    bound: str
    value: float

    def holds(self, estimate: Estimate) -> bool:
        """Whether the estimate keeps it; one that is not a number keeps nothing."""
        found = self.found(estimate)
        return found <= self.value if self.bound.endswith("at_most") else found >= self.value

    def found(self, estimate: Estimate) -> float:
        """The figure that is compared."""
        return float(getattr(estimate, self.bound.removesuffix("_at_most")))


@dataclass(frozen=True)
class Verdict:
    """One threshold on one variant. `found`: the figure; NaN where the run has no such metric."""

    variant: str
    threshold: Threshold
    found: float
    holds: bool

    def as_record(self) -> dict[str, Any]:
        """For JSON."""
        return {"variant": self.variant, **vars(self.threshold), "found": self.found, "holds": self.holds}

    def __str__(self) -> str:
        side = "at most" if self.threshold.bound.endswith("at_most") else "at least"
        what = {"mean": "", "mean_at_most": "", "low": " (lower end)", "high_at_most": " (upper end)"}[
            self.threshold.bound
        ]
        shown = "there is none" if math.isnan(self.found) else f"{self.found:.4g}"
        return f"{self.variant}: {self.threshold.metric}{what} {shown}, {side} {self.threshold.value:.4g} wanted"


def read_thresholds(path: Path) -> dict[str | None, list[Threshold]]:
    """Variant name (None: every variant) → thresholds.

    Raises: MissingDataError, InputError for what is no such file.  Metric names are checked by `judge`, which knows the cells.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingDataError(f"gate: there is no file '{path}'.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"gate: '{path}' is not readable YAML ({error}).") from None
    if not isinstance(content, dict) or not content:
        raise InputError(f"gate: '{path}' holds no thresholds; a line is like `reliability: 0.99`.")
    of_variants = content.pop(VARIANTS, None) or {}
    if not isinstance(of_variants, dict) or not all(isinstance(one, dict) for one in of_variants.values()):
        raise InputError(f"gate: '{VARIANTS}' in '{path}' has to map a variant's name to its thresholds.")
    found: dict[str | None, list[Threshold]] = {None: _thresholds(content)}
    for variant, one in of_variants.items():
        found[str(variant)] = _thresholds(one)
    return found


def _thresholds(content: Mapping[Any, Any]) -> list[Threshold]:
    found = []
    for metric, wanted in content.items():
        bounds = wanted if isinstance(wanted, dict) else {"mean": wanted}
        for bound, value in bounds.items():
            if bound not in BOUNDS:
                raise UnknownNameError(f"bound of '{metric}'", str(bound), BOUNDS)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"gate: {metric}.{bound} is {value!r}; a number is expected (shares from 0 to 1).")
            found.append(Threshold(str(metric), bound, float(value)))
    return found


def judge(records: Sequence[Record], thresholds: Mapping[str | None, Sequence[Threshold]]) -> list[Verdict]:
    """Every threshold on every variant it is for.

    Raises: UnknownNameError for a metric or variant that there is not, suggesting the near miss.
    """
    groups = dict(by_variant(last(records)))
    tables = {name: estimates_of(some) for name, some in groups.items()}
    known = {FAILED, "HM", *(metric.name for metric in METRICS), *(m for t in tables.values() for m in t)}
    for variant, wanted in thresholds.items():
        if variant is not None and variant not in groups:
            raise UnknownNameError("variant", variant, groups)
        for threshold in wanted:
            if threshold.metric not in known:
                raise UnknownNameError("metric", threshold.metric, known)
    verdicts = []
    for name, found in tables.items():
        for threshold in (*thresholds.get(None, ()), *thresholds.get(name, ())):
            estimate = found.get(threshold.metric, Estimate(math.nan, math.nan, math.nan, 0))
            verdicts.append(Verdict(name, threshold, threshold.found(estimate), threshold.holds(estimate)))
    return verdicts


def estimates_of(records: Sequence[Record]) -> dict[str, Estimate]:
    """`metrics.table` of one variant, and how many of its edits failed."""
    failed = float(sum(bool(record["error"]) for record in records))
    return {**table(records), FAILED: Estimate(failed, failed, failed, len(records))}
