"""OKEDIT's layout: what is written comes back, and files that others wrote are read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from vledit.data import okedit
from vledit.data.case import EditCase, EditRequest, Probe
from vledit.errors import InputError


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (24, 24), (shade, 255 - shade, 90))


@pytest.fixture
def case() -> EditCase:
    request = EditRequest(picture(10), "What is this?", "wolf", ("Name it.",), "icons/things/fox/name")
    return EditCase(
        request=request,
        base_answer="fox",
        generality={
            "text": (Probe(request.image, "Name this.", None, {"wording": "test"}, "text/0"),),
            "image": tuple(
                Probe(picture(20 + i), request.question, None, {"hand": "x"}, f"image/{i}") for i in range(3)
            ),
        },
        locality={
            "near_image": (Probe(picture(90), request.question, "cat", {"concept": "things/cat"}, "near/0"),),
            "text": (Probe(None, "What is the capital of Peru?", "Lima", {}, "text_locality/0"),),
            "black": (Probe(picture(0), request.question, None, {}, "black"),),
        },
        tags={"kind": "name", "domain": "things", "split": "test", "concept": "things/fox"},
    )


def without_pictures(case: EditCase) -> list[object]:
    head = (case.request.question, case.request.answer, case.request.rephrases, case.id, case.base_answer, case.tags)
    probes = [
        (family, cell, index, probe.question, probe.answer, probe.tags, probe.id, probe.image is None)
        for family, cell, index, probe in case.probes()
    ]
    return [head, *probes]


def test_round_trip_keeps_everything(case, tmp_path):
    (back,) = okedit.read(okedit.write([case], tmp_path))
    assert without_pictures(back) == without_pictures(case)
    for (*_, before), (*_, after) in zip(case.probes(), back.probes(), strict=True):
        if before.image is not None:
            shown = np.asarray(Image.open(after.image)).astype(int)
            assert np.abs(shown - np.asarray(before.image)).max() < 8


def test_the_layout_is_okedits(case, tmp_path):
    okedit.write([case], tmp_path)
    (record,) = json.loads((tmp_path / "annotations.json").read_text())["annotations"]
    (question,) = json.loads((tmp_path / "questions.json").read_text())["questions"]
    assert record["counterfact_answer"] == "wolf"
    assert record["answers"] == [{"answer": "fox"}]
    assert record["locality_answer"] == "cat"
    assert question["rephrased_questions"] == ["Name this."]
    assert (tmp_path / "images" / "COCO_val2014_000000000001.jpg").exists()
    assert len(list((tmp_path / "rephrase_images" / "1").iterdir())) == 3
    assert len(list((tmp_path / "locality_images" / "1").iterdir())) == 1


def test_files_without_our_own_key_are_read(case, tmp_path):
    okedit.write([case], tmp_path)
    path = tmp_path / "annotations.json"
    content = json.loads(path.read_text())
    del content["annotations"][0]["vledit"]
    path.write_text(json.dumps(content))
    (back,) = okedit.read(tmp_path)
    assert (back.request.answer, back.base_answer, back.id) == ("wolf", "fox", "okedit/1")
    assert [probe.question for probe in back.generality["text"]] == ["Name this."]
    assert len(back.generality["image"]) == 3
    assert [probe.answer for probe in back.locality["near_image"]] == ["cat"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "questions.json").unlink(), "questions.json cannot be read"),
        (lambda folder: (folder / "questions.json").write_text("{"), "questions.json is not JSON"),
        (lambda folder: (folder / "annotations.json").write_text("[]"), "no list 'annotations'"),
        (lambda folder: (folder / "questions.json").write_text('{"questions": []}'), "record 1"),
    ],
)
def test_unfit_files_are_named(case, tmp_path, damage, message):
    okedit.write([case], tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        okedit.read(tmp_path)


def test_an_edit_without_a_picture_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="pictures only"):
        okedit.write([EditCase(EditRequest(None, "q", "a", id="x"), {}, {})], tmp_path)
