"""The codebook that a user holds: edits that are added, retired, removed and brought back, in memory or in a file.

Source: BalancEdit, Sec. 3.2, 4.5 (sequential edits), 4.7 (reversal: the base's weights are never touched, so the
behaviour after `remove` is that before `add`, bit for bit).
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..copies import packed_codebook
from ..data.cache import write_atomic
from ..errors import CodebookError, InputError
from ..paths import local, output_file
from . import shelf as shelves
from .draft import Draft, find, retire, settle
from .entry import BY_HAND, Entry, now
from .export import as_json
from .facts import FactIndex
from .lazily import Lazily
from .publish import create, write_whole
from .record import check_dtype
from .relation import Fact, Relation, holding, relate, related_by_record
from .router import Decision, Queries, Router, query_of
from .store import Event, Store


class _Held(Exception):
    """Leaves a draft without writing: the fact is there already, as the entry `id`."""

    def __init__(self, id: str):
        super().__init__(id)
        self.id = id


class Codebook:
    """Edits of one frozen model.

    A codebook made by `Codebook(...)` lives in memory; `save` writes a copy of it.  One from `open` or `create` is its
    file: every change is on disk when the call returns, and transformations are read when they are used.  Iteration,
    `len` and `in` go over active entries; `get`, `entries` and `history` know the others too.

    Args:
        fingerprint: of the model that the edits are for.
        model_name: its name, for messages.
        compete: see `Router`.
    """

    def __init__(self, fingerprint: str = "", model_name: str = "", *, compete: str = "all"):
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

    @classmethod
    def open(
        cls,
        path: str | Path,
        fingerprint: str | None = None,
        model_name: str = "",
        *,
        readonly: bool = False,
        dtype: str | None = None,
        compete: str = "all",
    ) -> Codebook:
        """Open a codebook file.

        Args:
            fingerprint: of the loaded model; None opens whatever model the file is for (to list or export it).
            model_name: of the loaded model, for the message where it is the wrong one.
            readonly: refuse changes; also so where the file cannot be written.
            dtype: what new transformations are stored as, e.g. "bfloat16"; None keeps their bits.
        Raises: ModelMismatchError for another model's file; CodebookError for one that is missing, not a codebook,
            damaged, of a newer schema, or locked; each message says what to do.
        """
        opened = Store(local(path), readonly=readonly, dtype=dtype)
        try:
            if fingerprint is not None:
                opened.require_model(fingerprint, model_name)
            book = cls(opened.fingerprint, opened.model_name, compete=compete)
            book._store = opened
            book._load()
        except BaseException:
            opened.close()
            raise
        return book

    @classmethod
    def create(
        cls, path: str | Path, fingerprint: str, model_name: str = "", *, dtype: str | None = None, compete: str = "all"
    ) -> Codebook:
        """Make an empty codebook file and open it.  Raises: CodebookError where `path` exists or cannot be written."""
        check_dtype(dtype)
        create(local(path), fingerprint, model_name)
        return cls.open(path, fingerprint, model_name, dtype=dtype, compete=compete)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return packed_codebook(self)

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

    @property
    def nbytes(self) -> int:
        """Bytes of all entries, whatever their status: keys, transformations, thumbnails."""
        return sum(entry.nbytes for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self.router)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.active())

    def __contains__(self, id: object) -> bool:
        return id in self.router

    def __enter__(self) -> Codebook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing to do in memory."""
        if self._lazily is not None:
            self._lazily.close()
            self._lazily = None
        if self._store is not None:
            self._store.close()

    def get(self, id: str) -> Entry:
        """Return the entry, whatever its status.  Raises: UnknownNameError."""
        if self._lazily is not None and (placed := self._lazily.placed(id)) is not None:
            return placed[1]
        return find(self._entries, id)

    def entries(self) -> list[Entry]:
        """Return all entries, also retired and removed ones, oldest first."""
        return list(self._entries.values())

    def active(self) -> list[Entry]:
        """Return the entries that requests are routed to, oldest first."""
        return [entry for entry in self._entries.values() if entry.status == "active"]

    def history(self) -> list[Event]:
        """Return what was done, oldest first."""
        if self._lazily is not None:
            self._load(whole=True)
        return list(self._events)

    def free_id(self, stem: str) -> str:
        """Return `stem`, or with -2, -3, ... where an entry of that id exists."""
        number, id = 1, stem
        while self.has(id):
            number += 1
            id = f"{stem}-{number}"
        return id

    def decide(self, queries: Queries, *, site: str | None = None) -> list[Decision]:
        """Route requests; see `Router.decide`."""
        with self._lock:
            return self.router.decide(queries, site=site)

    def relation(
        self,
        key: Queries,
        question: str,
        answer: str,
        image_key: str | None,
        d_positive: float | Mapping[str, float] = 0.0,
        *,
        rephrases: Iterable[str] = (),
        site: str | None = None,
        same_fact: str = "record",
    ) -> Relation:
        """Say how a new fact relates to the active entries; see `Relation`.

        Args:
            key: (H,) of the fact, or a mapping from scope name or `Query` to such, as for `Router.decide`.
            question, answer, image_key, rephrases: the fact. Texts are compared without regard to case and spacing.
            d_positive: the fact's own distance to its positive, or a mapping from scope name to it; for "distance" alone.
            site: consider keys of entries of this site only.
            same_fact: "record": the same picture (or none) and the same question, or a supplied wording of it. "distance",
                the paper's: also an entry whose radius holds the key, which is no further away than the larger of the two
                facts' own positives.
        Source: BalancEdit, Sec. 3.2 and 4.5.
        """
        with self._lock:
            fact = Fact(question, answer, image_key, tuple(rephrases))
            entries = self._alike(fact) if same_fact == "record" else self.active()
            return relate(self.router, entries, key, fact, d_positive, site=site, same_fact=same_fact)

    def holding(self, fact: Fact) -> Relation | None:
        """The relation "same" where an active entry gives this answer to this question already; None where none does."""
        with self._lock:
            return holding(self._alike(fact), fact)

    def replaced_by(self, id: str) -> tuple[str, ...]:
        """Return the ids of the entries whose place the entry `id` took."""
        with self._lock:
            return self._replaced.get(id, ()) if self._lazily is None else self._lazily.replaced(id)

    def _alike(self, fact: Fact) -> list[Entry]:
        """Active entries that may hold the same fact."""
        if self._lazily is not None:
            return self._lazily.alike(fact)
        return [self._entries[id] for id in self._facts.candidates(fact)]

    def hidden_by(self, entry: Entry) -> list[str]:
        """Return the id of the older active entry whose own request `entry` answers instead: their keys are equal.

        Keys count as equal within 1e-5 of their length, since the same prompt in another batch differs by rounding.
        """
        with self._lock:
            if entry.id in self.router and len(self.router) == 1:
                return []
            nearest = self.router.decide(self._queries(entry), site=entry.site, exclude=(entry.id,))[0]
            if nearest.nearest is None or nearest.distance is None:
                return []
            equal = nearest.distance <= 1e-5 * float(np.linalg.norm(entry.key))
            return [nearest.nearest] if equal else []

    def _queries(self, entry: Entry) -> dict[Any, Any]:
        """The entry's own keys as a request that brings them, and nothing where it has no such key."""
        own = {query_of(entry, scope): scope.key for scope in entry.scopes}
        needed = self.router.queries(entry.site)
        return {query: own.get(query, np.full(self.router.width(query), np.nan, np.float32)) for query in needed} or own

    def add(self, entry: Entry, retires: Collection[str] = (), *, same_fact: str | None = None) -> Entry:
        """Add an edit and retire those that it replaces, in one step; returns the entry as it is held.

        Args:
            retires: ids of entries whose place it takes.
            same_fact: decide what it replaces here, by this rule of `relation`, on what the codebook holds at the moment of
                writing (another process may have added entries since the edit was begun). Where the fact is there already
                with the same answer, nothing changes and that entry is returned.

        Raises: InputError where the id is taken, or an entry to retire is not active; CodebookError where the file
            cannot be written: then nothing has changed.
        """
        try:
            with self._writing():
                replaced = list(retires)
                if same_fact is not None:
                    relation = self._relation_of(entry, same_fact)
                    if relation.same is not None:
                        raise _Held(relation.same)
                    replaced += [id for id in relation.retires if id not in replaced]
                if self.has(entry.id):
                    known = self.get(entry.id)
                    raise InputError(
                        f"Entry.id: '{entry.id}' is taken by a {known.status} entry: use another, or purge it."
                    )
                if entry.status != "active":
                    raise InputError(f"Entry.status: a new entry must be active, not {entry.status}.")
                if not replaced and entry.retired_by is None:
                    return self._append(entry)
                draft = Draft(dict(self._entries), "added", entry.id)
                draft.added = draft.entries[entry.id] = entry
                draft.detail = entry.title()
                for id in replaced:
                    retire(draft, id, entry.id)
                self._finish(draft)
        except _Held as held:
            return self.get(held.id)
        return self.get(entry.id)

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

    def _relation_of(self, entry: Entry, same_fact: str) -> Relation:
        """How an entry that is about to be added relates to the active ones."""
        fact = Fact.of(entry)
        if same_fact == "record":
            return related_by_record(self._alike(fact), fact)
        positives = {scope.name: scope.anchors.d_positive for scope in entry.scopes if scope.anchors is not None}
        return relate(
            self.router, self.active(), self._queries(entry), fact, positives, site=entry.site, same_fact=same_fact
        )

    def retire(self, id: str, by: str | None = None) -> Entry:
        """Let the entry fire no more, for good or as long as the entry `by` is not removed; it stays in the history.

        Raises: UnknownNameError; InputError where it is not active, or `by` is removed or itself retired by it.
        """
        with self._draft("retired", id, f"by '{by}'" if by else "by hand") as draft:
            retire(draft, id, BY_HAND if by is None else by)
        return self.get(id)

    def remove(self, id: str) -> Entry:
        """Take the edit out: what it had retired is active again, and routing is as if it had never been added.

        Raises: UnknownNameError; InputError where it is removed already.
        """
        with self._draft("removed", id) as draft:
            entry = find(draft.entries, id)
            if entry.status == "removed":
                raise InputError(f"entry '{id}' is removed already; `restore` brings it back, `purge` deletes it.")
            children = [
                other.id for other in draft.entries.values() if other.parent == id and other.status != "removed"
            ]
            if children:
                raise InputError(
                    f"entry '{id}' cannot be removed alone: the change of '{children[0]}' started from its change and holds "
                    f"it. Remove '{children[0]}' first."
                )
            draft.entries[id] = entry.with_status("removed", entry.retired_by)
        return self.get(id)

    def restore(self, id: str) -> Entry:
        """Bring the entry back bit for bit.

        A removed one returns as it was, retiring again what it had retired (and retired itself, where its successor is
        still there); a retired one becomes active beside its successor, which stays nearest where the keys are equal.

        Raises: UnknownNameError; InputError where it is active.
        """
        with self._draft("restored", id) as draft:
            entry = find(draft.entries, id)
            if entry.status == "active":
                raise InputError(f"entry '{id}' is active: there is nothing to restore.")
            kept = entry.retired_by if entry.status == "removed" else None
            draft.entries[id] = entry.with_status("active", kept)
        return self.get(id)

    def purge(self, id: str) -> None:
        """Delete the entry for good, with its picture and texts; the history keeps that there was one of this id.

        Raises: UnknownNameError.
        """
        with self._draft("purged", id) as draft:
            gone = find(draft.entries, id)
            successor = gone.retired_by
            for other in draft.entries.values():
                if other.retired_by == id:
                    draft.entries[other.id] = other.with_status(other.status, successor)
            del draft.entries[id]
            draft.purged = True

    def refresh(self) -> bool:
        """Take in what other processes wrote to the file; returns whether there was anything."""
        with self._lock:
            if self._store is None or not self._store.changed():
                return False
            self._load()
            return True

    def verify(self) -> int:
        """Check every byte of the file; returns the number of entries.  Raises: CodebookError."""
        return len(self._entries) if self._store is None else self._store.verify()

    def save(self, path: str | Path, *, dtype: str | None = None, overwrite: bool = False) -> Path:
        """Write a complete copy to `path`, whole or not at all; this codebook stays where it was.

        Args:
            dtype: what transformations are stored as, e.g. "bfloat16"; None keeps their bits.
            overwrite: replace what is there. Processes that have it open keep seeing the old file.
        Raises: CodebookError where `path` exists, or cannot be written.
        """
        target = local(path)
        check_dtype(dtype)
        if self.path is not None and target.exists() and target.samefile(self.path):
            if dtype is not None:
                raise InputError(
                    "path: a codebook cannot be rewritten in another dtype in place; save to another path."
                )
            return target
        with self._lock:
            write_whole(target, self.fingerprint, self.model_name, self.entries(), self._events, dtype, overwrite)
        return target

    def export(self, path: str | Path, *, tensors: bool = False) -> Path:
        """Write everything as readable JSON, whole or not at all; see `export.as_json`."""
        target = output_file(path, "export")
        document = as_json(self._entries.values(), self._events, self.model_name, self.fingerprint, tensors)
        write_atomic(target, (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode())
        return target

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
    def batch(self) -> Iterator[Codebook]:
        """Within the block all changes are one transaction: a file is written to once, at the end, or not at all.

        After an error the codebook is as the file was.  In memory every change stands by itself.
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

    @contextlib.contextmanager
    def _draft(self, action: str, id: str, detail: str = "") -> Iterator[Draft]:
        """Write what the block makes of the draft, then take it over; on any error nothing has changed."""
        with self._writing():
            draft = Draft(dict(self._entries), action, id, detail)
            yield draft
            self._finish(draft)

    def _finish(self, draft: Draft) -> None:
        changed = settle(draft, self._entries)
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
