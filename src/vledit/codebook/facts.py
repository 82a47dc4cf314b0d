"""Which active entries may hold the same fact: found by picture and wording, without looking at every entry."""

from __future__ import annotations

from collections.abc import Iterable

from .entry import Entry
from .relation import Fact, plain


class FactIndex:
    """Ids of entries under every wording of their question, for each picture."""

    def __init__(self, entries: Iterable[Entry] = ()):
        self._ids: dict[tuple[str | None, str], dict[str, None]] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        for place in places(Fact.of(entry)):
            self._ids.setdefault(place, {})[entry.id] = None

    def discard(self, entry: Entry) -> None:
        for place in places(Fact.of(entry)):
            ids = self._ids.get(place, {})
            ids.pop(entry.id, None)
            if not ids:
                self._ids.pop(place, None)

    def candidates(self, fact: Fact) -> list[str]:
        """Ids of all entries that may ask the same as `fact` (`Fact.asks_as` says whether they do)."""
        return list(dict.fromkeys(id for place in places(fact) for id in self._ids.get(place, ())))


def places(fact: Fact) -> list[tuple[str | None, str]]:
    """Picture and wording under which a fact is found."""
    return list(dict.fromkeys((fact.image_key, plain(text)) for text in (fact.question, *fact.rephrases)))
