"""Stores every reply, picture and answer under the hash of its request; files appear complete or not at all.

A build is a function of these; an interrupted one finds them again, and requests only what is missing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vledit.data.cache import cache_root, sha256_json, write_atomic, write_json_atomic


class Store:
    """A folder of JSON records and pictures by content hash; threads and processes may share it.

    Args:
        root: the folder (default: ``<cache>/build``).
    """

    def __init__(self, root: Path | None = None):
        self.root = root or cache_root() / "build"

    def path(self, kind: str, asked: Any, suffix: str = ".json") -> Path:
        """Where the answer to `asked` stands, whether or not it is there."""
        key = sha256_json(asked)
        return self.root / kind / key[:2] / f"{key}{suffix}"

    def get(self, kind: str, asked: Any) -> Any:
        """The record, or None.  A file that is no JSON (a damaged disk) counts as not there."""
        try:
            return json.loads(self.path(kind, asked).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def put(self, kind: str, asked: Any, value: Any) -> Any:
        """Writes the record, unless somebody else has by now, and returns the one that stays: the first that came."""
        if (earlier := self.get(kind, asked)) is not None:
            return earlier
        write_json_atomic(self.path(kind, asked), value)
        return value

    def put_bytes(self, kind: str, asked: Any, content: bytes, suffix: str) -> Path:
        """Writes a file and returns where it stands."""
        path = self.path(kind, asked, suffix)
        write_atomic(path, content)
        return path
