"""Read and write edit cases in OKEDIT's own layout: two JSON files and folders of pictures.

A folder holds ``annotations.json`` and ``questions.json`` (the records of OK-VQA with OKEDIT's fields), ``images/``
(``COCO_val2014_<12 digits>.jpg``), ``rephrase_images/<question_id>/`` (other pictures of the edited thing) and
``locality_images/<question_id>/`` (near-locality pictures). What OKEDIT has no field for (tags, more cells) stands in
one key of its own, ``vledit``, which its other readers pass over, and which this one does without.
Source: OKEDIT, App. A, and the field list of its released files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from vledit.data.cache import write_json_atomic
from vledit.data.case import Cells, EditCase, EditRequest, Probe
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

    Pictures become JPEG (OKEDIT's format), so they come back a little different.
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
    records = _records(annotations or folder / ANNOTATIONS, "annotations")
    asked = {record.get("question_id"): record for record in _records(questions or folder / QUESTIONS, "questions")}
    cases = []
    for record in records:
        try:
            question = asked[record["question_id"]]
            cases.append(_case(record, question, *roots))
        except KeyError as error:
            number = record.get("question_id", "without question_id")
            raise InputError(f"OKEDIT record {number}: no field or question {error}") from error
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


def _case(record: dict[str, Any], question: dict[str, Any], images: Path, rephrases: Path, locality: Path) -> EditCase:
    number, extra = record["question_id"], record.get(EXTRA)
    picture = images / image_name(int(record["image_id"]))
    base = record["answers"][0]["answer"] if record["answers"] else ""
    request = EditRequest(
        image=picture,
        question=question["question"],
        answer=record["counterfact_answer"],
        rephrases=tuple(_many(question.get("rephrased_questions_train"))),
        id=extra["id"] if extra else f"okedit/{number}",
    )
    if extra:
        cells = [_cells(extra[family], images, rephrases, locality) for family in _FAMILIES]
        return EditCase(request, cells[0], cells[1], cells[2], base, extra["tags"])
    worded = [
        Probe(picture, text, None, {}, f"text/{index}")
        for index, text in enumerate(_many(question.get("rephrased_questions")))
    ]
    other = [
        Probe(path, request.question, None, {}, f"image/{index}")
        for index, path in enumerate(_pictures(rephrases / str(number)))
    ]
    near = [
        Probe(path, request.question, record.get("locality_answer"), {}, f"near_image/{index}")
        for index, path in enumerate(_pictures(locality / str(number)))
    ]
    tags = {
        "kind": str(record.get("question_type", "")),
        "domain": str(record.get("counterfact_type", "")),
        "concept": str(record.get("image_object", "")),
    }
    generality: Cells = {"text": tuple(worded), "image": tuple(other)}
    return EditCase(request, generality, {"near_image": tuple(near)}, {}, base, tags)


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


def _records(path: Path, key: str) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"OKEDIT: {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"OKEDIT: {path} is not JSON ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise InputError(f"OKEDIT: {path} has no list {key!r}")
    return content[key]


def _many(value: str | Iterable[str] | None) -> list[str]:
    """Return a field that holds one text or a list of them as a list."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES)


def _save_all(probes: Sequence[Probe], folder: Path) -> None:
    for index, probe in enumerate(probes):
        _save(probe.image, folder / f"{index:03d}.jpg")


def _save(picture: object, path: Path) -> None:
    from vledit.vlm.pictures import open_picture

    path.parent.mkdir(parents=True, exist_ok=True)
    image: Image = open_picture(picture)
    image.save(path, "JPEG", quality=_QUALITY, subsampling=0)
