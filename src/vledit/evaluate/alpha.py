"""α: the curve from 0 to 1 (Fig. 5, Table 10), and its choice per model on 5 held-out samples (Sec. 4.3).

For every probe the stored outcomes contain its distance from the key and what the transformation would do to it. So any
radius can be evaluated afterwards: the curve needs no model run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from .metrics import HARMONIC as HARMONIC
from .metrics import Estimate, at_alpha, by_edit, estimates, harmonic_mean
from .outcomes import Outcome

GRID = tuple(round(0.05 * i, 2) for i in range(21))


def anchors_of(records: Sequence[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Case id → (d(pos, k), d(neg, k)) of the single-edit records of one variant whose radius is made of them by an α."""
    return {
        r["case"]: (r["edit"]["d_positive"], r["edit"]["d_negative"])
        for r in records
        if r.get("edit") and "d_positive" in r["edit"] and r["edit"].get("alpha") is not None
    }


def _with_radius(records: Sequence[dict[str, Any]]) -> tuple[dict[str, tuple[float, float]], list[Outcome]]:
    anchors = anchors_of(records)
    outcomes = [o for r in records if r["case"] in anchors for o in r["outcomes"]]
    if not outcomes:
        raise InputError("records: none has a radius that an α made; α needs single edits by BalancEdit's own scope.")
    return anchors, outcomes


def curve(records: Sequence[dict[str, Any]], grid: Sequence[float] = GRID) -> dict[float, dict[str, Estimate]]:
    """α → metrics with intervals, from the single-edit records of one BalancEdit variant."""
    anchors, outcomes = _with_radius(records)
    return {alpha: estimates(at_alpha(outcomes, anchors, alpha)) for alpha in grid}


def choose(records: Sequence[dict[str, Any]], grid: Sequence[float] = GRID) -> tuple[float, dict[float, float]]:
    """The α of highest HM (the middle one of equals), and HM by α."""
    anchors, outcomes = _with_radius(records)
    found = {}
    for alpha in grid:
        table = by_edit(at_alpha(outcomes, anchors, alpha))
        found[alpha] = harmonic_mean([float(np.mean(list(table[name].values()))) for name in HARMONIC])
    best = [a for a, value in found.items() if value >= max(found.values()) - 1e-9]
    return best[len(best) // 2], found
