"""Read and write edit cases in OKEDIT's own layout: two JSON files and folders of pictures.

A folder holds ``annotations.json`` and ``questions.json`` (the records of OK-VQA with OKEDIT's fields), ``images/``
(``COCO_val2014_<12 digits>.jpg``), ``rephrase_images/<question_id>/`` (other pictures of the edited thing) and
``locality_images/<question_id>/`` (near-locality pictures). What OKEDIT has no field for (tags, more cells) stands in
one key of its own, ``vledit``, which its other readers pass over, and which this one does without.
Source: OKEDIT, App. A, and the field list of its released files.

As the benchmark ``okedit`` the files are taken from wherever they are: the questions beside the annotations under either
name that they have, COCO's pictures and the two folders of generated ones below the roots.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL.Image import Image

from vledit.data.benchmarks import Benchmark
from vledit.data.cache import write_json_atomic
from vledit.data.case import Cells, EditCase, EditRequest, Probe
from vledit.data.fingerprint import Fingerprint, Known, distinct, fingerprint, multi_word
from vledit.data.image_lookup import ImageLookup, MissingPicture
from vledit.data.reading import Files, Reading, collect
from vledit.data.records import FieldError, Record, read_records, unquoted
from vledit.errors import InputError

ANNOTATIONS, QUESTIONS = "annotations.json", "questions.json"
IMAGES, REPHRASE_ROOT, LOCALITY_ROOT = "images", "rephrase_images", "locality_images"
EXTRA = "vledit"
_QUALITY = 95
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def image_name(image_id: int) -> str:
    """Return the file name of an image id: ``COCO_val2014_000000000042.jpg``."""
    return f"COCO_val2014_{image_id:012d}.jpg"


def write(cases: Sequence[EditCase], folder: Path) -> Path:
    """Write `cases` under `folder` and return it; question and image ids count from 1.

    Pictures become JPEG (OKEDIT's format), so they come back a little different; JPEG files are copied as they are.
    Raises: InputError for a case whose request has no picture, which the layout cannot hold.
    """
    annotations, questions = [], []
    for number, case in enumerate(cases, start=1):
        if case.request.image is None:
            raise InputError(f"{case.id}: OKEDIT's layout holds edits of pictures only, and this one has none")
        _save(case.request.image, folder / IMAGES / image_name(number))
        annotations.append(_annotation(case, number, folder))
        questions.append(
            {
                "question_id": number,
                "image_id": number,
                "question": case.request.question,
                "rephrased_questions": [probe.question for probe in case.generality.get("text", ())],
                "rephrased_questions_train": list(case.request.rephrases),
            }
        )
    write_json_atomic(folder / ANNOTATIONS, {"annotations": annotations})
    write_json_atomic(folder / QUESTIONS, {"questions": questions})
    return folder


def read(
    folder: Path,
    annotations: Path | None = None,
    questions: Path | None = None,
    images: Path | None = None,
    rephrase_root: Path | None = None,
    locality_root: Path | None = None,
) -> list[EditCase]:
    """Return the cases of OKEDIT's files; pictures are paths, opened when they are needed.

    Each path stands in `folder` under the name that `write` gives it, unless told.
    Raises: InputError naming the file, and the record and field, that is missing or unfit.
    """
    roots = (
        images or folder / IMAGES,
        rephrase_root or folder / REPHRASE_ROOT,
        locality_root or folder / LOCALITY_ROOT,
    )
    records = read_records(annotations or folder / ANNOTATIONS, "OKEDIT", "annotations")
    asked = {
        record.get("question_id"): record
        for record in read_records(questions or folder / QUESTIONS, "OKEDIT", "questions")
        if isinstance(record, dict)
    }
    cases = []
    for position, values in enumerate(records):
        try:
            record, question = _joined(Record(values), asked)
            picture = roots[0] / image_name(_number(record))
            cases.append(_case(record, question, picture, *roots))
        except FieldError as error:
            number = values.get("question_id", position) if isinstance(values, dict) else position
            raise InputError(f"OKEDIT record {number}: field '{error.field}' {error.text}") from error
    return cases


def _annotation(case: EditCase, number: int, folder: Path) -> dict[str, Any]:
    near = case.locality.get("near_image", ())
    _save_all(case.generality.get("image", ()), folder / REPHRASE_ROOT / str(number))
    _save_all(near, folder / LOCALITY_ROOT / str(number))
    answers = [probe.answer for probe in near]
    return {
        "question_id": number,
        "image_id": number,
        "question_type": case.tags.get("kind", ""),
        "answers": [{"answer": case.base_answer}],
        "counterfact_answer": case.request.answer,
        "counterfact_type": case.tags.get("domain", ""),
        "locality_answer": answers[0] if answers else None,
        "locality_answer_train": answers[0] if answers else None,
        "image_object": case.tags.get("concept", ""),
        "locality_image_object": near[0].tags.get("concept", "") if near else "",
        EXTRA: _extra(case, number, folder),
    }


def _extra(case: EditCase, number: int, folder: Path) -> dict[str, Any]:
    """Return what OKEDIT has no field for; a probe's picture is a path relative to the folder, or null."""
    known = {"text": None, "image": REPHRASE_ROOT, "near_image": LOCALITY_ROOT}
    families: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for family in ("generality", "locality", "portability"):
        cells: Mapping[str, tuple[Probe, ...]] = getattr(case, family)
        families[family] = {}
        for cell, probes in cells.items():
            rows = []
            for index, probe in enumerate(probes):
                path = None
                if probe.image is case.request.image:
                    path = f"{IMAGES}/{image_name(number)}"
                elif probe.image is not None and known.get(cell):
                    path = f"{known[cell]}/{number}/{index:03d}.jpg"
                elif probe.image is not None:
                    path = f"{EXTRA}_images/{number}/{cell}_{index:03d}.jpg"
                    _save(probe.image, folder / path)
                row = {"question": probe.question, "answer": probe.answer, "tags": dict(probe.tags), "id": probe.id}
                rows.append({**row, "image": path})
            families[family][cell] = rows
    return {"id": case.id, "tags": dict(case.tags), **families}


Tidy = Callable[[str], str]


def _joined(record: Record, asked: Mapping[Any, Any]) -> tuple[Record, Record]:
    """Return a record and its question's.  Raises: FieldError where it has none."""
    number = record.values.get("question_id")
    if not isinstance(number, int | str) or number not in asked:
        raise FieldError("question_id", f"is {number!r}, which no question has")
    return record, Record(asked[number])


def _number(record: Record) -> int:
    text = record.text("image_id")
    if not text.isdecimal():
        raise FieldError("image_id", f"is {text!r}, not a whole number")
    return int(text)


def _case(
    record: Record,
    question: Record,
    picture: Path | MissingPicture,
    images: Path,
    rephrases: Path,
    locality: Path,
    tidy: Tidy = str,
) -> EditCase:
    """Return the case of one record.  Raises: FieldError for a field that is missing or unfit."""
    number, extra = record.values["question_id"], record.values.get(EXTRA)
    answers = record.records("answers")
    base = tidy(answers[0].text("answer", "")) if answers else ""
    request = EditRequest(
        image=picture,
        question=tidy(question.text("question")),
        answer=tidy(record.text("counterfact_answer")),
        rephrases=tuple(map(tidy, question.texts("rephrased_questions_train"))),
        id=f"okedit/{number}",
    )
    if extra is not None:
        return _own_case(request, base, extra, images, rephrases, locality)
    worded = [
        Probe(picture, tidy(text), None, {}, f"text/{index}")
        for index, text in enumerate(question.texts("rephrased_questions"))
    ]
    other = [
        Probe(path, request.question, None, {}, f"image/{index}")
        for index, path in enumerate(_pictures(rephrases / str(number)))
    ]
    third = tidy(record.text("locality_answer", "")) or None
    near = [
        Probe(path, request.question, third, {}, f"near_image/{index}")
        for index, path in enumerate(_pictures(locality / str(number)))
    ]
    tags = {
        "kind": record.text("question_type", ""),
        "domain": record.text("counterfact_type", ""),
        "concept": record.text("image_object", ""),
    }
    generality: Cells = {"text": tuple(worded), "image": tuple(other)}
    return EditCase(request, generality, {"near_image": tuple(near)}, {}, base, tags)


def _own_case(request: EditRequest, base: str, extra: Any, images: Path, rephrases: Path, locality: Path) -> EditCase:
    """Return a case with what `_extra` wrote."""
    try:
        cells = [_cells(extra[family], images, rephrases, locality) for family in _FAMILIES]
        return EditCase(replace(request, id=extra["id"]), cells[0], cells[1], cells[2], base, extra["tags"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FieldError(EXTRA, f"is not as vledit.data.okedit.write makes it ({error!r})") from error


_FAMILIES = ("generality", "locality", "portability")


def _cells(cells: dict[str, list[dict[str, Any]]], images: Path, rephrases: Path, locality: Path) -> Cells:
    roots = {IMAGES: images, REPHRASE_ROOT: rephrases, LOCALITY_ROOT: locality}

    def located(name: str | None) -> Path | None:
        if name is None:
            return None
        first, _, rest = name.partition("/")
        return roots.get(first, images.parent / first) / rest

    return {
        cell: tuple(
            Probe(located(row["image"]), row["question"], row["answer"], row["tags"], row["id"]) for row in rows
        )
        for cell, rows in cells.items()
    }


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES)


def _save_all(probes: Sequence[Probe], folder: Path) -> None:
    for index, probe in enumerate(probes):
        _save(probe.image, folder / f"{index:03d}.jpg")


def _save(picture: object, path: Path) -> None:
    from vledit.vlm.pictures import open_picture

    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(picture, Path) and picture.suffix.lower() in (".jpg", ".jpeg") and picture.is_file():
        shutil.copyfile(picture, path)  # byte for byte: what was verified is what is published
        return
    image: Image = open_picture(picture)
    image.save(path, "JPEG", quality=_QUALITY, subsampling=0)


# --- as a benchmark -------------------------------------------------------------------------------------------------

KNOWN = (
    Known("OKEDIT test (val2014)", counts={"records": 5046}, source="BalancEdit, Table 2"),
    Known("OKEDIT train (train2014)", counts={"records": 9009}, source="BalancEdit, Table 2"),
)
_REPHRASE_FOLDERS = (REPHRASE_ROOT, "rephrased_images", "rephrased_images_dalle2")
_LOCALITY_FOLDERS = (LOCALITY_ROOT, "locality_images_dalle2")
_SUBTYPES = ("val2014", "train2014")


def read_files(files: Files) -> Reading:
    """Return the cases of OKEDIT's files, wherever they are.

    Raises: InputError where a file as a whole is missing or unfit; single records and pictures are in the reading.
    """
    path = files.need_annotations("okedit")
    records = read_records(path, "okedit", "annotations")
    asked = {
        record["question_id"]: record
        for record in read_records(_questions_file(files, path), "okedit", "questions")
        if isinstance(record, dict) and isinstance(record.get("question_id"), int | str)
    }
    lookup = ImageLookup(files.roots, (IMAGES, *_SUBTYPES), by_name=True)
    root = files.roots[0]
    folders = (
        lookup.folder(IMAGES) or root / IMAGES,
        _folder(files, lookup, "rephrase_images", _REPHRASE_FOLDERS, root),
        _folder(files, lookup, "locality_images", _LOCALITY_FOLDERS, root),
    )
    tidy = str if files.as_published else unquoted

    def convert(index: int, record: Record) -> EditCase:
        record, question = _joined(record, asked)
        case = _case(record, question, _picture(lookup, _number(record)), *folders, tidy)
        return _with_marks(case, str(record.values["question_id"]), *folders[1:])

    return collect("okedit", records, convert, _fingerprint(records, asked))


def _picture(lookup: ImageLookup, image_id: int) -> Path | MissingPicture:
    found = [lookup.find(image_name(image_id).replace("val2014", subtype)) for subtype in _SUBTYPES]
    return next((path for path in found if isinstance(path, Path)), found[0])


def _with_marks(case: EditCase, number: str, rephrases: Path, locality: Path) -> EditCase:
    """Return the case with a `MissingPicture` for each path that leads nowhere and each folder without a picture."""

    def marked(probe: Probe) -> Probe:
        if isinstance(probe.image, Path) and not probe.image.is_file():
            return replace(probe, image=MissingPicture(str(probe.image), "no such file"))
        return probe

    def cells(of: Cells, cell: str, folder: Path) -> Cells:
        found = {name: tuple(map(marked, probes)) for name, probes in of.items()}
        if found.get(cell) == ():
            gone = MissingPicture(f"{folder.name}/{number}/", f"no picture in {folder / number}")
            found[cell] = (Probe(gone, case.request.question),)
        return found

    return replace(
        case,
        generality=cells(case.generality, "image", rephrases),
        locality=cells(case.locality, "near_image", locality),
        portability=cells(case.portability, "", rephrases),
    )


def _questions_file(files: Files, annotations: Path) -> Path:
    """Return the file that was told, else the one beside the annotations: ours, or with OK-VQA's name."""
    if "questions" in files.more:
        return Path(files.more["questions"]).expanduser()
    theirs = f"OpenEnded_{annotations.name.replace('_annotations', '_questions')}"
    return next((p for p in (annotations.parent / theirs,) if p.exists()), annotations.parent / QUESTIONS)


def _folder(files: Files, lookup: ImageLookup, told: str, names: Sequence[str], root: Path) -> Path:
    if told not in files.more:
        return lookup.folder(*names) or root / names[0]
    folder = Path(files.more[told]).expanduser()
    if not folder.is_dir():
        raise InputError(f"{told}: there is no folder '{folder}'.")
    return folder


def _fingerprint(records: Sequence[Any], asked: Mapping[Any, Any]) -> Fingerprint:
    questions = [asked.get(r.get("question_id")) for r in records if isinstance(r, dict) and _is_id(r)]
    counts = {
        "records": len(records),
        "distinct questions": distinct(questions, "question"),
        "distinct targets": distinct(records, "counterfact_answer"),
        "targets of several words": multi_word(records, "counterfact_answer"),
        "records with a locality answer": sum(isinstance(r, dict) and bool(r.get("locality_answer")) for r in records),
    }
    return fingerprint([records, questions], counts, KNOWN)


def _is_id(record: dict[str, Any]) -> bool:
    return isinstance(record.get("question_id"), int | str)


BENCHMARK = Benchmark(
    "okedit",
    "OKEDIT: OK-VQA with counterfactual answers, ten rephrasings, generated pictures, near-locality pictures",
    "https://github.com/donglgcn/EasyEdit, branch MMOKVQA, folder vqautils (annotations and questions); val2014: "
    "https://cocodataset.org; or write one's own: vledit.data.okedit.write",
    read_files,
    more={
        "questions": "the questions file (default: beside the annotations, questions.json or OK-VQA's name for it)",
        "rephrase_images": "folder of <question_id>/… pictures of the edited thing (default: found below --images)",
        "locality_images": "folder of <question_id>/… near-locality pictures (default: found below --images)",
    },
)
