"""OKEDIT's own files as a benchmark, wherever their parts are, beside the layout that `okedit.write` makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vledit.data import benchmarks, okedit
from vledit.data.case import EditCase, EditRequest, Probe
from vledit.data.reading import Files, Reading, demand
from vledit.errors import InputError

from .miniature_benchmarks import OKEDIT_ANNOTATION, OKEDIT_QUESTION, draw, write_json

ID = OKEDIT_ANNOTATION["question_id"]
PICTURE = "val2014/COCO_val2014_000000297147.jpg"


def published(
    root: Path, annotation: Any = OKEDIT_ANNOTATION, question: Any = OKEDIT_QUESTION, images: bool = True
) -> Files:
    write_json(root / "mscoco_val2014_annotations.json", {"annotations": [annotation]})
    write_json(root / "OpenEnded_mscoco_val2014_questions.json", {"questions": [question]})
    if images:
        draw(root, PICTURE, *(f"rephrased_images/{ID}/{n}.jpg" for n in range(3)), f"locality_images_dalle2/{ID}/0.png")
    return Files(root / "mscoco_val2014_annotations.json", (root,))


def read(files: Files) -> Reading:
    return benchmarks.read("okedit", files)


def test_the_published_names_are_found(tmp_path: Path):
    (case,) = demand(read(published(tmp_path)))
    assert case.id == f"okedit/{ID}"
    assert (case.request.answer, case.base_answer) == ("ice skating", "racing")
    assert case.request.image == tmp_path / PICTURE
    assert case.request.rephrases == tuple(OKEDIT_QUESTION["rephrased_questions_train"])
    assert len(case.generality["text"]) == 10
    assert [probe.image.name for probe in case.generality["image"]] == ["0.jpg", "1.jpg", "2.jpg"]
    (near,) = case.locality["near_image"]
    assert (near.image, near.answer) == (tmp_path / f"locality_images_dalle2/{ID}/0.png", "horse riding")
    assert case.tags["concept"] == "motorcycle"


def test_folders_can_be_told(tmp_path: Path):
    files = published(tmp_path)
    (tmp_path / "rephrased_images").rename(tmp_path / "r")
    (tmp_path / "OpenEnded_mscoco_val2014_questions.json").rename(tmp_path / "q.json")
    told = {"rephrase_images": str(tmp_path / "r"), "questions": str(tmp_path / "q.json")}
    (case,) = demand(read(Files(files.annotations, files.images, told)))
    assert len(case.generality["image"]) == 3
    with pytest.raises(InputError, match="rephrase_images: there is no folder"):
        read(Files(files.annotations, files.images, {**told, "rephrase_images": str(tmp_path / "absent")}))


def test_pictures_of_the_training_half_are_found(tmp_path: Path):
    files = published(tmp_path)
    (tmp_path / "train2014").mkdir()
    (tmp_path / PICTURE).rename(tmp_path / "train2014/COCO_train2014_000000297147.jpg")
    (case,) = demand(read(files))
    assert case.request.image == tmp_path / "train2014/COCO_train2014_000000297147.jpg"


def test_a_folder_without_pictures_is_missing_not_empty(tmp_path: Path):
    files = published(tmp_path, images=False)
    draw(tmp_path, PICTURE, f"rephrased_images/{ID}/0.jpg")
    reading = read(files)
    assert [missing.name for missing in reading.missing] == [f"locality_images/{ID}/"]
    (case,) = demand(reading, skip_missing=True)
    assert case.locality == {}


@pytest.mark.parametrize(
    ("annotation", "question", "field"),
    [
        ({"counterfact_answer": ""}, {}, "counterfact_answer"),
        ({"image_id": "x"}, {}, "image_id"),
        ({"image_id": None}, {}, "image_id"),
        ({"answers": "racing"}, {}, "answers"),
        ({"question_id": 5}, {}, "question_id"),
        ({"question_id": [5]}, {}, "question_id"),
        ({"locality_answer": ["a", "b"]}, {}, "locality_answer"),
        ({}, {"question": None}, "question"),
        ({}, {"rephrased_questions": [1]}, "rephrased_questions"),
        ({"vledit": {"id": "x"}}, {}, "vledit"),
    ],
)
def test_unfit_records_are_named(tmp_path: Path, annotation: dict, question: dict, field: str):
    files = published(tmp_path, {**OKEDIT_ANNOTATION, **annotation}, {**OKEDIT_QUESTION, **question})
    assert [bad.field for bad in read(files).bad] == [field]


def test_as_published_keeps_stray_quotes(tmp_path: Path):
    files = published(tmp_path)
    (case,) = demand(read(Files(files.annotations, files.images, as_published=True)))
    assert case.locality["near_image"][0].answer == "'horse riding'"


def test_what_write_makes_is_read_with_every_cell(tmp_path: Path):
    shown = Image.new("RGB", (8, 8), (9, 90, 200))
    request = EditRequest(shown, "What is this?", "grey wolf", ("Name it.",), "mine/1")
    case = EditCase(
        request,
        {"text": (Probe(shown, "Name this.", None, {}, "text/0"),)},
        {
            "text": (Probe(None, "What is the capital of Peru?", "Lima", {}, "t/0"),),
            "black": (Probe(shown, "q", None, {}, "b"),),
        },
        {"1-hop": (Probe(shown, "What does it eat?", "small animals", {}, "h"),)},
        "red fox",
        {"kind": "name"},
    )
    okedit.write([case], tmp_path)
    (back,) = demand(read(Files(tmp_path / "annotations.json", (tmp_path,))))
    assert (back.id, back.request.answer, back.base_answer) == ("mine/1", "grey wolf", "red fox")
    assert [(f, c, p.question, p.answer) for f, c, _, p in back.probes()] == [
        (f, c, p.question, p.answer) for f, c, _, p in case.probes()
    ]
    assert all(probe.image is None or probe.image.is_file() for *_, probe in back.probes())


def test_a_picture_that_write_made_and_that_is_gone_is_listed(tmp_path: Path):
    shown = Image.new("RGB", (8, 8), (9, 90, 200))
    request = EditRequest(shown, "What is this?", "wolf", (), "mine/1")
    near = tuple(Probe(shown.copy(), "What is this?", "cat", {}, f"n/{n}") for n in range(2))
    okedit.write([EditCase(request, {}, {"near_image": near})], tmp_path)
    (tmp_path / "locality_images/1/001.jpg").unlink()
    reading = read(Files(tmp_path / "annotations.json", (tmp_path,)))
    assert [Path(missing.name).name for missing in reading.missing] == ["001.jpg"]
    assert len(reading.cases[0].locality["near_image"]) == 1


def test_a_hop_whose_picture_is_gone_is_listed(tmp_path: Path):
    shown = Image.new("RGB", (8, 8), (9, 90, 200))
    hop = Probe(shown.copy(), "What does it eat?", "small animals", {}, "h")
    okedit.write([EditCase(EditRequest(shown, "q?", "wolf", (), "mine/1"), {}, {}, {"1-hop": (hop,)})], tmp_path)
    (tmp_path / "vledit_images/1/1-hop_000.jpg").unlink()
    reading = read(Files(tmp_path / "annotations.json", (tmp_path,)))
    assert reading.dropped == {"portability/1-hop": 1}
