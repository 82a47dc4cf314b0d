"""Rows of a table as edits: the edits asked for, and every row that cannot be used, with its line and the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..codebook.relation import Fact
from ..errors import InputError, PictureError
from ..paths import local
from .case import EditRequest
from .records import FieldError, Record
from .tables import Row, Table, Unfit, table_of

COLUMNS = ("image", "question", "answer", "rephrases", "id", "note")
"""What a row may have; question and answer must be there. `rephrases`: a list, or in CSV texts separated by "|"."""


@dataclass(frozen=True)
class Wanted:
    """One edit that a row asks for.

    Args:
        fact: the same with the picture's content hash instead of the picture.
        note: free text that is kept with the edit.
    """

    line: int
    request: EditRequest
    fact: Fact
    note: str = ""


@dataclass(frozen=True)
class Instead:
    """A row in whose place another row of the same table stands: it asks for the same fact.

    Args:
        by: line of the other.
        same: whether both give the same answer; else the later row counts.
    """

    line: int
    by: int
    same: bool


@dataclass(frozen=True)
class EditTable:
    """What a table asks for: every row is in exactly one of these.

    Args:
        unused: columns that mean nothing here.
        replaced: the edits of the rows in `instead`; they count again where the row in their place turns out to be unfit.
    """

    wanted: tuple[Wanted, ...]
    unfit: tuple[Unfit, ...]
    instead: tuple[Instead, ...] = ()
    unused: tuple[str, ...] = ()
    replaced: tuple[Wanted, ...] = ()

    @classmethod
    def of(cls, usable: Sequence[Wanted], unfit: Sequence[Unfit], unused: tuple[str, ...] = ()) -> EditTable:
        """The table of these rows, in which every fact stands once: of several rows about one fact the last counts."""
        kept, instead = _once(usable)
        left = {one.line for one in instead}
        replaced = tuple(one for one in usable if one.line in left)
        bad = tuple(sorted(unfit, key=lambda one: one.line))
        return cls(tuple(kept), bad, tuple(instead), unused, replaced)

    @property
    def rows(self) -> int:
        return len(self.wanted) + len(self.unfit) + len(self.instead)

    def refusing(self, check: Callable[[Wanted], object]) -> EditTable:
        """The table without edits that `check` raises InputError for; those are unfit, with what it says."""
        good, bad = [], list(self.unfit)
        for one in sorted((*self.wanted, *self.replaced), key=lambda one: one.line):
            try:
                check(one)
                good.append(one)
            except InputError as error:
                field, _, text = str(error).partition(" ")
                bad.append(Unfit(one.line, field.rstrip(":"), text))
        return self.of(good, bad, self.unused)


def edit_table(source: Any, images: Sequence[str | Path] = (), columns: Mapping[str, str] | None = None) -> EditTable:
    """The edits in a table; pictures are opened once, to see that they can be, and not kept.

    Of several rows about the same fact the last counts: it would replace the others anyway.

    Args:
        source: path, DataFrame, `datasets` table, or iterable of mappings or `EditRequest`s; see `tables.table_of`.
        images: folders that relative picture paths are looked up in, after the table's own.
        columns: name in `COLUMNS` → the table's own name for it.

    Raises: InputError where the table as a whole is unfit, or a column is missing.
    """
    given = list(source) if _of_requests(source) else source
    if isinstance(given, list) and given and all(isinstance(one, EditRequest) for one in given):
        given = [_values(one) for one in given]
    table = table_of(given)
    names = dict(columns or {})
    for name in names:
        if name not in COLUMNS:
            raise InputError(f"columns: '{name}' is none of {', '.join(COLUMNS)}.")
    table.need([names.get(name, name) for name in ("question", "answer")])
    folders = [*([table.folder] if table.folder else []), *(local(one) for one in images)]
    wanted: list[Wanted] = []
    unfit = list(table.unfit)
    taken: dict[str, int] = {}
    for row in table.rows:
        try:
            one = _wanted(row, names, folders)
            if (id := one.request.id) in taken:
                raise FieldError("id", f"{id!r} is that of line {taken[id]}")
        except FieldError as error:
            unfit.append(Unfit(row.line, error.field, error.text))
            continue
        if one.request.id:
            taken[one.request.id] = row.line
        wanted.append(one)
    known = {names.get(name, name) for name in (*COLUMNS, "rephrase")}
    unused = tuple(name for name in table.columns if name not in known)
    return EditTable.of(wanted, unfit, unused)


def of_benchmark(
    name: str, path: Path, images: Sequence[Path] = (), more: Mapping[str, str] | None = None
) -> EditTable:
    """The edits of a published benchmark's file, in its own layout.

    The line of an edit is its number among the records that could be read, counted from 1; that of an unfit record its number in
    the file.

    Raises: see `vledit.data.benchmarks.read`.
    """
    from .benchmarks import read
    from .reading import Files

    found = read(name, Files(path, tuple(images), dict(more or {})))
    bad = [Unfit(one.index + 1, one.field, one.text) for one in found.bad]
    gone = [
        Unfit(0, "image", f"of the record '{id}' was not found; give its folder with --images") for id in found.left_out
    ]
    made = edit_table([_values(case.request) for case in found.cases])
    return replace(made, unfit=(*made.unfit, *bad, *gone))


def _of_requests(source: Any) -> bool:
    plain = not isinstance(source, str | Path | Mapping | Table) and not hasattr(source, "columns")
    return plain and isinstance(source, Iterable) and not hasattr(source, "column_names")


def _values(request: EditRequest) -> dict[str, Any]:
    return {
        "image": request.image,
        "question": request.question,
        "answer": request.answer,
        "rephrases": list(request.rephrases),
        "id": request.id or None,
    }


def _wanted(row: Row, names: Mapping[str, str], folders: Sequence[Path]) -> Wanted:
    values = {name: row.values.get(names.get(name, name)) for name in COLUMNS}
    if values["rephrases"] is None:
        values["rephrases"] = row.values.get("rephrase")
    if isinstance(values["rephrases"], str):
        values["rephrases"] = values["rephrases"].split("|")
    elif isinstance(values["rephrases"], tuple):
        values["rephrases"] = list(values["rephrases"])
    record = Record(values)
    question, answer = record.text("question"), record.text("answer")
    image, key = picture_of(values["image"], folders)
    request = EditRequest(image, question, answer, record.texts("rephrases"), record.text("id", ""))
    return Wanted(row.line, request, Fact(question, answer, key, request.rephrases), record.text("note", ""))


def picture_of(value: Any, folders: Sequence[Path]) -> tuple[Any, str | None]:
    """A row's picture and its content hash; (None, None) where there is none.  Raises: FieldError."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None, None
    from ..vlm.pictures import picture_key

    if isinstance(value, Mapping):  # as `datasets` holds undecoded pictures
        value = value.get("bytes") or value.get("path")
    try:
        if isinstance(value, str | Path):
            value = _found(str(value).strip(), folders)
        return value, picture_key(value)
    except PictureError as error:
        raise FieldError("image", str(error).removeprefix("image: ")) from None


def _found(name: str, folders: Sequence[Path]) -> Path | str:
    path = Path(name).expanduser()
    if path.is_absolute() or "://" in name:
        return name
    return next((folder / path for folder in folders if (folder / path).is_file()), [*folders, Path()][0] / path)


def _once(wanted: Sequence[Wanted]) -> tuple[list[Wanted], list[Instead]]:
    """Every fact once, the last row of each in its place; and the rows that are left out for it."""
    last: dict[str | None, list[Wanted]] = {}
    instead: dict[int, Instead] = {}
    for one in reversed(wanted):
        others = last.setdefault(one.fact.image_key, [])
        for other in others:
            if one.fact.asks_as(other.fact):
                instead[one.line] = Instead(one.line, other.line, one.fact.answers_as(other.fact))
                break
        else:
            others.append(one)
    return [one for one in wanted if one.line not in instead], [instead[line] for line in sorted(instead)]
