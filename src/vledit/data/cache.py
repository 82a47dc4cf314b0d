"""The place where VLEdit keeps what it builds; a file appears there complete or not at all."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from pathlib import Path
from typing import Any

STALE_SECONDS = 24 * 3600
"""Age from which an unfinished folder counts as left behind by a build that was killed."""


def cache_root() -> Path:
    """Return the directory of everything that VLEdit builds; it may not exist yet.

    ``VLEDIT_CACHE`` where set, else the platform's own: ``~/.cache/vledit`` (or under
    ``XDG_CACHE_HOME``), ``~/Library/Caches/vledit``, ``%LOCALAPPDATA%\\vledit``.
    """
    chosen = os.environ.get("VLEDIT_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "vledit"
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base or Path.home() / "AppData" / "Local") / "vledit"
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "vledit"


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either its old bytes or all the new ones.

    A reader never sees half a file, and a kill in mid-write leaves the old one; the
    temporary file beside it is unlinked on any error.  Who may read it, the umask decides.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json_atomic(path: Path, value: Any) -> None:
    """Write `value` as UTF-8 JSON, atomically; the same value gives the same bytes."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    write_atomic(path, text.encode())


def sha256_bytes(content: bytes) -> str:
    """Return the SHA-256 of `content` as 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits.

    Raises: OSError where the file cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, equal for equal values whatever their key order."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return sha256_bytes(text.encode())


class staging:
    """A temporary folder beside `target` that takes its place when the block ends well and vanishes when it does not.

    A build that is killed leaves its temporary folder; the next one removes those that are older than a day.

    Args:
        mark: name of an empty file that the folder holds while it is not finished.
        leftovers: pattern of the names of temporary folders beside `target` that this build may clear away; None: only
            its own target's.
    """

    def __init__(self, target: Path, mark: str | None = None, leftovers: str | None = None):
        self.target, self.mark = target, mark
        self.leftovers = leftovers or f"{glob.escape(target.name)}.tmp*"

    def __enter__(self) -> Path:
        parent = self.target.parent
        parent.mkdir(parents=True, exist_ok=True)
        for folder in parent.glob(self.leftovers):
            with contextlib.suppress(OSError):  # another build may clear it away at the same moment
                if folder.is_dir() and time.time() - folder.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)
        self.folder = parent / f"{self.target.name}.tmp{secrets.token_hex(4)}"
        self.folder.mkdir()
        if self.mark is not None:
            (self.folder / self.mark).touch()
        return self.folder

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        if self.mark is not None:
            (self.folder / self.mark).unlink()
        if self.target.exists():  # somebody else was quicker, an earlier build was cut short, or it shall be replaced
            aside = self.folder.with_name(f"{self.folder.name}-old")
            os.replace(self.target, aside)
            os.replace(self.folder, self.target)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.replace(self.folder, self.target)
