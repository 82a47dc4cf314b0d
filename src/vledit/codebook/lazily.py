"""A large codebook file whose entries are read on demand: see `shelf`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping

from .entry import Entry
from .facts import FactIndex
from .index import ShelvedIndex
from .relation import Fact
from .router import Query, Router
from .shelf import Shelf, extend, group_of
from .store import Store

KEPT = 4096
"""Entries that stay in memory once they were read."""
FRESH = 4096
"""From so many entries on that came since, the shelf is extended when the file is closed."""


class Lazily:
    """Entries of a file by id and by fact, without reading the others.

    Attributes:
        fresh: (order, entry) of entries that came since the shelf was written.
    """

    def __init__(self, store: Store, shelf: Shelf):
        self.store, self.shelf = store, shelf
        self.fresh = [placed for some in store.each(shelf.head.last) for placed in some]
        self._facts = FactIndex(entry for _, entry in self.fresh)
        self._kept: OrderedDict[str, tuple[int, Entry]] = OrderedDict()
        self.gone = store.inactive(shelf.head.last)

    def __contains__(self, id: str) -> bool:
        return self.placed(id) is not None

    def placed(self, id: str) -> tuple[int, Entry] | None:
        """(order, entry); None where there is none."""
        if id not in self._kept:
            found = self.store.find("id", id)
            if not found:
                return None
            self._kept[id] = found[0]
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(id)
        return self._kept[id]

    def alike(self, fact: Fact) -> list[Entry]:
        """Active entries that may hold the same fact, oldest first."""
        ids = [*map(self.store.id_of, self.shelf.asked(fact)), *self._facts.candidates(fact)]
        found = [self.placed(id) for id in dict.fromkeys(ids)]
        return [one[1] for one in found if one is not None and one[1].status == "active"]

    def replaced(self, id: str) -> tuple[str, ...]:
        """Ids of the entries whose place an entry took."""
        return tuple(entry.id for _, entry in self.store.find("retired_by", id))

    def added(self, order: int, entry: Entry) -> None:
        """Takes in an entry that was written."""
        self.fresh.append((order, entry))
        self._facts.add(entry)

    def fits(self, entry: Entry) -> bool:
        """Whether an entry can be compared with those on the shelf."""
        return group_of(entry) == self.shelf.head.group and len(entry.scopes) == 1

    def close(self) -> None:
        """Closes the shelf, extended by what came since where that is much."""
        self.shelf.close()
        if len(self.fresh) >= FRESH and not self.store.readonly:
            extend(self.store, self.shelf, self.fresh)

    def router(self, compete: str) -> Router:
        """Routes over all active entries."""
        head, made = self.shelf.head, Router(compete=compete)
        site, scope, prompt, tokens, distance = head.group[:5]
        query = Query((head.group[5:] or (site,))[0], scope, prompt, tokens)
        index = ShelvedIndex(dict(self.shelf.arrays), self.shelf.sketch, self.gone, self.store.id_of)
        made._entries = _Entries(self, len(index))  # type: ignore[assignment]
        made._groups[query, distance], made._limits[query, distance] = index, float("inf")
        made._widths[query], made._sites[site] = (head.width, len(index)), len(index)
        made._next = head.last + 1
        for order, entry in self.fresh:
            if entry.status == "active":
                made.add(entry, order)
        return made


class _Entries(Mapping[str, tuple[Entry, int]]):
    """The router's entries with their orders; those that are not active are not in it."""

    def __init__(self, lazily: Lazily, count: int):
        self._lazily, self._count = lazily, count
        self._new: dict[str, tuple[Entry, int]] = {}

    def __getitem__(self, id: str) -> tuple[Entry, int]:
        if id in self._new:
            return self._new[id]
        found = self._lazily.placed(id)
        if found is None or found[1].status != "active" or found[0] > self._lazily.shelf.head.last:
            raise KeyError(id)
        return found[1], found[0]

    def __setitem__(self, id: str, placed: tuple[Entry, int]) -> None:
        self._new[id] = placed

    def __len__(self) -> int:
        return self._count + len(self._new)

    def __iter__(self) -> Iterator[str]:
        store, shelf = self._lazily.store, self._lazily.shelf
        gone = set(self._lazily.gone)
        yield from (store.id_of(int(order)) for order in shelf.arrays["ranks"] if int(order) not in gone)
        yield from self._new
