"""Rows of a table as questions: for asking many of them, and for checking what edits changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..paths import local
from .case import Probe
from .edit_rows import picture_of
from .records import FieldError, Record
from .tables import Unfit, table_of

COLUMNS = ("image", "question", "answer", "id", "group")
"""What a row may have; the question must be there. `answer`: what is to be answered, where that is known."""


@dataclass(frozen=True)
class Asked:
    """One question.

    Args:
        line: where its row stands.
        picture: what the row has in its column `image`, as text.
        values: the row's own columns.
        key: content hash of the picture; None without one.
    """

    line: int
    probe: Probe
    picture: str
    values: Mapping[str, Any]
    key: str | None = None


@dataclass(frozen=True)
class QuestionTable:
    """The questions of a table, and the rows that are none."""

    rows: tuple[Asked, ...]
    unfit: tuple[Unfit, ...]
    columns: tuple[str, ...]

    def refusing(self, check: Callable[[Probe], object]) -> QuestionTable:
        """The table without questions that `check` raises InputError for; those are unfit, with what it says."""
        rows, bad = [], list(self.unfit)
        for row in self.rows:
            try:
                check(row.probe)
                rows.append(row)
            except InputError as error:
                field, _, text = str(error).partition(" ")
                bad.append(Unfit(row.line, field, text))
        return replace(self, rows=tuple(rows), unfit=tuple(sorted(bad, key=lambda one: one.line)))

    def need_all_fit(self, option: str) -> QuestionTable:
        """The same.  Raises: InputError that names every row that cannot be used."""
        if self.unfit or not self.rows:
            lines = "".join(f"\n  {one}" for one in self.unfit)
            raise InputError(
                f"{option}: {len(self.unfit)} rows cannot be used, {len(self.rows)} can. Correct them.{lines}"
            )
        return self


def question_table(source: Any, images: Sequence[str | Path] = ()) -> QuestionTable:
    """The questions in a table; pictures are opened once, to see that they can be.

    Raises: InputError where the table as a whole is unfit, or has no column `question`.
    """
    table = table_of(source)
    table.need(["question"])
    folders = [*([table.folder] if table.folder else []), *(local(one) for one in images)]
    rows: list[Asked] = []
    unfit = list(table.unfit)
    for row in table.rows:
        try:
            record = Record(row.values)
            image, key = picture_of(row.values.get("image"), folders)
            group = record.text("group", "")
            probe = Probe(
                image,
                record.text("question"),
                record.text("answer", "") or None,
                {"group": group} if group else {},
                record.text("id", str(row.line)),
            )
        except FieldError as error:
            unfit.append(Unfit(row.line, error.field, error.text))
            continue
        given = row.values.get("image")
        rows.append(Asked(row.line, probe, given if isinstance(given, str) else "", row.values, key))
    unfit.sort(key=lambda one: one.line)
    return QuestionTable(tuple(rows), tuple(unfit), table.columns)
