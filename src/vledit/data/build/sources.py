"""Reads (picture, question, answer) records: own CSV or JSONL, and OK-VQA's two files."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vledit.data.build.records import Rejection, SourceRecord
from vledit.data.cache import sha256_file
from vledit.data.image_lookup import ImageLookup, MissingPicture
from vledit.data.records import FieldError, Record, read_records
from vledit.errors import InputError, UnknownNameError

COLUMNS = ("image", "question", "answer", "answers", "id", "category", "object")
"""What own records may have; the first three must be there. `answers`: further right answers, in CSV separated by "|"."""
_SUBTYPES = ("val2014", "train2014")


@dataclass(frozen=True)
class Source:
    """What was read.

    Args:
        rejections: records that cannot be used, with the field that is at fault.
        sha256: of the file.
    """

    path: Path
    kind: str
    sha256: str
    records: tuple[SourceRecord, ...]
    rejections: tuple[Rejection, ...]

    @property
    def read(self) -> int:
        """How many records the file holds."""
        return len(self.records) + len(self.rejections)


def read_source(
    path: Path,
    images: Sequence[Path] = (),
    columns: Mapping[str, str] | None = None,
    questions: Path | None = None,
    limit: int = 0,
) -> Source:
    """Read a source file.

    Args:
        path: ``.csv``, ``.jsonl``, or OK-VQA's annotations (``.json``).
        images: folders that pictures are looked up in (default: the file's own).
        columns: name in `COLUMNS` → the file's own name for it.
        questions: OK-VQA's questions file (default: beside the annotations, under OK-VQA's name for it).
        limit: take so many records, spread evenly; 0 takes all.

    Raises: InputError where the file as a whole is missing or unfit, no record is usable, or a column is named that is not
        there; UnknownNameError for an unknown name in `columns`.
    """
    path = path.expanduser()
    for name in columns or {}:
        if name not in COLUMNS:
            raise UnknownNameError("column", name, COLUMNS)
    if not path.is_file():
        raise InputError(f"source: there is no file '{path}'.")
    if limit < 0:
        raise InputError(f"limit: {limit} given; 0 takes all records.")
    for folder in images:
        if not folder.expanduser().is_dir():
            raise InputError(f"images: there is no folder '{folder}'.")
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    suffix = path.suffix.lower()
    roots = tuple(folder.expanduser() for folder in images) or (path.parent,)
    lookup = ImageLookup(roots, _SUBTYPES, by_name=suffix == ".json")  # COCO's names are unique, others' need not be
    if suffix == ".json":
        kind, rows, convert = "okvqa", *_okvqa(path, questions)
    elif suffix in readers:
        kind, rows, convert = suffix[1:], readers[suffix](path), _own
        rows = [_renamed(row, columns or {}, path) for row in rows]
    else:
        raise InputError(f"source: '{path.name}' is none of .csv, .jsonl and OK-VQA's .json.")
    numbers = range(len(rows))
    if limit and limit < len(rows):
        numbers = [i * len(rows) // limit for i in range(limit)]
    return _collected(path, kind, [(n, rows[n]) for n in numbers], convert, lookup)


Convert = Callable[[int, Record, ImageLookup], SourceRecord]


def _collected(path: Path, kind: str, rows: Sequence[tuple[int, Any]], convert: Convert, lookup: ImageLookup) -> Source:
    records: list[SourceRecord] = []
    rejections: list[Rejection] = []
    ids: set[str] = set()
    for number, row in rows:
        try:
            record = convert(number, Record(row), lookup)
            if record.id in ids:
                raise FieldError("id", f"{record.id!r} was given to an earlier record")
        except FieldError as error:
            rejections.append(Rejection(f"#{number}", "source", "", f"field '{error.field}' {error.text}"))
            continue
        ids.add(record.id)
        records.append(record)
    if not records:
        first = f" The first: {rejections[0].reason}." if rejections else ""
        raise InputError(f"source: no record of '{path}' can be used.{first}")
    return Source(path, kind, sha256_file(path), tuple(records), tuple(rejections))


def _picture(name: str, lookup: ImageLookup, field: str = "image") -> Path:
    found = lookup.find(name)
    if isinstance(found, MissingPicture):
        raise FieldError(field, f"names '{name}', which is not there ({found.reason})")
    return found


# --- own data -------------------------------------------------------------------------------------------------------


def _own(number: int, record: Record, lookup: ImageLookup) -> SourceRecord:
    answer = record.text("answer")
    more = record.values.get("answers")
    if isinstance(more, str):  # in CSV
        more = more.split("|")
    others = Record({"answers": more}).texts("answers")
    return SourceRecord(
        record.text("id", str(number + 1)),
        _picture(record.text("image"), lookup),
        record.text("question"),
        answer,
        tuple(dict.fromkeys([answer, *others])),
        record.text("category", ""),
        record.text("object", ""),
    )


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            rows = [dict(row) for row in reader]
            header = reader.fieldnames or []
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"source: '{path}' cannot be read as CSV in UTF-8 ({error}).") from error
    if len(header) < 3:
        raise InputError(
            f"source: '{path}' has the columns {', '.join(header) or 'none'}; its first line must name at least image, "
            "question and answer, separated by commas."
        )
    for row in rows:  # cells beyond the header
        row.pop(None, None)  # type: ignore[call-overload]
    return rows


def _jsonl_rows(path: Path) -> list[Any]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"source: '{path}' cannot be read as UTF-8 text ({error}).") from error
    rows: list[Any] = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                rows.append(json.loads(line))
        except ValueError as error:
            raise InputError(f"source: '{path}', line {number}: is not JSON ({error}).") from error
    return rows


def _renamed(row: Any, columns: Mapping[str, str], path: Path) -> Any:
    if not isinstance(row, dict):
        return row
    own = dict(row)
    for name, theirs in columns.items():
        if theirs not in row:
            raise InputError(f"source: '{path}' has no column '{theirs}' (it has {', '.join(map(str, row))}).")
        own[name] = row[theirs]
    return own


# --- OK-VQA ---------------------------------------------------------------------------------------------------------


def _okvqa(path: Path, questions: Path | None) -> tuple[list[Any], Convert]:
    """Return the annotations, and how one becomes a record."""
    rows = read_records(path, "source", "annotations")
    kinds = json.loads(path.read_text(encoding="utf-8-sig")).get("question_types") or {}
    beside = f"OpenEnded_{path.name.replace('_annotations', '_questions')}"
    asked = {
        row["question_id"]: row
        for row in read_records(questions or path.with_name(beside), "source", "questions")
        if isinstance(row, dict) and isinstance(row.get("question_id"), int | str)
    }

    def convert(number: int, record: Record, lookup: ImageLookup) -> SourceRecord:
        name = record.text("question_id")
        question = asked.get(record.values["question_id"])
        if question is None:
            raise FieldError("question_id", f"is {name}, which no question has")
        answers = _ranked(record)
        if not answers:
            raise FieldError("answers", "has no answer")
        kind = record.text("question_type", "")
        category = str(kinds.get(kind, kind)) if isinstance(kinds, dict) else kind
        picture = _coco(record.text("image_id"), lookup)
        return SourceRecord(name, picture, Record(question).text("question"), answers[0], answers, category)

    return rows, convert


def _ranked(record: Record) -> tuple[str, ...]:
    """All answers of OK-VQA's annotators, the most frequent first; as they were typed, then as OK-VQA stemmed them."""
    typed = [one.text("raw_answer", one.text("answer", "")) for one in record.records("answers")]
    stemmed = [one.text("answer", "") for one in record.records("answers")]
    ranked = [text for text, _ in Counter(filter(None, typed)).most_common()]
    return tuple(dict.fromkeys([*ranked, *filter(None, stemmed)]))


def _coco(image_id: str, lookup: ImageLookup) -> Path:
    if not image_id.isdecimal():
        raise FieldError("image_id", f"is {image_id!r}, not a whole number")
    names = [f"COCO_{subtype}_{int(image_id):012d}.jpg" for subtype in _SUBTYPES]
    for found in map(lookup.find, names):
        if isinstance(found, Path):
            return found
    return _picture(names[0], lookup, "image_id")


def opened(source: Source) -> Source:
    """The source without records whose picture cannot be opened; these are rejected with the reason."""
    from vledit.errors import PictureError
    from vledit.vlm.pictures import open_picture

    good: list[SourceRecord] = []
    bad: list[Rejection] = []
    for record in source.records:
        try:
            open_picture(record.picture)
            good.append(record)
        except PictureError as error:
            bad.append(Rejection(record.id, "source", record.picture.name, str(error)))
    return replace(source, records=tuple(good), rejections=(*source.rejections, *bad))
