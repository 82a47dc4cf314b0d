"""Records found by question against records found by picture, on a handful of pictures of which two are almost equal."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data.words_encoder import WordsEncoder
from tests.vlm.models import picture, tiny
from vledit.analysis.consistency import consistency
from vledit.data.case import EditCase, EditRequest
from vledit.data.devqa import DevQA
from vledit.editors.features import visual_mean
from vledit.retrieval import Index


def record(id: str, image: object, question: str) -> EditCase:
    return EditCase(EditRequest(image, question, f"new {id}", (), id), {}, {}, base_answer=f"old {id}")


def test_the_picture_finds_its_equal_and_the_question_another():
    vlm = tiny("llava")
    almost = picture(1)  # the same but for one pixel: an equal picture would not be taken
    almost.putpixel((0, 0), (1, 2, 3))
    pool = [
        record("edit", picture(1), "What color is the hat?"),
        record("near", picture(2), "What color is the cap?"),
        record("twin", almost, "Who sits on this bench?"),
        record("other", picture(3), "Where does it go?"),
    ]
    seen = []
    found = consistency(vlm, DevQA(pool, Index(WordsEncoder())), progress=seen.append)
    assert seen == ["edit", "near", "twin", "other"]
    assert {estimate.n for estimate in found.values()} == {4}
    alone = consistency(vlm, DevQA(pool, Index(WordsEncoder())), limit=1)
    assert alone["edited, found by picture"].mean == pytest.approx(1.0, abs=0.02)
    vectors = np.stack([visual_mean(vlm, [case.request.image], "What is this?").numpy() for case in pool])
    vectors = vectors - vectors.mean(0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert alone["found by question, found by picture"].mean == pytest.approx(float(vectors[1] @ vectors[2]), abs=1e-4)
    assert alone["edited, found by question"].mean == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-4)
