"""What a codebook holds, in memory and in its file, and how a change is written to both.

A change is prepared as a `Draft`, written to the file in one transaction, and then applied in memory.  The kinds of change are
in `book`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self

from ..errors import CodebookError
from . import shelf as shelves
from .draft import Draft, find, settle
from .entry import Entry, now
from .facts import FactIndex
from .lazily import Lazily
from .reading import Event
from .relation import Fact
from .router import Router
from .store import Store


class Contents:
    """The entries of a codebook, their order, its history, and the file behind them if there is one.

    Args: see `Codebook`.
    """

    def __init__(self, fingerprint: str, model_name: str, compete: str):
        self.fingerprint = fingerprint
        self.model_name = model_name
        self.router = Router(compete=compete)
        self._lazily: Lazily | None = None
        self._all: dict[str, Entry] = {}
        self._orders: dict[str, int] = {}
        self._last = 0
        self._open = False
        self._later: list[Callable[[], None]] = []
        self._facts = FactIndex()
        self._replaced: dict[str, tuple[str, ...]] = {}
        self._events: list[Event] = []
        self._store: Store | None = None
        self._lock = threading.RLock()

    @property
    def _entries(self) -> dict[str, Entry]:
        """All entries; of a large file that was opened at once, they are read now."""
        if self._lazily is not None:
            self._load(whole=True)
        return self._all

    @_entries.setter
    def _entries(self, entries: dict[str, Entry]) -> None:
        self._all = entries

    def has(self, id: str) -> bool:
        """Whether there is an entry of this id, whatever its status."""
        return id in (self._all if self._lazily is None else self._lazily)

    @property
    def path(self) -> Path | None:
        """The file, or None in memory."""
        return None if self._store is None else self._store.path

    @property
    def readonly(self) -> bool:
        """Whether changes are refused."""
        return self._store is not None and self._store.readonly

    def close(self) -> None:
        """Close the file; nothing to do in memory."""
        if self._lazily is not None:
            self._lazily.close()
            self._lazily = None
        if self._store is not None:
            self._store.close()

    def get(self, id: str) -> Entry:
        """Return the entry, whatever its status.  Raises: UnknownNameError."""
        return find(self._all, id) if self._lazily is None else self._lazily.get(id)[1]

    def entries(self) -> list[Entry]:
        """Return all entries, also retired and removed ones, oldest first."""
        return list(self._entries.values())

    def active(self) -> list[Entry]:
        """Return the entries that requests are routed to, oldest first."""
        return [entry for entry in self._entries.values() if entry.status == "active"]

    def history(self, id: str | None = None) -> list[Event]:
        """Return what was done, oldest first; with `id` only what was done to that entry."""
        if self._lazily is not None:
            return self._lazily.store.events(id)
        return [event for event in self._events if id is None or event.entry == id]

    def _alike(self, fact: Fact) -> list[Entry]:
        """Active entries that may hold the same fact."""
        if self._lazily is not None:
            return self._lazily.alike(fact)
        return [self._entries[id] for id in self._facts.candidates(fact)]

    def refresh(self) -> bool:
        """Read what other processes wrote to the file; return whether there was anything."""
        with self._lock:
            if self._store is None or not self._store.changed():
                return False
            self._load()
            return True

    @contextlib.contextmanager
    def batch(self) -> Iterator[Self]:
        """Within the block all changes are one transaction: a file is written once, at the end, or not at all.

        After an error the codebook is as the file was.  In memory every change takes effect at once.
        """
        with self._lock:
            if self._store is None or self._open:
                yield self
                return
            try:
                with self._store.transaction():
                    if self._store.changed():
                        self._load()
                    self._open = True
                    yield self
            except BaseException:
                self._load()
                raise
            finally:
                self._open = False

    def _append(self, entry: Entry) -> Entry:
        """Write one more entry, which changes no other: the thousandth costs what the first did."""
        if self._lazily is not None and not self._lazily.fits(entry):
            self._load(whole=True)
        self.router.check(entry)
        order, held = self._last + 1, entry
        event = Event(now(), "added", entry.id, entry.title())
        if self._store is not None:
            order, held = self._store.insert(entry)
            self._store.log([event])
        self._later.append(lambda: self._appended(order, held, event))
        return held

    def _appended(self, order: int, entry: Entry, event: Event) -> None:
        if self._lazily is not None:
            self._lazily.added(order, entry)
            self._last = order
            self.router.add(entry, order)
            return
        self._entries[entry.id] = entry
        self._orders[entry.id] = self._last = order
        self._events.append(event)
        self._facts.add(entry)
        self.router.add(entry, order)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Within the block the file is written to, as it is then; memory changes when that is done, or nothing does."""
        with self._lock:
            self._later = []
            with contextlib.nullcontext() if self._store is None or self._open else self._store.transaction():
                if self._store is not None and not self._open and self._store.changed():
                    self._load()
                yield
            for change in self._later:
                change()

    @contextlib.contextmanager
    def _draft(self, action: str, id: str, detail: str = "", *others: str) -> Iterator[Draft]:
        """Write what the block makes of the draft, then take it over; on any error nothing has changed.

        The draft holds at least the entries that a change of `id`, or of `others`, concerns.
        """
        with self._writing():
            draft = Draft(self._family(id, *others), action, id, detail)
            yield draft
            self._finish(draft)

    def _family(self, *ids: str) -> dict[str, Entry]:
        """Entries that a change of these concerns: of a large file only those, else all."""
        return dict(self._all) if self._lazily is None else self._lazily.family(*ids)

    def _continued(self, id: str) -> str | None:
        """An entry, not removed, whose change started from that of `id`."""
        if self._lazily is not None:
            return self._lazily.continued(id)
        return next((one.id for one in self._all.values() if one.parent == id and one.status != "removed"), None)

    def _finish(self, draft: Draft) -> None:
        changed = settle(draft)
        for entry in changed if draft.added is None else [*changed, draft.added]:
            if entry.status == "active" and entry.id not in self.router:
                self.router.check(entry)
        order = self._write(draft, changed)
        self._later.append(lambda: self._adopt(draft, changed, order))

    def _write(self, draft: Draft, changed: Iterable[Entry]) -> int:
        """Write the draft to the file, if there is one; returns the order of the entry that was added."""
        order = self._last + 1
        if self._store is None:
            return order
        if draft.added is not None:
            order, draft.entries[draft.id] = self._store.insert(draft.added)
        for entry in changed:
            self._store.set_status(entry)
        if draft.purged:
            self._store.delete(draft.id)
        self._store.log(draft.events)
        return order

    def _adopt(self, draft: Draft, changed: Iterable[Entry], order: int) -> None:
        if self._lazily is not None:
            self._adopt_lazily(self._lazily, draft, changed, order)
            return
        if draft.added is not None:
            self._orders[draft.id] = self._last = order
        if draft.purged:
            del self._orders[draft.id]
            if draft.id in self.router:
                self.router.remove(draft.id)
        self._entries = draft.entries
        self._events.extend(draft.events)
        for entry in changed:
            if entry.id in self.router:
                self.router.remove(entry.id)
        fresh = [] if draft.added is None else [draft.entries[draft.id]]
        for entry in [*changed, *fresh]:
            if entry.status == "active":
                self.router.add(entry, self._orders[entry.id])
        self._look_up()

    def _adopt_lazily(self, lazily: Lazily, draft: Draft, changed: Iterable[Entry], order: int) -> None:
        if draft.purged:  # what lies beside the file does not fit it any more
            self._load(whole=True)
            return
        for entry in changed:
            if entry.id in self.router:
                self.router.remove(entry.id)
        lazily.changed(changed)
        for entry in changed:
            if entry.status == "active":
                self.router.add(entry, lazily.get(entry.id)[0])
        if draft.added is not None:
            lazily.added(order, draft.entries[draft.id])
            self._last = order
            self.router.add(draft.entries[draft.id], order)

    def _look_up(self) -> None:
        """Make anew what is looked up: facts of active entries, and who took whose place."""
        self._facts = FactIndex(self.active())
        replaced: dict[str, list[str]] = {}
        for entry in self._entries.values():
            if entry.retired_by is not None:
                replaced.setdefault(entry.retired_by, []).append(entry.id)
        self._replaced = {by: tuple(ids) for by, ids in replaced.items()}

    def _load(self, whole: bool = False) -> None:
        """Take in what the file holds.

        Args:
            whole: every entry, also of a file large enough to have a shelf; else those that are asked for.
        """
        assert self._store is not None
        if self._lazily is not None:
            self._lazily.shelf.close()
            self._lazily = None
        if not whole and (shelf := self._shelf()) is not None:
            self._all, self._orders, self._events = {}, {}, []
            self._store.seen()
            self._lazily = Lazily(self._store, shelf)
            self.router = self._lazily.router(self.router.compete)
            self._last = max([shelf.head.last, *(order for order, _ in self._lazily.fresh)])
            return
        ordered, self._events = self._store.read()
        self._entries = {entry.id: entry for _, entry in ordered}
        self._orders = {entry.id: order for order, entry in ordered}
        router = Router(compete=self.router.compete)
        for order, entry in ordered:
            if entry.status == "active":
                router.add(entry, order)
        self.router = router
        self._last = max(self._orders.values(), default=0)
        self._look_up()

    def _shelf(self) -> shelves.Shelf | None:
        """What lies beside a large file; made now where it is not there and can be."""
        store = self._store
        assert store is not None
        if (found := shelves.opened(store)) is not None or store.count() < shelves.LARGE:
            return found
        if self.readonly or store.writing:
            return None
        with contextlib.suppress(CodebookError):  # another process writes: it is made another time
            store.ease()
            return shelves.opened(store) if shelves.write(store) else None
        return None
