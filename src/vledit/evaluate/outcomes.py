"""What one probe gave, as a record from which every metric can be recomputed without a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class Outcome:
    """One probe of one case under one editor.

    `new`: the greedy answer is the edit's new answer (for portability: the probe's own), end included.  `same`: it is what
    the base answered.  `*_token`: share of that answer's tokens predicted under teacher forcing.

    Args:
        case, editor: ids.
        family: "reliability", "generality", "locality" or "portability".
        cell, index: which probe of the case.
        base_new, base_new_token: before the edit.
        changed_new, changed_same, changed_new_token, changed_same_token: with the edit's transformation acting; None and
            NaN where no metric of this family asks for it.
        distance: of the request to the nearest entry's key; NaN for editors without a scope.
        radius: of that entry, NaN likewise.
        fired: whether the transformation acts on this request.
        entry: id of the nearest entry.
        base_answer: what the base answered; empty where it was not asked.
        tags: of the probe.
    """

    case: str
    editor: str
    family: str
    cell: str
    index: int
    base_new: bool
    base_new_token: float
    changed_new: bool
    changed_same: bool | None
    changed_new_token: float
    changed_same_token: float
    distance: float
    radius: float
    fired: bool
    entry: str = ""
    base_answer: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def new(self) -> bool:
        """The edited model gives the new answer."""
        return self.changed_new if self.fired else self.base_new

    @property
    def same(self) -> bool:
        """The edited model answers as the base did; a request that does not fire is answered by the base itself."""
        if not self.fired:
            return True
        if self.changed_same is None:
            raise ValueError(f"{self.family}/{self.cell}: the base's answer was not asked for in this family")
        return self.changed_same

    @property
    def new_token(self) -> float:
        return self.changed_new_token if self.fired else self.base_new_token

    @property
    def same_token(self) -> float:
        return self.changed_same_token if self.fired else 1.0

    def with_radius(self, radius: float) -> Outcome:
        """The same probe had the entry another radius."""
        return replace(self, radius=radius, fired=bool(self.distance <= radius))


def plain(value: Any) -> Any:
    """`value` with NaN and infinities as None, for JSON."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
