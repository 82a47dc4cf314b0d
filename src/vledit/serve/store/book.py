"""`EditStore`: the edits, their history, and which of them act at a revision."""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from ...codebook import Entry, Transformation
from ...codebook.entry import now
from ...codebook.record import Row, pack, transformation_of, unpack
from ...errors import InputError, ModelMismatchError, UnknownNameError, VLEditError
from . import facts as rules
from . import tables
from .database import CHANNEL, migrate, open_engine, reading, writing
from .facts import Facts

_KEPT = 512 << 20
"""Bytes of transformations that stay in memory once they were read."""
_COLUMNS = [getattr(tables.edits.c, name) for name in ("number", "id", "question", "answer", "site", "record")] + [
    tables.edits.c.thumbnail,
    tables.edits.c.digest,
]


@dataclass(frozen=True)
class Revision:
    """One line of the history."""

    number: int
    time: str
    author: str
    reason: str
    action: str
    edit: str | None
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class Kept:
    """An edit as the store holds it: the entry as it was made, how new it is, its facts and status, its first revision."""

    entry: Entry
    number: int
    facts: Facts
    status: str


@dataclass(frozen=True)
class By:
    """Who changes something, and why."""

    author: str
    reason: str = ""


class MovedError(VLEditError):
    """Somebody else committed a revision meanwhile."""


