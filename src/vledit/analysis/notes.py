"""The file of an analysis: a first line with its settings, then a line per case; an interrupted analysis can be continued."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, MissingDataError
from ..evaluate.manifest import differences
from ..evaluate.outcomes import plain


class Notes:
    """Lines being written; those that are there already are read.

    Args:
        head: what has to be the same for the file to be gone on with.
    Attributes:
        lines: (variant, case) → line.
    Raises: InputError where the file is another's.
    """

    def __init__(self, path: Path, head: Mapping[str, Any]):
        self.path = path
        self.lines: dict[tuple[str, str], dict[str, Any]] = {}
        self.head = plain(dict(head))
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = _whole(path) if path.exists() else []
        if whole:
            there, lines = _parsed(path, whole)
            if different := differences(self.head, there):
                raise InputError(
                    f"out: {path} was written with another configuration: {'; '.join(different)}. "
                    "Give another file (--out), or delete it."
                )
            self.lines = {(line["variant"], line["case"]): line for line in lines}
        self._file = path.open("a", encoding="utf-8")
        if not whole:
            self._write({"analysis": self.head})

    def append(self, variant: str, case: str, **values: Any) -> None:
        """One line; it is on the disk when the call returns."""
        line = {"variant": variant, "case": case, **plain(values)}
        self.lines[variant, case] = line
        self._write(line)

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Notes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_notes(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(head, lines).  Raises: MissingDataError without such a file; InputError where it is something else."""
    if not path.is_file():
        raise MissingDataError(f"there is no file '{path}'. `vledit analyze …` makes one.")
    whole = _whole(path)
    if not whole:
        raise InputError(f"{path} is empty.")
    return _parsed(path, whole)


def _whole(path: Path) -> list[bytes]:
    """The lines that are whole; what a kill left of a last one is cut off the file."""
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
    return content[:end].splitlines()


def _parsed(path: Path, whole: list[bytes]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    try:
        records = [json.loads(line) for line in whole]
        return dict(records[0]["analysis"]), records[1:]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is not a file of `vledit analyze`; give another one (--out).") from None
