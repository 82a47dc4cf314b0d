"""What is read of a codebook file: all of it, or only the entries, rows and counts that are asked for."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CodebookError, UnknownNameError
from .entry import Entry, Transformation
from .record import Row, checked_row, transformation_of, unpack

KEPT = 512 << 20
"""Bytes of transformations that stay in memory once they were read."""
COLUMNS = "id, question, answer, site, status, retired_by, record, thumbnail"


class Event(NamedTuple):
    """One line of a codebook's history: "added", "retired", "removed", "restored" or "purged"."""

    time: str
    action: str
    entry: str
    detail: str = ""


class Reading:
    """An open file, as it is read; `Store` opens it and writes."""

    path: Path
    _db: sqlite3.Connection
    _lock: threading.RLock
    _kept: OrderedDict[int, Transformation]
    _size: int
    _version: int

    def read(self) -> tuple[list[tuple[int, Entry]], list[Event]]:
        """Return (order, entry) of all entries, oldest first, and all events; keys are checked, the rest stays lazy."""
        with self._guard("read"), self._snapshot():
            entries = [placed for some in self.each() for placed in some]
            events = self.events()
            self._version = self._data_version()
        return entries, events

    def events(self, id: str | None = None) -> list[Event]:
        """All events, oldest first; with `id` those of one entry."""
        of, about = ("", ()) if id is None else (" WHERE entry = ?", (id,))
        query = f"SELECT time, action, entry, detail FROM events{of} ORDER BY seq"
        with self._lock, self._guard("read"):
            return [Event(*row) for row in self._db.execute(query, about)]

    def rows(self, newest: int | None = None, size: int = 4096) -> Iterator[Row]:
        """Yield the checked rows of all entries, or of the `newest` ones, oldest first; no key and no change is read.

        Raises: CodebookError where a row is not what was written.
        """
        with self._lock, self._guard("read"):
            first = 0
            if newest is not None:
                found = self._db.execute(
                    "SELECT seq FROM entries ORDER BY seq DESC LIMIT 1 OFFSET ?", (newest - 1,)
                ).fetchone()
                first = 0 if found is None else found[0]
        while True:
            with self._lock, self._guard("read"):
                rows = self._db.execute(
                    f"SELECT seq, digest, {COLUMNS} FROM entries WHERE seq >= ? ORDER BY seq LIMIT ?", (first, size)
                ).fetchall()
            if not rows:
                return
            for _, digest, *columns in rows:
                yield checked_row(Row(*columns), digest)
            first = rows[-1][0] + 1

    def statuses(self) -> dict[str, int]:
        """How many entries are active, retired and removed."""
        with self._lock, self._guard("read"):
            resting = dict(
                self._db.execute("SELECT status, count(*) FROM entries WHERE status != 'active' GROUP BY status")
            )
        return {"active": self.count() - sum(resting.values()), **resting}

    def names(self, id: str, most: int = 20) -> list[str]:
        """Ids of some entries that begin as `id` does."""
        with self._lock, self._guard("read"):
            for length in range(len(id), -1, -1):
                start = id[:length]
                found = self._db.execute(
                    "SELECT id FROM entries WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
                    (start, start + "\U0010ffff", most),
                ).fetchall()
                if found:
                    return [one for (one,) in found]
        return []

    def each(self, after: int = 0, size: int = 4096) -> Iterator[list[tuple[int, Entry]]]:
        """Yield (order, entry) of all entries above an order, oldest first, so many at a time."""
        while True:
            with self._guard("read"), self._snapshot():
                rows = self._db.execute(
                    f"SELECT seq, digest, {COLUMNS} FROM entries WHERE seq > ? ORDER BY seq LIMIT ?", (after, size)
                ).fetchall()
                if not rows:
                    return
                first, after = rows[0][0], rows[-1][0]
                keys: dict[int, dict[str, bytes]] = {}
                parts = "SELECT entry, part, data FROM tensors WHERE entry BETWEEN ? AND ? AND part GLOB 'key/*'"
                for seq, part, data in self._db.execute(parts, (first, after)):
                    keys.setdefault(seq, {})[part] = data
                found = []
                for seq, digest, *columns in rows:
                    row = Row(*columns)
                    found.append((seq, unpack(row, digest, keys.get(seq, {}), self._loader(seq, row.id))))
            yield found

    def count(self, after: int = 0) -> int:
        """Number of entries, whatever their status; of those with an order above `after`."""
        query = "SELECT count(*) FROM entries" + (" WHERE seq > ?" if after else "")
        with self._lock, self._guard("read"):
            return self._db.execute(query, (after,) if after else ()).fetchone()[0]

    def digest(self, seq: int) -> bytes:
        """Digest of the entry of this order; b"" where there is none."""
        with self._lock, self._guard("read"):
            found = self._db.execute("SELECT digest FROM entries WHERE seq = ?", (seq,)).fetchone()
        return b"" if found is None else found[0]

    def inactive(self, until: int) -> list[int]:
        """Orders, up to `until`, of entries that are retired or removed."""
        with self._lock, self._guard("read"):
            query = "SELECT seq FROM entries WHERE status != 'active' AND seq <= ? ORDER BY seq"
            return [seq for (seq,) in self._db.execute(query, (until,))]

    def find(self, where: str, value: Any) -> list[tuple[int, Entry]]:
        """(order, entry) of entries by "id" or "retired_by", oldest first."""
        clause = {"id": "id = ?", "retired_by": "retired_by = ?"}[where]
        found = []
        with self._guard("read"), self._snapshot():
            rows = self._db.execute(f"SELECT seq, digest, {COLUMNS} FROM entries WHERE {clause} ORDER BY seq", (value,))
            for seq, digest, *columns in rows.fetchall():
                keys = dict(
                    self._db.execute("SELECT part, data FROM tensors WHERE entry = ? AND part GLOB 'key/*'", (seq,))
                )
                row = Row(*columns)
                found.append((seq, unpack(row, digest, keys, self._loader(seq, row.id))))
        return found

    def get(self, id: str) -> tuple[int, Entry]:
        """(order, entry).  Raises: UnknownNameError, which names some ids that begin alike."""
        found = self.find("id", id)
        if not found:
            some = self.names(id)
            raise UnknownNameError("entry", id, some, self.count() - len(some))
        return found[0]

    def id_of(self, seq: int) -> str:
        """Id of the entry of this order."""
        with self._lock, self._guard("read"):
            return self._db.execute("SELECT id FROM entries WHERE seq = ?", (seq,)).fetchone()[0]

    def seen(self) -> None:
        """What the file holds now has been taken in, see `changed`."""
        with self._lock, self._guard("read"):
            self._version = self._data_version()

    def changed(self) -> bool:
        """Whether another connection has written since `read`."""
        with self._lock, self._guard("read"):
            return self._data_version() != self._version

    def _loader(self, seq: int, id: str):
        def load(manifest: Mapping[str, Any]) -> Transformation:
            with self._lock, self._guard("read"):
                if seq in self._kept:
                    self._kept.move_to_end(seq)
                    return self._kept[seq]
                rows = self._db.execute(
                    "SELECT part, data FROM tensors WHERE entry = ? AND part GLOB 'transformation/*'", (seq,)
                )
                loaded = transformation_of(manifest, dict(rows.fetchall()), id)
                self._kept[seq] = loaded
                self._size += loaded.nbytes
                while self._size > KEPT and len(self._kept) > 1:
                    self._size -= self._kept.popitem(last=False)[1].nbytes
                return loaded

        return load

    def _forget(self) -> None:
        self._kept.clear()
        self._size = 0

    def _data_version(self) -> int:
        return self._db.execute("PRAGMA data_version").fetchone()[0]

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        """One state of the file for all reads inside; nothing to do within a transaction."""
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")

    @contextlib.contextmanager
    def _guard(self, doing: str) -> Iterator[None]:
        """Turn SQLite's errors into ours, which say what to do."""
        try:
            yield
        except sqlite3.Error as error:
            raise CodebookError(advice(error, self.path, doing)) from error


