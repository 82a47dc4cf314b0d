"""Rows of a table from any source: CSV, JSON Lines, JSON and YAML files, DataFrames, `datasets` tables, any iterable.

Every row keeps its line number, so that errors can be found in the file.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..paths import local, reason

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".yaml", ".yml")


@dataclass(frozen=True)
class Row:
    """One row.

    Args:
        line: number of the line it begins on, counted from 1; of an iterable the row's own number.
        values: column → value.
    """

    line: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Unfit:
    """A row that cannot be used, and why; line 0: where it stands is not known."""

    line: int
    field: str
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.field} {self.reason}" if self.line else f"{self.field} {self.reason}"


@dataclass(frozen=True)
class Table:
    """What was read.

    Args:
        rows: those that are rows at all; what is in them is not checked yet.
        unfit: lines that are none.
        columns: names that at least one row has, in their order.
        folder: where relative picture paths start.
    """

    rows: tuple[Row, ...]
    unfit: tuple[Unfit, ...]
    columns: tuple[str, ...]
    folder: Path | None = None

    def need(self, names: Sequence[str]) -> None:
        """Raises: InputError where no row has one of these columns, with the near miss."""
        for name in names:
            if self.rows and name not in self.columns:
                near = difflib.get_close_matches(name, self.columns, n=1, cutoff=0.5)
                hint = f" Is '{near[0]}' meant? Rename it." if near else ""
                there = ", ".join(self.columns) or "no columns"
                raise InputError(f"column '{name}' is missing: the table has {there}.{hint}")


def read_table(path: str | Path) -> Table:
    """Reads a file; its suffix says in which format it is (`SUFFIXES`).

    JSON and YAML hold a list of objects, or an object with exactly one such list in it.

    Raises: InputError where the file is missing, of another format, or as a whole not readable.
    """
    path = local(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"'{path.name}': a file that ends in {', '.join(SUFFIXES)} is expected.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"there is no file '{path}'. Check the path.") from None
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({reason(error)}). Check its permissions.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not UTF-8 text ({error}). Save it as UTF-8.") from None
    try:
        if suffix in (".csv", ".tsv"):
            found = _csv(text, "\t" if suffix == ".tsv" else ",")
        elif suffix == ".jsonl":
            found = _jsonl(text)
        elif suffix == ".json":
            found = _json(text)
        else:
            found = _yaml(text)
    except (ValueError, csv.Error) as error:
        raise InputError(f"'{path}' cannot be read as {suffix[1:].upper()}: {error}") from None
    rows = tuple(one for one in found if isinstance(one, Row))
    unfit = tuple(one for one in found if isinstance(one, Unfit))
    return Table(rows, unfit, _columns(rows), path.absolute().parent)


def table_of(source: Any) -> Table:
    """The table in a path, a pandas DataFrame, a `datasets` table, or an iterable of mappings.

    Raises: InputError for anything else.
    """
    if isinstance(source, str | Path):
        return read_table(source)
    if isinstance(source, Table):
        return source
    if callable(getattr(source, "to_dict", None)) and hasattr(
        source, "columns"
    ):  # a DataFrame: its missing cells are NaN
        source = [
            {str(name): value for name, value in row.items() if not _is_nan(value)} for row in source.to_dict("records")
        ]
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise InputError(
            f"rows: a {type(source).__name__} is no table. Give a path, a DataFrame, a datasets table, or an iterable of dicts."
        )
    found: list[Row | Unfit] = []
    for number, one in enumerate(source, start=1):
        found.append(Row(number, one) if isinstance(one, Mapping) else _no_object(number, one))
    rows = tuple(one for one in found if isinstance(one, Row))
    return Table(rows, tuple(one for one in found if isinstance(one, Unfit)), _columns(rows))


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def _columns(rows: Iterable[Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(name) for row in rows for name in row.values))


def _no_object(line: int, value: Any) -> Unfit:
    return Unfit(line, "row", f"is a {type(value).__name__}, not an object with named fields")


def _csv(text: str, delimiter: str) -> list[Row | Unfit]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    found: list[Row | Unfit] = []
    line = 1
    for cells in reader:
        here, line = line, reader.line_num + 1
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            if doubled := {name for name in header if header.count(name) > 1}:
                raise ValueError(f"its first line names the column '{doubled.pop()}' twice. Rename one.")
        elif len(cells) != len(header):
            text_ = (
                f"has {len(cells)} cells, the first line names {len(header)} columns (a comma in a text needs quotes)"
            )
            found.append(Unfit(here, "row", text_))
        else:
            found.append(Row(here, {name: cell for name, cell in zip(header, cells, strict=True) if cell.strip()}))
    if header is None:
        raise ValueError("it is empty. Its first line must name the columns.")
    if not any(isinstance(one, Row) for one in found):
        return found
    first = next(
        one for one in found if isinstance(one, Row)
    )  # a column that is empty throughout is there all the same
    found[found.index(first)] = Row(first.line, {**dict.fromkeys(header), **first.values})
    return found


def _jsonl(text: str) -> list[Row | Unfit]:
    found: list[Row | Unfit] = []
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            value = json.loads(content)
        except ValueError as error:
            found.append(Unfit(line, "row", f"is not JSON ({error})"))
            continue
        found.append(Row(line, value) if isinstance(value, dict) else _no_object(line, value))
    return found


def _json(text: str) -> list[Row | Unfit]:
    """Items of a list one by one, for the line that each begins on."""
    content = json.loads(text)
    start = text.find("[")
    if isinstance(content, dict):
        name = _only_list(content)
        start = text.find("[", text.find(json.dumps(name)))
    elif not isinstance(content, list):
        raise ValueError("it holds no list of rows.")
    decoder, found, place = json.JSONDecoder(), [], start + 1
    while True:
        while text[place].isspace() or text[place] == ",":
            place += 1
        if text[place] == "]":
            return found
        value, end = decoder.raw_decode(text, place)
        line = text.count("\n", 0, place) + 1
        found.append(Row(line, value) if isinstance(value, dict) else _no_object(line, value))
        place = end


def _yaml(text: str) -> list[Row | Unfit]:
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if isinstance(node, yaml.MappingNode):
            lists = [value for _, value in node.value if isinstance(value, yaml.SequenceNode)]
            node = lists[0] if len(lists) == 1 else None
        if not isinstance(node, yaml.SequenceNode):
            raise ValueError("it holds no list of rows.")
        found: list[Row | Unfit] = []
        for child in node.value:
            line = child.start_mark.line + 1
            value = loader.construct_object(child, deep=True)  # type: ignore[no-untyped-call]
            found.append(Row(line, value) if isinstance(value, dict) else _no_object(line, value))
        return found
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    finally:
        loader.dispose()


def _only_list(content: Mapping[str, Any]) -> str:
    lists = [name for name, value in content.items() if isinstance(value, list)]
    if len(lists) != 1:
        raise ValueError(f"it is an object with {len(lists)} lists in it. Give a list of rows, or an object with one.")
    return lists[0]
