"""A codebook as a readable JSON document."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any

from .entry import Entry
from .reading import Event
from .record import Progress, pack, reads_elsewhere
from .store import SCHEMA


def as_json(
    entries: Iterable[Entry],
    events: Iterable[Event],
    model_name: str,
    fingerprint: str,
    tensors: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the document.

    Args:
        tensors: include keys, transformations and thumbnails as base64 of little-endian bytes; without it their dtypes,
            shapes and SHA-256 are listed alone.
        progress: called with the number of entries that are done, and of all.
    """
    entries = list(entries)
    shown = []
    for done, entry in enumerate(entries, 1):
        shown.append(_entry_as_json(entry, tensors))
        if progress is not None:
            progress(done, len(entries))
    return {
        "format": "vledit-codebook",
        "schema": SCHEMA if any(map(reads_elsewhere, entries)) else 1,
        "model": {"name": model_name, "fingerprint": fingerprint},
        "entries": shown,
        "history": [event._asdict() for event in events],
    }


def _entry_as_json(entry: Entry, tensors: bool) -> dict[str, Any]:
    row, parts = pack(entry)
    shown: dict[str, Any] = {**row._asdict(), **json.loads(row.record)}
    del shown["record"]
    shown["thumbnail"] = _base64(row.thumbnail) if tensors and row.thumbnail else None
    if tensors:
        shown["bytes"] = {part: _base64(data) for part, data in parts.items()}
    return shown


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
