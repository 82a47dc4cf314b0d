"""Where VLEdit keeps what it builds, and how it writes there without ever leaving half a file."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


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
    temporary file beside it is unlinked on any error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
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
