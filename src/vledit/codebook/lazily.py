"""A large codebook file whose entries are read on demand: see `shelf`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping

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
        gone: orders of entries on the shelf that are not active.
    """

    def __init__(self, store: Store, shelf: Shelf):
        self.store, self.shelf = store, shelf
        self.fresh = [placed for some in store.each(shelf.head.last) for placed in some]
        self._facts = FactIndex(entry for _, entry in self.fresh)
        self._kept: OrderedDict[str, tuple[int, Entry]] = OrderedDict()
        self.gone = set(store.inactive(shelf.head.last))

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

    def get(self, id: str) -> tuple[int, Entry]:
        """(order, entry).  Raises: UnknownNameError."""
        return self.placed(id) or self.store.get(id)

    def family(self, *ids: str) -> dict[str, Entry]:
        """Every entry whose status depends on one of these, and all on which theirs depends; oldest first.

        Raises: UnknownNameError.
        """
        found: dict[int, Entry] = {}
        left = []
        for id in ids:
            order, entry = self.get(id)
            found[order] = entry
            left.append(id)
            while (up := self.placed(entry.retired_by or "")) is not None and up[0] not in found:
                order, entry = up
                found[order] = entry
        while left:
            for order, entry in self.store.find("retired_by", left.pop()):
                if order not in found:
                    found[order] = self.get(entry.id)[1]
                    left.append(entry.id)
        return {entry.id: entry for _, entry in sorted(found.items())}

    def changed(self, entries: Iterable[Entry]) -> None:
        """Takes in entries whose status was written."""
        new = {entry.id: entry for entry in entries}
        for id, entry in new.items():
            self._kept[id] = (self.get(id)[0], entry)
        if any(entry.id in new for _, entry in self.fresh):
            self.fresh = [(order, new.get(entry.id, entry)) for order, entry in self.fresh]

    def alike(self, fact: Fact) -> list[Entry]:
        """Active entries that may hold the same fact, oldest first."""
        ids = [*map(self.store.id_of, self.shelf.asked(fact)), *self._facts.candidates(fact)]
        found = [self.placed(id) for id in dict.fromkeys(ids)]
        return [one[1] for one in found if one is not None and one[1].status == "active"]

    def replaced(self, id: str) -> tuple[str, ...]:
        """Ids of the entries whose place an entry took."""
        return tuple(entry.id for _, entry in self.store.find("retired_by", id))

    def continued(self, id: str) -> str | None:
        """Id of the oldest entry, not removed, whose change started from that of `id`; None where there is none."""
        shelved = [self.get(self.store.id_of(order))[1] for order in self.shelf.continued(id)]
        found = [*shelved, *(entry for _, entry in self.fresh)]
        return next((one.id for one in found if one.parent == id and one.status != "removed"), None)

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
        order = lambda id: self.get(id)[0]  # noqa: E731
        index = ShelvedIndex(dict(self.shelf.arrays), self.shelf.sketch, self.gone, self.store.id_of, order)
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
        if found is None or found[0] in self._lazily.gone or found[0] > self._lazily.shelf.head.last:
            raise KeyError(id)
        return found[1], found[0]

    def __setitem__(self, id: str, placed: tuple[Entry, int]) -> None:
        if placed[1] > self._lazily.shelf.head.last:
            self._new[id] = placed
        elif placed[1] in self._lazily.gone:
            self._lazily.gone.discard(placed[1])
            self._count += 1

    def pop(self, id: str) -> tuple[Entry, int]:
        """Takes an entry out and returns it."""
        placed = self[id]
        if self._new.pop(id, None) is None:
            self._lazily.gone.add(placed[1])
            self._count -= 1
        return placed

    def __len__(self) -> int:
        return self._count + len(self._new)

    def __iter__(self) -> Iterator[str]:
        store, shelf, gone = self._lazily.store, self._lazily.shelf, self._lazily.gone
        yield from (store.id_of(int(order)) for order in shelf.arrays["ranks"] if int(order) not in gone)
        yield from self._new
