"""The work of a run, divided into tasks that different processes can do, and what of it remains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..data.case import EditCase
from ..errors import InputError, UnknownNameError
from .manifest import Variant
from .protocols import PROTOCOLS
from .results import Key, Results


@dataclass(frozen=True)
class Plan:
    """How edits are scored.

    Args:
        protocol: "single", "sequential" or "batch".
        at: sequential: after which numbers of edits to score; empty: after all of them.
        scored: sequential: of at most how many edits to ask the questions at each point, spread evenly over those made;
            0: of all.  With two hundred edits, asking everything takes far longer than editing.
        batch_size: batch: how many edits are given at once; each batch begins with the base.
        tokens: run the scores by token as well (a second pass for every locality probe).
        texts: of how many cases, spread evenly, to generate the free text.
        seed: for the record; nothing here draws lots.
    """

    protocol: str = "single"
    at: tuple[int, ...] = ()
    batch_size: int = 10
    tokens: bool = True
    texts: int = 0
    seed: int = 0
    scored: int = 0

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise UnknownNameError("protocol", self.protocol, PROTOCOLS)
        if self.at and self.protocol != "sequential":
            raise InputError("at: only the sequential protocol is scored after several numbers of edits.")
        if list(self.at) != sorted(set(self.at)) or any(n < 1 for n in self.at):
            raise InputError(f"at: {', '.join(map(str, self.at))} given; ascending numbers from 1 are expected.")
        if self.scored < 0:
            raise InputError(f"score: {self.scored} given; it must not be negative. 0 scores all edits.")
        if self.scored and self.protocol != "sequential":
            raise InputError("score: only the sequential protocol can score some of its edits; leave it out.")
        if self.batch_size < 1:
            raise InputError(f"batch-size: {self.batch_size} given; at least 1 is needed.")
        if self.texts < 0:
            raise InputError(f"texts: {self.texts} given; it must not be negative.")

    def points(self, count: int) -> tuple[int, ...]:
        """After which numbers of edits is scored, for so many cases.  Raises: InputError where there are too few."""
        if self.protocol != "sequential":
            return (1,) if self.protocol == "single" else (self.batch_size,)
        if self.at and self.at[-1] > count:
            raise InputError(f"at: {self.at[-1]} edits asked for, but there are {count} cases; give a larger --limit.")
        return self.at or (count,)

    def places(self, point: int) -> tuple[int, ...]:
        """Sequential: of the first `point` edits, the places of those that are scored after them, ascending."""
        some = min(self.scored or point, point)
        return tuple((2 * i + 1) * point // (2 * some) for i in range(some))

    def settings(self, count: int) -> dict[str, Any]:
        """Its part of the manifest; None is left out there."""
        return {
            "protocol": self.protocol,
            "at": list(self.points(count)) if self.protocol == "sequential" else None,
            "scored": self.scored or None,
            "batch_size": self.batch_size if self.protocol == "batch" else None,
            "tokens": self.tokens,
            "texts": self.texts,
            "seed": self.seed,
        }

    def with_text(self, count: int) -> set[int]:
        """Which cases the free text is generated of."""
        wanted = min(self.texts, count)
        return {i * count // wanted for i in range(wanted)}


@dataclass(frozen=True)
class Task:
    """A piece of work for one process.

    Args:
        cases: places in the list of cases: one (single), a batch, or all of the sequence.
        variants: names.
        done: keys of records that are there already; bases: ids of cases whose base line is.
        digests: (variant, case) → digest of edits that were made before the run was interrupted.
    """

    cases: tuple[int, ...]
    variants: tuple[str, ...]
    done: frozenset[Key] = frozenset()
    bases: frozenset[str] = frozenset()
    digests: Mapping[tuple[str, str], str] = field(default_factory=dict)


def keys(plan: Plan, cases: Sequence[EditCase], variant: str) -> Iterator[Key]:
    """Every record that a variant's run has."""
    for point in plan.points(len(cases)):
        for case in [cases[place] for place in plan.places(point)] if plan.protocol == "sequential" else cases:
            yield variant, case.id, point


def tasks(plan: Plan, cases: Sequence[EditCase], variants: Sequence[Variant], results: Results) -> list[Task]:
    """What is left to be done."""
    size = {"single": 1, "batch": plan.batch_size, "sequential": max(plan.points(len(cases)))}[plan.protocol]
    found = []
    for start in range(0, len(cases) if plan.protocol != "sequential" else size, size):
        places = tuple(range(start, min(start + size, len(cases))))
        some = [cases[place] for place in places]
        wanted = {v.name: set(keys(plan, some, v.name)) for v in variants}
        left = [name for name, all_keys in wanted.items() if not all_keys <= results.done]
        # a sequence is one variant's; single edits and batches are shared by variants, whose trunks are the same
        for names in [(name,) for name in left] if plan.protocol == "sequential" else [tuple(left)] if left else []:
            own = frozenset(key for name in names for key in wanted[name] if key in results.done)
            ids = {case.id for case in some}
            digests = {key: value for key, value in results.digests.items() if key[0] in names and key[1] in ids}
            found.append(Task(places, names, own, frozenset(ids & results.bases), digests))
    return found
