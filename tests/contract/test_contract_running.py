"""Other ways to run an edited model: half precision, no picture, several threads; for every family and editor."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError

from .rows import LONG, REQUEST, ROWS, WITHOUT_PICTURE, asked, half, logits, weights_digest


def test_bfloat16_runs(one, cell):
    """An edit made and asked in bfloat16 fires, and undo is bit-exact there too."""
    vlm = half(cell[0])
    model = EditedModel(vlm)
    before, digest = logits(model, *ROWS[0]), weights_digest(vlm)
    edit = one.row.method(one.vlm).edit(vlm, REQUEST)
    model.add(edit)
    assert vlm.dtype == torch.bfloat16
    answer = model.answer(REQUEST.image, REQUEST.question)
    assert answer.decision.fired != one.always
    if edit.report.trained:
        assert answer.text == REQUEST.answer
    model.remove(edit.id)
    assert torch.equal(logits(model, *ROWS[0]), before)
    assert weights_digest(vlm) == digest


def test_a_request_without_a_picture_runs(one):
    """A fact without a picture is edited and asked; a model edited with a picture is asked without one."""
    if one.row.without_picture:
        with pytest.raises(InputError, match="without a picture"):
            one.row.method(one.vlm).edit(one.vlm, WITHOUT_PICTURE)
        pytest.skip(f"does not apply: {one.row.without_picture}")
    edit = one.row.method(one.vlm).edit(one.vlm, WITHOUT_PICTURE)
    model = EditedModel(one.vlm)
    model.add(edit)
    answer = model.answer(None, WITHOUT_PICTURE.question)
    if one.row.scope_is_fitted and not answer.decision.fired:
        pytest.skip(f"does not apply: its scope is fitted to {one.row.scope_is_fitted}; this edit is not found with it")
    assert answer.decision.fired != one.always
    if edit.report.trained:
        assert answer.text == WITHOUT_PICTURE.answer
    blind = one.model().answer(None, REQUEST.question, 6)
    if one.gated and not blind.decision.fired:
        assert blind.text == EditedModel(one.vlm).answer(None, REQUEST.question, 6).text


@pytest.fixture
def impatient():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("impatient")
def test_concurrent_requests_are_serialised(one):
    """Four threads ask one model object at once, also with beams and with the edits off: each is answered as if alone."""
    model = one.model()

    def base() -> list[str]:
        with model.disable():
            return [model.answer(*ROWS[0], 4).text]

    jobs = [
        lambda: [answer.text for answer in model.answers(*zip(*ROWS[:3], strict=True), 4)],
        lambda: asked(model, ROWS[:1], **LONG, num_beams=2).tolist(),
        lambda: [model.answer(*ROWS[1], 4).text],
        base,
    ]
    alone = [job() for job in jobs]
    gate = Barrier(len(jobs))

    def at_once(job):
        gate.wait()
        return [job() for _ in range(2)]

    with ThreadPoolExecutor(len(jobs)) as pool:
        found = list(pool.map(at_once, jobs))
    assert found == [[result, result] for result in alone]
