"""A table of answers that is written while they are made; after an interruption its complete rows are kept and the rest is added.

The last column of a row is a digest of everything that its answer depends on.  A row that was cut off has no complete digest, and
a row whose digest does not match belongs to another question, model or codebook.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..paths import output_file, reason
from .cache import write_atomic

SUFFIXES = (".csv", ".tsv", ".jsonl")
DIGEST = "asked"


class AnswerFile:
    """Rows in a CSV, TSV or JSON Lines file.

    Args:
        columns: names of the columns, in their order; the last one is `DIGEST`.

    Raises: InputError for another suffix, or a place that cannot be written.
    """

    def __init__(self, path: str | Path, columns: Sequence[str]):
        self.path = output_file(path, "out")
        self.columns = list(columns)
        if self.path.suffix.lower() not in SUFFIXES:
            raise InputError(f"out: '{self.path.name}' must end in {', '.join(SUFFIXES)}.")

    @property
    def _delimiter(self) -> str | None:
        return {".csv": ",", ".tsv": "\t"}.get(self.path.suffix.lower())

    def read(self) -> list[dict[str, Any]]:
        """The whole rows that are there; values of a CSV file are texts.

        Raises: InputError where the file has other columns.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"out: '{self.path}' cannot be read ({reason(error)}). Give another path.") from None
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":  # a character that was cut off at the end
                raise InputError(f"out: '{self.path}' is not UTF-8 text. Give another path.") from None
            text = content[: error.start].decode()
        found = self._json_rows(text) if self._delimiter is None else self._csv_rows(text, self._delimiter)
        return [row for row in found if re.fullmatch("[0-9a-f]{16}", str(row.get(DIGEST, "")))]

    def _json_rows(self, text: str) -> list[dict[str, Any]]:
        found = []
        for line in text.split("\n"):
            try:
                row = json.loads(line)
            except ValueError:
                continue  # a line that was cut off, or the blank one at the end
            if not isinstance(row, dict) or list(row) != self.columns:
                raise self._other()
            found.append(row)
        return found

    def _csv_rows(self, text: str, delimiter: str) -> list[dict[str, Any]]:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
        if not rows:
            return []
        if rows[0] != self.columns:
            raise self._other()
        return [dict(zip(self.columns, row, strict=True)) for row in rows[1:] if len(row) == len(self.columns)]

    def _other(self) -> InputError:
        return InputError(
            f"out: '{self.path}' has other columns than {', '.join(self.columns)}. Give another path, or ask for it to be "
            "overwritten."
        )

    def begin(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Makes the file hold exactly these rows."""
        header = "" if self._delimiter is None else self._text([dict(zip(self.columns, self.columns, strict=True))])
        write_atomic(self.path, (header + self._text(rows)).encode())

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows at the end; they are in the file when the call returns."""
        with self.path.open("a", encoding="utf-8", newline="") as stream:
            stream.write(self._text(rows))

    def _text(self, rows: Iterable[Mapping[str, Any]]) -> str:
        if self._delimiter is None:
            return "".join(
                json.dumps({name: row[name] for name in self.columns}, ensure_ascii=False) + "\n" for row in rows
            )
        stream = io.StringIO(newline="")
        writer = csv.writer(stream, delimiter=self._delimiter, lineterminator="\n")
        writer.writerows([_cell(row[name]) for name in self.columns] for row in rows)
        return stream.getvalue()


def _cell(value: Any) -> Any:
    """A value as a cell of a CSV file."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
