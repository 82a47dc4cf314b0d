"""New codebook files: each appears under its name complete, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ..errors import CodebookError
from ..paths import reason
from .entry import Entry, now
from .reading import Event, advice
from .record import Progress
from .store import APPLICATION_ID, Store

_TABLES = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE entries(
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, question TEXT NOT NULL, answer TEXT NOT NULL,
    site TEXT NOT NULL, status TEXT NOT NULL CHECK(status IN ('active', 'retired', 'removed')), retired_by TEXT,
    record TEXT NOT NULL, thumbnail BLOB, digest BLOB NOT NULL);
CREATE TABLE tensors(
    entry INTEGER NOT NULL REFERENCES entries(seq) ON DELETE CASCADE, part TEXT NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY(entry, part));
CREATE TABLE events(
    seq INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, action TEXT NOT NULL, entry TEXT NOT NULL,
    detail TEXT NOT NULL);
"""


def create(path: Path, fingerprint: str, model_name: str) -> None:
    """Make an empty codebook file; it appears under `path` whole or not at all.

    Raises: CodebookError where `path` exists or cannot be written.
    """
    with _writing_beside(path) as temporary:
        _lay_out(temporary, fingerprint, model_name)
        _publish(temporary, path, overwrite=False)


def write_whole(
    path: Path,
    fingerprint: str,
    model_name: str,
    entries: list[Entry],
    events: list[Event],
    dtype: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a complete codebook to `path`; it appears there whole or not at all.

    Args:
        dtype: what transformations are stored as; None keeps their bits.
        overwrite: replace the file at `path`.
        progress: called with the number of entries that are written, and of all.

    Raises: CodebookError where `path` exists without `overwrite`, or cannot be written.
    """
    if path.exists() and not overwrite:
        raise CodebookError(f"'{path}' exists already: choose another path, or pass overwrite=True.")
    with _writing_beside(path) as temporary:
        _lay_out(temporary, fingerprint, model_name)
        with contextlib.closing(Store(temporary, dtype=dtype)) as store, store.transaction():
            for done, entry in enumerate(entries, 1):
                store.insert(entry)
                if progress is not None:
                    progress(done, len(entries))
            store.log(events)
        if _unfinished(path):  # its journal would be rolled back into the new file
            raise CodebookError(f"'{path}' is being written, or was cut off: open it once, then save again.")
        _publish(temporary, path, overwrite)


def _lay_out(path: Path, fingerprint: str, model_name: str) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    try:
        # auto_vacuum counts only before the first page is written; with it a purge gives the space back
        for setting in ("auto_vacuum=FULL", f"application_id={APPLICATION_ID}", "user_version=1"):
            db.execute(f"PRAGMA {setting}")
        db.executescript(f"BEGIN; {_TABLES} COMMIT;")
        meta = {"fingerprint": fingerprint, "model_name": model_name, "created": now()}
        db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    finally:
        db.close()


@contextlib.contextmanager
def _writing_beside(path: Path) -> Iterator[Path]:
    """A temporary path in the same directory; what is left of it is deleted."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    except (OSError, sqlite3.Error) as error:
        if isinstance(error, sqlite3.Error):
            raise CodebookError(advice(error, path, "written")) from error
        raise CodebookError(
            f"'{path}' could not be written ({reason(error)}). Give the path of a file in a folder that you can write to."
        ) from error
    finally:
        for left in (temporary, Path(f"{temporary}-journal")):
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)


def _unfinished(path: Path) -> bool:
    """Whether a journal with content lies beside `path`: someone writes, or was killed while writing."""
    try:
        return Path(f"{path}-journal").read_bytes()[:1] not in (b"", b"\0")  # what SQLite itself goes by
    except FileNotFoundError:
        return False


def _publish(temporary: Path, path: Path, overwrite: bool) -> None:
    if overwrite:
        os.replace(temporary, path)
    else:
        try:
            os.link(temporary, path)  # unlike a rename, this never overwrites what another process made meanwhile
        except FileExistsError:
            raise CodebookError(f"'{path}' exists already: open it, or choose another path.") from None
        except OSError:
            os.rename(temporary, path)  # a file system without hard links
    with contextlib.suppress(OSError):
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