class EditStore:
    """The edits of one model.

    Args:
        where: a file (SQLite) or the URL of a PostgreSQL database; made where it is not there.
        fingerprint, model_name: of the loaded model.
    Raises: ModelMismatchError where it holds another model's edits; StoreError where it cannot be opened.
    """

    def __init__(self, where: str, fingerprint: str, model_name: str):
        self.engine: Engine = open_engine(where)
        self.fingerprint, self.model_name = fingerprint, model_name
        self._entries: dict[str, tuple[int, Entry]] = {}
        self._sized: dict[tuple[str, float | None], Entry] = {}
        self._kept: OrderedDict[str, Transformation] = OrderedDict()
        self._size = 0
        self._lock = threading.RLock()
        migrate(self.engine)
        with writing(self.engine) as connection:
            known = dict(connection.execute(sa.select(tables.meta.c.name, tables.meta.c.value)).tuples().all())
            if "fingerprint" not in known:
                known = {"fingerprint": fingerprint, "model_name": model_name}
                connection.execute(tables.meta.insert(), [{"name": name, "value": v} for name, v in known.items()])
        if known["fingerprint"] != fingerprint:
            raise ModelMismatchError(
                f"--store: it holds edits of the model '{known['model_name']}' ({known['fingerprint']}), not of "
                f"'{model_name}' ({fingerprint}). Give that model, or another store."
            )

    @property
    def kind(self) -> str:
        """ "sqlite" or "postgresql"."""
        return self.engine.dialect.name

    def close(self) -> None:
        """Closes all connections."""
        self.engine.dispose()

    # --- reading ----------------------------------------------------------------------------------------------------

    def revision(self) -> int:
        """The newest revision; 0 before the first edit."""
        with reading(self.engine) as connection:
            return _newest(connection)

    def active(self) -> tuple[int, list[tuple[int, Entry]]]:
        """The newest revision, and (number, entry) of the edits that act at it, oldest first."""
        revision, kept = self.edits()
        return revision, [(one.number, self._resized(one)) for one in kept if one.status == rules.ACTIVE]

    def edits(self) -> tuple[int, list[Kept]]:
        """The newest revision and all edits, whatever their status, oldest first."""
        with self._lock, reading(self.engine) as connection:
            revision = _newest(connection)
            state = _state(connection)
            self._load(connection, [id for id in state if id not in self._entries])
        kept = [
            Kept(self._entries[id][1], self._entries[id][0], facts, rules.status(state, id))
            for id, facts in state.items()
        ]
        return revision, sorted(kept, key=lambda one: one.number)

    def edit(self, id: str) -> Kept:
        """Raises: UnknownNameError."""
        _, kept = self.edits()
        for one in kept:
            if one.entry.id == id:
                return one
        raise UnknownNameError("edit", id, [one.entry.id for one in kept[-50:]])

    def sized(self, id: str) -> Entry:
        """The edit with the radius that is in force.  Raises: UnknownNameError."""
        return self._resized(self.edit(id))

    def history(self, before: int | None = None, most: int = 100, edit: str | None = None) -> list[Revision]:
        """The newest revisions first.

        Args:
            before: only older ones.
            edit: only those of one edit.
        """
        table = tables.revisions
        asked = sa.select(table).order_by(table.c.number.desc()).limit(most)
        if before is not None:
            asked = asked.where(table.c.number < before)
        if edit is not None:
            asked = asked.where(table.c.edit == edit)
        with reading(self.engine) as connection:
            return [
                Revision(r.number, r.time, r.author, r.reason, r.action, r.edit, json.loads(r.detail))
                for r in connection.execute(asked)
            ]

    def _load(self, connection: Connection, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            keys: dict[str, dict[str, bytes]] = {}
            table = tables.tensors
            asked = sa.select(table).where(table.c.edit.in_(part), table.c.part.startswith("key/"))
            for edit, name, data in connection.execute(asked):
                keys.setdefault(edit, {})[name] = bytes(data)
            for found in connection.execute(sa.select(*_COLUMNS).where(tables.edits.c.id.in_(part))):
                picture = None if found.thumbnail is None else bytes(found.thumbnail)
                row = Row(found.id, found.question, found.answer, found.site, "active", None, found.record, picture)
                entry = unpack(row, bytes(found.digest), keys.get(found.id, {}), self._loader(found.id))
                self._entries[found.id] = (found.number, entry)

    def _loader(self, id: str) -> Callable[[Mapping[str, Any]], Transformation]:
        def load(manifest: Mapping[str, Any]) -> Transformation:
            with self._lock:
                if id in self._kept:
                    self._kept.move_to_end(id)
                    return self._kept[id]
                table = tables.tensors
                asked = sa.select(table.c.part, table.c.data).where(
                    table.c.edit == id, table.c.part.startswith("transformation/")
                )
                with reading(self.engine) as connection:
                    parts = {part: bytes(data) for part, data in connection.execute(asked)}
                loaded = transformation_of(manifest, parts, id)
                self._keep(id, loaded)
                return loaded

        return load

    def _keep(self, id: str, loaded: Transformation) -> None:
        self._kept[id] = loaded
        self._size += loaded.nbytes
        while self._size > _KEPT and len(self._kept) > 1:
            self._size -= self._kept.popitem(last=False)[1].nbytes

    def _resized(self, one: Kept) -> Entry:
        """The entry with the radius in force: the same object as long as nothing changes."""
        if one.facts.radius is None:
            return one.entry
        with self._lock:
            key = (one.entry.id, one.facts.radius)
            if key not in self._sized:
                self._sized = {known: entry for known, entry in self._sized.items() if known[0] != one.entry.id}
                self._sized[key] = with_radius(one.entry, one.facts.radius)
            return self._sized[key]

    # --- changing ---------------------------------------------------------------------------------------------------

    def add(
        self, entry: Entry, retires: Sequence[str], by: By, detail: Mapping[str, Any], at: int | None = None
    ) -> int:
        """Keeps an edit and lets it act, in one transaction; returns the revision.

        Args:
            retires: edits whose place it takes; those that do not act any more are left out.
            at: the revision that `retires` was decided at.
        Raises: MovedError where there is a newer revision than `at`; InputError where the id is taken; StoreError where
            nothing could be written.
        """
        row, parts = pack(entry.with_status("active", None))
        with self._lock, writing(self.engine) as connection:
            _expect(connection, at)
            state = _state(connection)
            still = [id for id in retires if id in state and rules.status(state, id) == rules.ACTIVE]
            changed = rules.added(state, entry.id, still)
            return self._revise(connection, by, "added", entry.id, {**detail, "replaces": still}, changed, row, parts)

    def revert(self, ids: Sequence[str], by: By, detail: Mapping[str, Any], at: int | None = None) -> int:
        """Disables edits in whose place the base answers as wanted.  Raises: as `add`."""
        with self._lock, writing(self.engine) as connection:
            _expect(connection, at)
            changed = rules.gone(_state(connection), ids)
            listed = {**detail, "disables": sorted(changed)}
            return self._revise(connection, by, "reverted", next(iter(changed), None), listed, changed)

    def remove(self, id: str, by: By) -> int:
        """Takes an edit out; see `facts.removed`.  Raises: also InputError where a later edit contains this one's change."""
        _, kept = self.edits()
        children = [one.entry.id for one in kept if one.entry.parent == id and not one.facts.removed]
        if children:
            raise InputError(
                f"id: the change of '{children[0]}' started from that of '{id}' and holds it. Remove '{children[0]}' first."
            )
        return self._change(by, "removed", id, lambda state: rules.removed(state, id))

    def restore(self, id: str, by: By) -> int:
        """Brings a removed or retired edit back; see `facts.restored`."""
        return self._change(by, "restored", id, lambda state: rules.restored(state, id))

    def disable(self, id: str, by: By) -> int:
        """Switches an edit off; see `facts.switched`."""
        return self._change(by, "disabled", id, lambda state: rules.switched(state, id, on=False))

    def enable(self, id: str, by: By) -> int:
        """Switches an edit on; see `facts.switched`."""
        return self._change(by, "enabled", id, lambda state: rules.switched(state, id, on=True))

    def resize(self, id: str, radius: float | None, by: By) -> int:
        """Sets the radius by hand, or back to what it was made with (None)."""
        if radius is not None and not (math.isfinite(radius) and radius >= 0):
            raise InputError(f"radius: {radius} is not a finite number of at least 0.")
        return self._change(by, "resized", id, lambda state: rules.resized(state, id, radius), {"radius": radius})

    def roll_back(self, to: int, by: By) -> int:
        """Makes everything as it was at revision `to`; itself a new revision, so that it can be taken back."""

        def back(state: Mapping[str, Facts], connection: Connection) -> dict[str, Facts]:
            newest = _newest(connection)
            if not 0 <= to <= newest:
                raise InputError(f"revision: {to} is not one of 0 to {newest}.")
            return rules.rolled_back(state, _state(connection, to))

        with self._lock, writing(self.engine) as connection:
            changed = back(_state(connection), connection)
            detail = {"to": to, "edits": sorted(changed)}
            return self._revise(connection, by, "rolled back", None, detail, changed)

    def _change(
        self,
        by: By,
        action: str,
        id: str,
        rule: Callable[[Mapping[str, Facts]], dict[str, Facts]],
        detail: Mapping[str, Any] | None = None,
    ) -> int:
        with self._lock, writing(self.engine) as connection:
            return self._revise(connection, by, action, id, detail or {}, rule(_state(connection)))

    def _revise(
        self,
        connection: Connection,
        by: By,
        action: str,
        edit: str | None,
        detail: Mapping[str, Any],
        changed: Mapping[str, Facts],
        row: Row | None = None,
        parts: Mapping[str, bytes] | None = None,
    ) -> int:
        """Writes a revision with what it changes; returns its number.  Call within `writing`."""
        if row is not None:
            highest = connection.execute(sa.select(sa.func.max(tables.edits.c.number))).scalar() or 0
            values = {**row._asdict(), "number": highest + 1, "digest": row.digest()}
            values = {name: value for name, value in values.items() if name in tables.edits.c}
            connection.execute(tables.edits.insert(), values)
            kept = [{"edit": row.id, "part": part, "data": data} for part, data in (parts or {}).items()]
            connection.execute(tables.tensors.insert(), kept)
        revision = _newest(connection) + 1
        connection.execute(
            tables.revisions.insert(),
            {
                "number": revision,
                "time": now(),
                "author": by.author,
                "reason": by.reason,
                "action": action,
                "edit": edit,
                "detail": json.dumps(detail, ensure_ascii=False, allow_nan=False),
            },
        )
        if changed:
            connection.execute(
                tables.facts.insert(),
                [{"revision": revision, "edit": id, **asdict(one)} for id, one in changed.items()],
            )
        if self.kind == "postgresql":
            connection.execute(sa.text(f"SELECT pg_notify('{CHANNEL}', :text)"), {"text": str(revision)})
        return revision


def with_radius(entry: Entry, radius: float | None) -> Entry:
    """The entry with its primary radius set by hand; None leaves it as it was made."""
    if radius is None:
        return entry
    return replace(entry, scopes=(replace(entry.scopes[0], radius=radius, alpha=None, crowd=()), *entry.scopes[1:]))


def _expect(connection: Connection, at: int | None) -> None:
    if at is not None and (newest := _newest(connection)) != at:
        raise MovedError(f"revision {newest} was committed meanwhile, {at} was expected. Try again.")


def _newest(connection: Connection) -> int:
    return connection.execute(sa.select(sa.func.max(tables.revisions.c.number))).scalar() or 0


def _state(connection: Connection, at: int | None = None) -> dict[str, Facts]:
    """The facts of every edit at a revision, or now; oldest edits first."""
    table = tables.facts
    newest = sa.select(table.c.edit, sa.func.max(table.c.revision).label("revision")).group_by(table.c.edit)
    if at is not None:
        newest = newest.where(table.c.revision <= at)
    newest = newest.subquery()
    asked = (
        sa.select(table)
        .join(newest, sa.and_(table.c.edit == newest.c.edit, table.c.revision == newest.c.revision))
        .join(tables.edits, tables.edits.c.id == table.c.edit)
        .order_by(tables.edits.c.number)
    )
    return {
        r.edit: Facts(bool(r.disabled), bool(r.removed), r.replaced_by, r.radius) for r in connection.execute(asked)
    }
