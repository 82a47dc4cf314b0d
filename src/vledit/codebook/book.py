"""The codebook that a user works with: edits that are added, retired, removed and restored, in memory or in a file.

Source: BalancEdit, Sec. 3.2, 4.5 (sequential edits), 4.7 (reversal: the base's weights are never touched, so the
behaviour after `remove` is that before `add`, bit for bit).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..copies import packed_codebook
from ..data.cache import write_atomic
from ..errors import InputError
from ..paths import local, output_file
from .contents import Contents
from .draft import Draft, find, retire
from .entry import BY_HAND, Entry
from .export import as_json
from .publish import create, write_whole
from .record import Progress, check_dtype
from .relation import Fact, Relation, holding, relate, related_by_record
from .router import Decision, Queries, query_of
from .store import Store


class _Held(Exception):
    """Leaves a draft without writing: the fact is there already, as the entry `id`."""

    def __init__(self, id: str):
        super().__init__(id)
        self.id = id


class Codebook(Contents):
    """Edits of one frozen model.

    A codebook made by `Codebook(...)` is in memory; `save` writes a copy of it to a file.  One from `open` or `create` is a file:
    every change is on disk when the call returns, and transformations are read when they are used.  Iteration, `len` and `in`
    cover active entries; `get`, `entries` and `history` also cover the others.

    Args:
        fingerprint: of the model that the edits are for.
        model_name: its name, for messages.
        compete: see `Router`.
    """

    def __init__(self, fingerprint: str = "", model_name: str = "", *, compete: str = "all"):
        super().__init__(fingerprint, model_name, compete)

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
            fingerprint: of the loaded model; None opens the file whatever model it is for (to list or export it).
            model_name: of the loaded model, for the message if it is the wrong one.
            readonly: refuse changes. A file that cannot be written is always opened so.
            dtype: what new transformations are stored as, e.g. "bfloat16"; None keeps their bits.

        Raises:
            ModelMismatchError: the file is for another model.
            CodebookError: the file is missing, not a codebook, damaged, of a newer schema, or locked; each message gives advice.
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
        """Make an empty codebook file and open it.  Raises: CodebookError if `path` exists or cannot be written."""
        check_dtype(dtype)
        create(local(path), fingerprint, model_name)
        return cls.open(path, fingerprint, model_name, dtype=dtype, compete=compete)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return packed_codebook(self)

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
        """Return how a new fact relates to the active entries; see `Relation`.

        Args:
            key: (H,) of the fact, or a mapping from scope name or `Query` to such, as for `Router.decide`.
            question: of the fact. Texts are compared without regard to case and spacing.
            answer: of the fact.
            image_key: the key of its picture; None if it has none.
            d_positive: the fact's own distance to its positive, or a mapping from scope name to it; used by "distance" only.
            rephrases: other wordings of the question.
            site: consider only entries whose keys are read at this site.
            same_fact: "record": the same picture (or none) and the same question, or a supplied wording of it. "distance" (the
                paper's): also an entry whose radius contains the key, if it is no further away than the larger distance of the
                two facts to their own positives.

        Source: BalancEdit, Sec. 3.2 and 4.5.
        """
        with self._lock:
            fact = Fact(question, answer, image_key, tuple(rephrases))
            entries = self._alike(fact) if same_fact == "record" else self.active()
            return relate(self.router, entries, key, fact, d_positive, site=site, same_fact=same_fact)

    def holding(self, fact: Fact) -> Relation | None:
        """Return the relation "same" if an active entry gives this answer to this question already; otherwise None."""
        with self._lock:
            return holding(self._alike(fact), fact)

    def replaced_by(self, id: str) -> tuple[str, ...]:
        """Return the ids of the entries that the entry `id` replaced."""
        with self._lock:
            return self._replaced.get(id, ()) if self._lazily is None else self._lazily.replaced(id)

    def hidden_by(self, entry: Entry) -> list[str]:
        """Return the id of the older active entry whose own request `entry` answers instead, because their keys are equal.

        Keys count as equal within 1e-5 of their length, since the same prompt in another batch differs by rounding.
        """
        with self._lock:
            if entry.id in self.router and len(self.router) == 1:
                return []
            nearest = self.router.decide(self._queries(entry), site=entry.key_site, exclude=(entry.id,))[0]
            if nearest.nearest is None or nearest.distance is None:
                return []
            equal = nearest.distance <= 1e-5 * float(np.linalg.norm(entry.key))
            return [nearest.nearest] if equal else []

    def _queries(self, entry: Entry) -> dict[Any, Any]:
        """The entry's own keys as a request that brings them, and nothing where it has no such key."""
        own = {query_of(entry, scope): scope.key for scope in entry.scopes}
        needed = self.router.queries(entry.key_site)
        return {query: own.get(query, np.full(self.router.width(query), np.nan, np.float32)) for query in needed} or own

    def add(self, entry: Entry, retires: Collection[str] = (), *, same_fact: str | None = None) -> Entry:
        """Add an edit and retire those that it replaces, in one step; return the entry as it is stored.

        Args:
            retires: ids of the entries that it replaces.
            same_fact: decide what it replaces here, by this rule of `relation`, on the contents of the codebook at the moment of
                writing (another process may have added entries since the edit was begun). If the fact is there already
                with the same answer, nothing changes and that entry is returned.

        Raises:
            InputError: the id is taken, or an entry to retire is not active.
            CodebookError: the file cannot be written; then nothing has changed.
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
                if self._lazily is not None and not self._lazily.fits(entry):
                    self._load(whole=True)
                draft = Draft(self._family(*replaced), "added", entry.id)
                draft.added = draft.entries[entry.id] = entry
                draft.detail = entry.title()
                for id in replaced:
                    retire(draft, id, entry.id)
                self._finish(draft)
        except _Held as held:
            return self.get(held.id)
        return self.get(entry.id)

    def _relation_of(self, entry: Entry, same_fact: str) -> Relation:
        """How an entry that is about to be added relates to the active ones."""
        fact = Fact.of(entry)
        if same_fact == "record":
            return related_by_record(self._alike(fact), fact)
        positives = {scope.name: scope.anchors.d_positive for scope in entry.scopes if scope.anchors is not None}
        return relate(
            self.router, self.active(), self._queries(entry), fact, positives, site=entry.key_site, same_fact=same_fact
        )

    def retire(self, id: str, by: str | None = None) -> Entry:
        """Retire an entry: it no longer fires, either for good or until the entry `by` is removed; it stays in the history.

        Raises: UnknownNameError; InputError if it is not active, or if `by` is removed or was itself retired by it.
        """
        others = () if by is None or by == BY_HAND else (by,)
        with self._draft("retired", id, f"by '{by}'" if by else "by hand", *others) as draft:
            retire(draft, id, BY_HAND if by is None else by)
        return self.get(id)

    def remove(self, id: str) -> Entry:
        """Remove the edit: what it had retired is active again, and routing is as if it had never been added.

        Raises: UnknownNameError; InputError if it is removed already.
        """
        with self._draft("removed", id) as draft:
            entry = find(draft.entries, id)
            if entry.status == "removed":
                raise InputError(f"entry '{id}' is removed already; `restore` brings it back, `purge` deletes it.")
            if (child := self._continued(id)) is not None:
                raise InputError(
                    f"entry '{id}' cannot be removed alone: the change of '{child}' started from its change and holds "
                    f"it. Remove '{child}' first."
                )
            draft.entries[id] = entry.with_status("removed", entry.retired_by)
        return self.get(id)

    def restore(self, id: str) -> Entry:
        """Restore the entry bit for bit.

        A removed entry returns as it was and again retires what it had retired; it is itself retired if its successor is still
        there.  A retired entry becomes active beside its successor, which has precedence where the keys are equal.

        Raises: UnknownNameError; InputError if it is active.
        """
        with self._draft("restored", id) as draft:
            entry = find(draft.entries, id)
            if entry.status == "active":
                raise InputError(f"entry '{id}' is active: there is nothing to restore.")
            kept = entry.retired_by if entry.status == "removed" else None
            draft.entries[id] = entry.with_status("active", kept)
        return self.get(id)

    def purge(self, id: str) -> None:
        """Delete the entry for good, with its picture and texts; the history still records that an entry of this id existed.

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

    def verify(self, progress: Progress | None = None) -> int:
        """Check every byte of the file; returns the number of entries.

        Args:
            progress: called with the number of entries that are checked, and of all.

        Raises: CodebookError.
        """
        return len(self._entries) if self._store is None else self._store.verify(progress)

    def save(self, path: str | Path, *, dtype: str | None = None, overwrite: bool = False) -> Path:
        """Write a complete copy to `path`, as a whole or not at all; this codebook stays where it was.

        Args:
            dtype: what transformations are stored as, e.g. "bfloat16"; None keeps their bits.
            overwrite: replace an existing file. Processes that have it open keep seeing the old file.

        Raises: CodebookError if `path` exists or cannot be written.
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

    def export(self, path: str | Path, *, tensors: bool = False, progress: Progress | None = None) -> Path:
        """Write everything as readable JSON, as a whole or not at all; see `export.as_json`."""
        target = output_file(path, "export")
        document = as_json(self._entries.values(), self._events, self.model_name, self.fingerprint, tensors, progress)
        write_atomic(target, (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode())
        return target
