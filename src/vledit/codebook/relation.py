"""How a new fact relates to the contents of the codebook: which entries it replaces, and which it lies close to.

By default two facts are the same if the same was asked: the same picture (or none in both) and the same question, or a wording
that was supplied as equivalent.  The rule of BalancEdit, Sec. 3.2 and 4.5, uses the distance of the keys; it is
the setting `same_fact="distance"`.  Its mean key hardly depends on the question, so different facts about one picture, or
in similar words, retire each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import InputError, UnknownNameError
from .entry import Entry
from .router import Queries, Reading, Router

SAME_FACT = ("record", "distance")


@dataclass(frozen=True)
class Relation:
    """What to do with a new fact.

    Args:
        kind: "new" (outside every radius) | "overlap" (inside an entry's radius; both stay, the nearer one acts) |
            "conflict" (the same fact with another answer: the new one takes the old one's place) | "same" (the same fact with
            the same answer: nothing changes) | "revert" (the base gives this answer: the old entry retires, and none is
            needed in its place).
        inside: id of the entry that would answer the request without the new edit, once `retires` are retired; None: the base.
        retires: ids of the entries in conflict, nearest first.
        explanation: one line for a person.
        same: id of the entry that holds this fact with this answer already, where `kind` is "same".
    """

    kind: str
    inside: str | None
    retires: tuple[str, ...]
    explanation: str
    same: str | None = None

    def reverted(self) -> Relation:
        """This conflict where the base itself gives the new answer: the old entries retire, and none is needed."""
        listed = _listed(self.retires)
        return Relation(
            "revert", None, self.retires, f"The base gives this answer: {listed} retired, no edit is needed. " + BACK
        )


BACK = "`restore` brings a retired entry back."


@dataclass(frozen=True)
class Fact:
    """What was asked and what is to be answered; `image_key`: content hash of the picture, None without one."""

    question: str
    answer: str
    image_key: str | None = None
    rephrases: tuple[str, ...] = ()

    @classmethod
    def of(cls, entry: Entry) -> Fact:
        return cls(entry.question, entry.answer, entry.image_key, tuple(entry.notes.get("rephrases", ())))

    def asks_as(self, other: Fact) -> bool:
        """Whether both ask the same about the same picture; wordings count that were supplied as meaning the same."""
        if self.image_key != other.image_key:
            return False
        mine, theirs = plain(self.question), plain(other.question)
        return mine == theirs or mine in map(plain, other.rephrases) or theirs in map(plain, self.rephrases)

    def answers_as(self, other: Fact) -> bool:
        """Whether the answers are the same, without regard to case and spacing."""
        return plain(self.answer) == plain(other.answer)


def relate(
    router: Router,
    entries: Iterable[Entry],
    key: Queries,
    fact: Fact,
    d_positive: float | Mapping[str, float] = 0.0,
    *,
    site: str | None = None,
    same_fact: str = "record",
) -> Relation:
    """Relate a new fact to active entries; arguments as `Codebook.relation`, with `entries` those in the router."""
    if same_fact not in SAME_FACT:
        raise UnknownNameError("same_fact", same_fact, SAME_FACT)
    before = router.decide(key, site=site)
    if len(before) != 1:
        raise InputError(f"key: one fact at a time is expected, not {len(before)} rows.")
    entries = list(entries)
    if (held := holding(entries, fact)) is not None:
        return held
    conflicts: list[tuple[float, str]] = []
    for entry in entries:
        known = Fact.of(entry)
        on_record = known.asks_as(fact)
        comparable = site is None or entry.key_site == site
        if known.answers_as(fact) or not (on_record or (same_fact == "distance" and comparable)):
            continue
        readings = router.readings(key, entry.id, site=site)[0] if comparable else ()
        inside = bool(readings) and all(reading.inside for reading in readings)
        if on_record or (inside and _within_positive(entry, readings, d_positive)):
            conflicts.append((readings[0].ratio if readings else 0.0, entry.id))
    retires = tuple(id for _, id in sorted(conflicts))
    after = router.decide(key, site=site, exclude=retires)[0]
    if retires:
        return conflict(retires, after.entry)
    if after.fired:
        return Relation("overlap", after.entry, (), f"Lives beside '{after.entry}'. {after.explanation}")
    return Relation("new", None, (), f"Nothing is near. {after.explanation}")


def conflict(retires: tuple[str, ...], inside: str | None) -> Relation:
    """The relation of a fact that takes the place of others."""
    text = f"The same fact as {_listed(retires)} with another answer, which is retired. " + BACK
    return Relation("conflict", inside, retires, text)


def holding(entries: Iterable[Entry], fact: Fact) -> Relation | None:
    """The relation "same" where one of these entries gives this answer to this question already."""
    for entry in entries:
        known = Fact.of(entry)
        if known.asks_as(fact) and known.answers_as(fact):
            text = f"Entry '{entry.id}' gives this answer to this question already: nothing changes."
            return Relation("same", entry.id, (), text, same=entry.id)
    return None


def related_by_record(entries: Iterable[Entry], fact: Fact) -> Relation:
    """As `relate` by what was asked alone, without keys: "same", "conflict", or "new" for everything else."""
    entries = list(entries)
    if (held := holding(entries, fact)) is not None:
        return held
    retires = tuple(entry.id for entry in entries if Fact.of(entry).asks_as(fact))
    return conflict(retires, None) if retires else Relation("new", None, (), "Nobody has asked this.")


def _within_positive(entry: Entry, readings: Iterable[Reading], d_positive: float | Mapping[str, float]) -> bool:
    """Whether every distance is at most the larger of the two facts' distances to their own rephrasing."""
    for scope, reading in zip(entry.scopes, readings, strict=True):
        own = d_positive.get(scope.name, 0.0) if isinstance(d_positive, Mapping) else d_positive
        theirs = 0.0 if scope.anchors is None else scope.anchors.d_positive
        if reading.distance > max(own, theirs):
            return False
    return True


def plain(text: str) -> str:
    """The text without regard to case and spacing."""
    return " ".join(text.casefold().split())


def _listed(ids: Iterable[str]) -> str:
    return ", ".join(f"'{id}'" for id in ids)
