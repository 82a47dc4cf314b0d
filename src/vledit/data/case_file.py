"""VLEdit's own file of edit cases: JSON Lines, one `EditCase` a line, pictures as paths relative to the file.

As the benchmark ``cases`` it is scored like any other: ``vledit bench --benchmark cases --annotations cases.jsonl``. It holds
what the published layouts cannot: any cell, tags, and edits without a picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vledit.data.benchmarks import Benchmark
from vledit.data.cache import write_atomic
from vledit.data.case import Cells, EditCase, EditRequest, Probe
from vledit.data.fingerprint import distinct, fingerprint, multi_word
from vledit.data.image_lookup import ImageLookup, MissingPicture
from vledit.data.reading import FAMILIES, Files, Reading, collect
from vledit.data.records import FieldError, Record
from vledit.errors import InputError


def write(cases: Sequence[EditCase], path: Path) -> Path:
    """Write `cases` to `path` and return it.

    Raises: InputError for a picture that is not a file, which has no path to be named by.
    """
    lines = [json.dumps(_line(case, path.parent), ensure_ascii=False, sort_keys=True) for case in cases]
    write_atomic(path, "".join(f"{line}\n" for line in lines).encode())
    return path


def _line(case: EditCase, folder: Path) -> dict[str, Any]:
    def named(image: object, cell: str) -> str | None:
        if image is None:
            return None
        if not isinstance(image, str | Path):
            raise InputError(
                f"{case.id}, {cell}: its picture is no file; a file of cases names pictures by their paths."
            )
        path = Path(image)
        return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)

    def row(probe: Probe, cell: str) -> dict[str, Any]:
        found = {"image": named(probe.image, cell), "question": probe.question, "answer": probe.answer}
        return {**found, "tags": dict(probe.tags), "id": probe.id}

    request = case.request
    return {
        "id": request.id,
        "image": named(request.image, "edit"),
        "question": request.question,
        "answer": request.answer,
        "rephrases": list(request.rephrases),
        "base_answer": case.base_answer,
        "tags": dict(case.tags),
        **{
            family: {cell: [row(probe, cell) for probe in probes] for cell, probes in getattr(case, family).items()}
            for family in FAMILIES
        },
    }


def read_files(files: Files) -> Reading:
    """Return the cases of a file.

    Raises: InputError where the file as a whole is missing or unfit; single records and pictures are in the reading.
    """
    path = files.need_annotations("cases")
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"cases: {path} cannot be read as UTF-8 text ({error}).") from error
    records: list[Any] = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise InputError(
                f"cases: {path}, case {number}: is not JSON ({error}). Each line must be one case."
            ) from error
    lookup = ImageLookup((*files.roots, path.parent))

    def picture(name: str | None) -> Path | MissingPicture | None:
        return None if name is None else lookup.find(name)

    known = [record for record in records if isinstance(record, dict)]
    counts = {
        "records": len(records),
        "distinct questions": distinct(known, "question"),
        "distinct targets": distinct(known, "answer"),
        "targets of several words": multi_word(known, "answer"),
    }
    return collect("cases", records, lambda _, record: _case(record, picture), fingerprint([records], counts, ()))


Find = Callable[[str | None], object]


def _case(record: Record, picture: Find) -> EditCase:
    request = EditRequest(
        picture(_image(record)),
        record.text("question"),
        record.text("answer"),
        record.texts("rephrases"),
        record.text("id"),
    )
    cells = {family: _cells(record, family, picture) for family in FAMILIES}
    return EditCase(
        request,
        cells["generality"],
        cells["locality"],
        cells["portability"],
        record.text("base_answer", ""),
        _tags(record),
    )


def _image(record: Record) -> str | None:
    return record.text("image") if record.values.get("image") is not None else None


def _tags(record: Record) -> dict[str, str]:
    tags = record.values.get("tags") or {}
    if not isinstance(tags, Mapping) or not all(isinstance(value, str) for value in tags.values()):
        raise FieldError("tags", "is not an object of texts")
    return {str(name): value for name, value in tags.items()}


def _cells(record: Record, family: str, picture: Find) -> Cells:
    cells = record.values.get(family) or {}
    if not isinstance(cells, Mapping):
        raise FieldError(family, "is not an object of cells")
    found: dict[str, tuple[Probe, ...]] = {}
    for cell in cells:
        try:
            found[str(cell)] = tuple(
                Probe(
                    picture(_image(row)),
                    row.text("question"),
                    row.text("answer", "") or None,
                    _tags(row),
                    row.text("id", f"{cell}/{n}"),
                )
                for n, row in enumerate(Record(cells).records(cell))
            )
        except FieldError as error:
            raise FieldError(f"{family}.{cell}", f"{error.field} {error.text}") from error
    return found


BENCHMARK = Benchmark(
    "cases",
    "VLEdit's own JSON Lines: any cells, also without pictures; what `vledit data build okedit` writes",
    "made by `vledit data build okedit`, or one's own: vledit.data.case_file.write",
    read_files,
)
