"""The results file (docs/results_format.md): written line by line, each on disk before the next case begins."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, MissingDataError
from .manifest import differences
from .outcomes import joined, plain

Key = tuple[str, str, int]
"""(variant, case, after)."""


class Results:
    """A results file being written; one that is there already is gone on with.

    One process writes to it.  A line counts when its end is on the disk, so a kill at any moment loses at most the case
    that was being run, and never damages one that is done.

    Args:
        head: what `manifest` gives.
        retry: run the cases that failed again.
    Attributes:
        done: keys of the records that are there.
        bases: ids of the cases whose base line is there.
        finished: whether the last line says that the run came to its end.
    Raises: InputError where the file was written with another configuration, naming what differs.
    """

    def __init__(self, path: Path, head: dict[str, Any], retry: bool = False):
        self.path = path
        self.done: set[Key] = set()
        self.bases: set[str] = set()
        self.digests: dict[tuple[str, str], str] = {}
        self.failed: dict[Key, str] = {}
        self.finished = False
        self.head = head
        self._pending: dict[str, Any] | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = self._whole_lines() if path.exists() else []
        self._file = path.open("a", encoding="utf-8")
        if not lines:
            self.append(head)
            _sync_folder(path.parent)
            return
        self._read(lines, head, retry)
        self._pending = {"resumed": head.get("environment", {})}  # written when there is something to go on with

    def _whole_lines(self) -> list[bytes]:
        """The lines that are whole; what a kill left of a last one is cut off the file."""
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.truncate(self.path, end)
        return content[:end].splitlines()

    def _read(self, lines: Sequence[bytes], head: Mapping[str, Any], retry: bool) -> None:
        try:
            records = [json.loads(line) for line in lines]
        except ValueError:
            raise InputError(f"results: {self.path} is no results file, or damaged; give another file.") from None
        there = records[0].get("manifest") if isinstance(records[0], dict) else None
        if there is None:
            raise InputError(f"results: {self.path} does not start with a manifest; is it a results file?")
        if different := differences(json.loads(json.dumps(plain(head["manifest"]))), there):
            raise InputError(
                f"results: {self.path} was written with another configuration: {'; '.join(different)}. "
                "Give another file (--out), or delete it."
            )
        for record in records[1:]:
            self._note(record)
        if retry:
            self.done -= set(self.failed)

    def _note(self, record: Mapping[str, Any]) -> None:
        self.finished = "end" in record
        if "base" in record:
            self.bases.add(record["base"])
        if "variant" in record:
            key = (record["variant"], record["case"], record.get("after", 1))
            self.done.add(key)
            self.failed.pop(key, None)
            if record["error"]:
                self.failed[key] = f"{record.get('error_type') or 'error'}: {record['error']}"
            if digest := (record.get("edit") or {}).get("digest"):
                self.digests[record["variant"], record["case"]] = digest

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one line; it is on the disk when the call returns."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self.append(pending)
        self._file.write(json.dumps(plain(record), ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._note(record)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _sync_folder(folder: Path) -> None:
    """Puts a new file's name on the disk as well (where the system knows how)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_results(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(head, records) of a results file of any schema; each record's "outcomes" are `Outcome`s.

    The head holds "manifest", "environment", "end" (None where the run is not finished), "resumed" (a list) and "bases" (case
    id → base line).  Of records with the same (variant, case, after) the last one is given, in the place of the first.

    Raises: MissingDataError where there is no such file; InputError where it is no results file.
    """
    if not Path(path).is_file():
        raise MissingDataError(f"results: there is no file '{path}'. `vledit bench --out …` makes one.")
    head: dict[str, Any] | None = None
    records: dict[Key, dict[str, Any]] = {}
    for number, line in enumerate(_lines(Path(path)), 1):
        try:
            record = json.loads(line)
        except ValueError:
            raise InputError(f"results: line {number} of {path} is not JSON; the file is damaged.") from None
        if head is None:
            if not isinstance(record, dict) or "manifest" not in record:
                raise InputError(f"results: {path} does not start with a manifest; is it a results file?")
            head = {"environment": {}, "end": None, "resumed": [], "bases": {}, **record}
        elif "base" in record:
            head["bases"][record["base"]] = record
        elif "variant" in record:
            records[record["variant"], record["case"], record.get("after", 1)] = record
            head["end"] = None
        elif "resumed" in record:
            head["resumed"].append(record["resumed"])
            head["end"] = None
        elif "end" in record:
            head["end"] = record["end"]
    if head is None:
        raise InputError(f"results: {path} is empty; the run has not begun.")
    protocol = head["manifest"].get("protocol", "single")
    return head, [{"protocol": protocol, **_joined(record, head["bases"])} for record in records.values()]


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


def _joined(record: dict[str, Any], bases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The record with its outcomes as `Outcome`s, and what older schemas lack filled in."""
    case, variant, outcomes = record["case"], record["variant"], record["outcomes"]
    base = bases.get(case)
    probes = base["probes"] if base is not None else [{}] * len(outcomes)
    if outcomes and len(probes) != len(outcomes):
        raise InputError(
            f"results: case '{case}' has {len(probes)} probes but {len(outcomes)} outcomes for '{variant}'."
        )
    request = base["request"] if base is not None else {}
    filled = {
        "after": 1,
        "order": 1,
        "error_type": "",
        "stage": "edit" if record["error"] else "",
        "question": request.get("question", ""),
        "answer": request.get("answer", ""),
        "base_answer": request.get("base_answer", ""),
    }
    return {
        **filled,
        **record,
        "outcomes": [joined(o, p, case, variant) for o, p in zip(outcomes, probes, strict=False)],
    }