ADVICE = "Restore it from a copy; what is still readable, `sqlite3 FILE .recover` may save."


def advice(error: sqlite3.Error, path: Path, doing: str) -> str:
    """Return what happened and what to do about it, for a person."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    primary = code & 0xFF
    start = f"'{path}' could not be {doing}: "
    if code == sqlite3.SQLITE_READONLY_ROLLBACK or (doing == "opened" and primary == sqlite3.SQLITE_CANTOPEN):
        return start + "if a write to it was cut off, open it once with the right to write; else check its permissions."
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return start + "another process is writing to it. Nothing was changed; try again when that one is done."
    if primary == sqlite3.SQLITE_FULL:
        return start + "the disk is full. The codebook is as it was before; free some space and try again."
    if primary in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return (
            start + f"the disk refuses ({error}). The codebook is as it was before; check disk, quota and permissions."
        )
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return start + "it or its directory is read-only. Nothing was changed."
    if primary == sqlite3.SQLITE_NOTADB:
        return start + "it is not a codebook of VLEdit, or its beginning is damaged."
    if isinstance(error, sqlite3.ProgrammingError):
        return start + f"it is closed ({error})."
    return start + f"it is damaged ({error}). {ADVICE}"


def integrity(db: sqlite3.Connection, check: str) -> None:
    found = [row[0] for row in db.execute(f"PRAGMA {check}(3)")]
    if found != ["ok"]:
        raise CodebookError(f"the codebook is damaged ({'; '.join(map(str, found))}). {ADVICE}")
