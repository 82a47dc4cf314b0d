"""A codebook as one SQLite file that is always in its old or its new state.

It uses a rollback journal with `synchronous=EXTRA` (FULL, and the directory too): a transaction that was reported committed
stays, one that was interrupted by a kill or a power loss is rolled back when the file is next opened, and no second file
remains after closing.  The file itself is only opened through SQLite: closing any other descriptor of it would
drop the locks that this process holds.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from ..errors import CodebookError, InputError, ModelMismatchError
from .entry import Entry, Transformation
from .reading import ADVICE, COLUMNS, Event, Reading, integrity
from .record import Progress, Row, check_dtype, pack, reads_elsewhere, unpack

APPLICATION_ID = 0x564C4564
"""'VLEd' in the header of the file."""
SCHEMA = 2
"""The newest that is read.  A file is of the first until an entry is written whose keys are read at another site than it acts
at: a VLEdit that knows the first alone would look for them at the wrong one."""
_CHECKED_WHOLE = 64 << 20
"""Files up to this many bytes are checked page by page when they are opened; larger ones by `verify`."""
_SETTINGS = (
    "synchronous=EXTRA",
    "foreign_keys=ON",
    "secure_delete=ON",
    "trusted_schema=OFF",
    "cache_size=-65536",  # kilobytes: with SQLite's own 2 MB, adding becomes slower as the file grows
)
EASED = (
    "CREATE INDEX IF NOT EXISTS entries_at_rest ON entries(status, seq) WHERE status != 'active'",
    "CREATE INDEX IF NOT EXISTS entries_followed ON entries(retired_by) WHERE retired_by IS NOT NULL",
)
"""Indexes of large files; other versions of VLEdit keep them up without knowing of them."""


class Store(Reading):
    """The open file.

    Args:
        path: of an existing codebook.
        readonly: open without the right to write; also chosen where the file cannot be written.
        dtype: what transformations are stored as; None keeps their bits.
        busy_seconds: how long to wait for another process.
    Raises: CodebookError where the file is missing, no codebook, damaged, of a newer schema or locked.
    """

    def __init__(self, path: Path, readonly: bool = False, dtype: str | None = None, busy_seconds: float = 5.0):
        check_dtype(dtype)
        if sys.byteorder != "little":
            raise CodebookError("codebooks hold little-endian numbers; this machine is big-endian.")
        self.path, self.dtype = path, dtype
        if not path.is_file():
            raise CodebookError(f"there is no codebook at '{path}'.")
        self.readonly = readonly or not os.access(path, os.W_OK)
        self._lock = threading.RLock()
        self._kept: OrderedDict[int, Transformation] = OrderedDict()
        self._size = 0
        uri = f"{path.absolute().as_uri()}?mode={'ro' if self.readonly else 'rw'}"
        with self._guard("opened"):
            self._db = sqlite3.connect(
                uri, uri=True, timeout=busy_seconds, isolation_level=None, check_same_thread=False
            )
        try:
            with self._guard("opened"):
                self._check_header()
                self.meta = dict(self._db.execute("SELECT name, value FROM meta"))
                for setting in _SETTINGS:
                    self._db.execute(f"PRAGMA {setting}")
                self._version = self._data_version()
            if not self.readonly and os.path.exists(f"{path}-journal"):
                self._sweep()
        except BaseException:
            self._db.close()
            raise

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the model that the codebook was made for."""
        return self.meta.get("fingerprint", "")

    @property
    def model_name(self) -> str:
        """Name of the model that the codebook was made for."""
        return self.meta.get("model_name", "")

    def require_model(self, fingerprint: str, model_name: str) -> None:
        """Raise ModelMismatchError unless the codebook was made for the model of this fingerprint."""
        if fingerprint != self.fingerprint:
            raise ModelMismatchError(
                f"'{self.path}' was made for the model '{self.model_name or 'unnamed'}' ({self.fingerprint}), not for "
                f"'{model_name or 'the loaded one'}' ({fingerprint}): load that model, or make the edits again."
            )

    def ease(self) -> None:
        """Makes the indexes by which large files are asked for what is not active; nothing happens where they are there."""
        with self.transaction():
            for statement in EASED:
                self._db.execute(statement)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside is there after the block, or nothing is.

        Raises: CodebookError where another process writes, the disk is full, or the file was opened read-only.
        """
        if self.readonly:
            raise CodebookError(f"'{self.path}' is open read-only: nothing was changed.")
        with self._lock, self._guard("written"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite may have rolled back by itself, e.g. on a full disk
                    self._db.execute("ROLLBACK")
                raise

    def insert(self, entry: Entry) -> tuple[int, Entry]:
        """Write `entry`; returns its order and the entry as the file holds it.  Call within `transaction`."""
        row, parts = pack(entry, self.dtype)
        largest = self._db.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
        if any(len(data) + 1024 > largest for data in parts.values()):
            raise InputError(
                f"entry '{entry.id}': a tensor exceeds {largest} bytes; pass dtype='bfloat16' or use 'span'."
            )
        marks = ", ".join("?" * (len(row) + 1))
        cursor = self._db.execute(f"INSERT INTO entries({COLUMNS}, digest) VALUES ({marks})", (*row, row.digest()))
        seq = cursor.lastrowid
        assert seq is not None
        self._db.executemany(
            "INSERT INTO tensors VALUES (?, ?, ?)", [(seq, part, data) for part, data in parts.items()]
        )
        if reads_elsewhere(entry):
            self._db.execute(f"PRAGMA user_version = {SCHEMA}")
        keys = {part: data for part, data in parts.items() if part.startswith("key/")}
        return seq, unpack(row, row.digest(), keys, self._loader(seq, row.id))

    def set_status(self, entry: Entry) -> None:
        """Write the status and `retired_by` of `entry`.  Call within `transaction`."""
        found = self._db.execute(f"SELECT digest, {COLUMNS} FROM entries WHERE id = ?", (entry.id,)).fetchone()
        row = Row(*found[1:])
        if row.digest() != found[0]:  # a new digest would bless the damage
            raise CodebookError(f"entry '{entry.id}' is damaged: its digest does not fit. {ADVICE}")
        row = row._replace(status=entry.status, retired_by=entry.retired_by)
        self._db.execute(
            "UPDATE entries SET status = ?, retired_by = ?, digest = ? WHERE id = ?",
            (row.status, row.retired_by, row.digest(), row.id),
        )

    def delete(self, id: str) -> None:
        """Delete the entry and overwrite its bytes with zeros.  Call within `transaction`."""
        self._db.execute("DELETE FROM entries WHERE id = ?", (id,))

    def log(self, events: list[Event]) -> None:
        """Write `events`.  Call within `transaction`."""
        self._db.executemany("INSERT INTO events(time, action, entry, detail) VALUES (?, ?, ?, ?)", events)

    def verify(self, progress: Progress | None = None) -> int:
        """Check every page, row and tensor; returns the number of entries.  Raises: CodebookError."""
        seen = self._version
        with self._lock, self._guard("checked"), self._snapshot():
            integrity(self._db, "integrity_check")
            entries, _ = self.read()
            self._version = seen  # what others wrote is checked here, but the codebook has yet to take it in
            for done, (_, entry) in enumerate(entries, 1):
                self._forget()
                entry.transformation.tensors()
                if progress is not None:
                    progress(done, len(entries))
            self._forget()
        return len(entries)

    @property
    def writing(self) -> bool:
        """Whether a transaction of this connection is open."""
        return self._db.in_transaction

    def close(self) -> None:
        """Close the file; transformations that were not loaded cannot be loaded any more."""
        with self._lock:
            self._forget()
            self._db.close()

    def _sweep(self) -> None:
        """Delete the empty journal of a writer that was killed before it had written anything.

        SQLite rolls a journal with content back by itself, but leaves this one lying.  Only who holds the lock may
        delete it, so let SQLite do so at the end of a transaction; if another process is writing, it is not left over.
        """
        waits = self._db.execute("PRAGMA busy_timeout").fetchone()[0]
        self._db.execute("PRAGMA busy_timeout = 0")
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.execute("UPDATE meta SET value = value || '.'")  # SQLite skips a write that changes nothing
            finally:
                self._db.execute("ROLLBACK")
        self._db.execute(f"PRAGMA busy_timeout = {waits}")

    def _check_header(self) -> None:
        with self._snapshot():
            application = self._db.execute("PRAGMA application_id").fetchone()[0]
            schema = self._db.execute("PRAGMA user_version").fetchone()[0]
            if application != APPLICATION_ID:
                raise CodebookError(f"'{self.path}' is not a codebook of VLEdit.")
            if schema > SCHEMA:
                raise CodebookError(
                    f"'{self.path}' has schema {schema}, this VLEdit reads up to {SCHEMA}: upgrade to the newer VLEdit."
                )
            self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()  # takes the lock; finds a cut-off file
            pages, page = (self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
            if self.path.stat().st_size < pages * page:
                raise CodebookError(
                    f"'{self.path}' is cut off at {self.path.stat().st_size} of {pages * page} bytes. {ADVICE}"
                )
            if pages * page <= _CHECKED_WHOLE:
                integrity(self._db, "quick_check")
