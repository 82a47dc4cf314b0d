"""The outcome of one probe, as a record from which every metric can be recomputed without a model (docs/results_format.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

SCHEMA = 2


@dataclass(frozen=True)
class Outcome:
    """One probe of one case under one editor.

    `new`: the greedy answer is the edit's new answer (for portability: the probe's own), end included.  `same`: it is what
    the base answered.  `*_token`: share of that answer's tokens predicted under teacher forcing.

    Args:
        case, editor: ids.
        family: "reliability", "generality", "locality" or "portability".
        cell, index: which probe of the case.
        base_new, base_new_token: before the edit; NaN where it was not run.
        changed_new, changed_same, changed_new_token, changed_same_token: with the edit acting; None and NaN where no metric
            of this family asks for it.
        distance: of the request to the nearest entry's first key; NaN for editors without a scope.
        radius: of that entry, NaN likewise.
        fired: whether the edit acts on this request.
        entry: id of the nearest entry.
        base_answer: what the base answered; empty where it was not asked.
        tags: of the probe.
        changed_top10: share of equal places among the ten likeliest tokens before and after, over the base's answer.
        readings: (scope, distance, radius) of every scope, for entries that have several.
        question, image, target: what was asked (image: content key) and the answer that counts as new.
        answer: the edited model's free text, where it was generated.
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
    changed_top10: float = math.nan
    readings: tuple[tuple[str, float, float], ...] = ()
    question: str = ""
    image: str | None = None
    target: str = ""
    answer: str = ""

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

    @property
    def top10(self) -> float:
        return self.changed_top10 if self.fired else 1.0

    @property
    def shown_answer(self) -> str:
        """What the edited model says, as far as it is known; empty where it is not."""
        if self.answer:
            return self.answer
        if self.new:
            return self.target
        return self.base_answer if not self.fired or self.changed_same else ""

    def with_radius(self, radius: float) -> Outcome:
        """The same probe had the entry another radius (entries with one scope only)."""
        return replace(self, radius=radius, fired=bool(self.distance <= radius))


DECIDED = (
    "fired",
    "changed_new",
    "changed_same",
    "changed_new_token",
    "changed_same_token",
    "changed_top10",
    "entry",
    "distance",
    "radius",
    "readings",
    "answer",
)
"""What an edit decides; all else is the probe's, and stands in the case's `base` line."""

_NUMBERS = ("distance", "radius", "base_new_token", "changed_new_token", "changed_same_token", "changed_top10")
_DEFAULTS = {"readings": (), "answer": ""}
_FIELDS = {field.name for field in fields(Outcome)}


def decided(outcome: Outcome) -> dict[str, Any]:
    """What of an outcome is written into a record."""
    whole = asdict(outcome)
    return {name: plain(whole[name]) for name in DECIDED if whole[name] != _DEFAULTS.get(name, ...)}


def joined(record: Mapping[str, Any], probe: Mapping[str, Any], case: str, variant: str) -> Outcome:
    """An outcome from a record's part and its probe; a record of schema 1 holds all by itself (`probe` empty)."""
    # a probe's "answer" is the data set's; an outcome's is the edited model's, left out where it was not generated
    whole = {**probe, "answer": "", "case": case, "editor": variant, **record}
    whole = {name: value for name, value in whole.items() if name in _FIELDS}
    for name in _NUMBERS:
        if whole.get(name, 0.0) is None:
            whole[name] = math.nan
    whole["base_answer"] = whole.get("base_answer") or ""
    whole["readings"] = tuple((name, _number(gap), _number(reach)) for name, gap, reach in whole.get("readings", ()))
    return Outcome(**whole)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def plain(value: Any) -> Any:
    """`value` with NaN and infinities as None, for JSON."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
