"""How a new fact relates to what the codebook holds: where its training starts, and what it replaces.

Source: BalancEdit, Sec. 3.2, "Editing Transformations", and Sec. 4.5 (sequential edits).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import InputError, UnknownNameError
from .entry import Entry
from .router import Queries, Reading, Router

SAME_FACT = ("distance", "record")


@dataclass(frozen=True)
class Relation:
    """What to do with a new fact.

    Args:
        kind: "new" (outside every radius: train from the base's weights) | "overlap" (inside an entry's: train from
            that entry's transformation) | "conflict" (the same fact with another answer: retire the old).
        start_from: id of the entry whose transformation training starts from, or None for the base.  After a conflict
            this is what answers once the old ones are retired.
        retires: ids of the entries in conflict, nearest first; pass them to `Codebook.add(entry, retires=...)`.
        explanation: one line for a person.
    """

    kind: str
    start_from: str | None
    retires: tuple[str, ...]
    explanation: str


def relate(
    router: Router,
    entries: Iterable[Entry],
    key: Queries,
    question: str,
    answer: str,
    image_key: str | None,
    d_positive: float | Mapping[str, float],
    *,
    site: str | None = None,
    same_fact: str = "distance",
) -> Relation:
    """Relate a new fact to active entries; arguments as `Codebook.relation`, with `entries` those in the router."""
    if same_fact not in SAME_FACT:
        raise UnknownNameError("same_fact", same_fact, SAME_FACT)
    before = router.decide(key, site=site)
    if len(before) != 1:
        raise InputError(f"key: one fact at a time is wanted, not {len(before)} rows.")
    conflicts: list[tuple[float, str]] = []
    for entry in entries:
        if (site is not None and entry.site != site) or _plain(entry.answer) == _plain(answer):
            continue
        readings = router.readings(key, entry.id, site=site)[0]
        on_record = _plain(entry.question) == _plain(question) and entry.image_key == image_key
        near = same_fact == "distance" and _within_positive(entry, readings, d_positive)
        if all(reading.inside for reading in readings) and (on_record or near):
            conflicts.append((readings[0].ratio, entry.id))
    retires = tuple(id for _, id in sorted(conflicts))
    after = router.decide(key, site=site, exclude=retires)[0]
    if retires:
        listed = ", ".join(f"'{id}'" for id in retires)
        start = f"starts from '{after.entry}'" if after.fired else "starts from the base"
        return Relation("conflict", after.entry, retires, f"The same fact as {listed} with another answer; {start}.")
    if after.fired:
        return Relation("overlap", after.entry, (), f"Starts from '{after.entry}'. {after.explanation}")
    return Relation("new", None, (), f"Starts from the base. {after.explanation}")


def _within_positive(entry: Entry, readings: Iterable[Reading], d_positive: float | Mapping[str, float]) -> bool:
    """Whether every distance is at most the larger of the two facts' distances to their own rephrasing."""
    for scope, reading in zip(entry.scopes, readings, strict=True):
        own = d_positive.get(scope.name, 0.0) if isinstance(d_positive, Mapping) else d_positive
        theirs = 0.0 if scope.anchors is None else scope.anchors.d_positive
        if reading.distance > max(own, theirs):
            return False
    return True


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
