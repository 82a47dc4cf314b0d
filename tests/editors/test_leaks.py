"""No editor that decides by request sees a reference answer: whatever a benchmark holds, or is forced, decides nothing."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from tests.contract.rows import EDITORS, REQUEST, ROWS, made
from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.data.case import EditCase, Probe
from vledit.editors.answering import forced
from vledit.editors.edited_model import EditedModel
from vledit.editors.registry import editor
from vledit.evaluate.asking import prepare
from vledit.evaluate.held import Held
from vledit.evaluate.manifest import Variant
from vledit.evaluate.prepared import PreparedCase

FAMILY = "pocket"
GATED = [name for name, row in EDITORS.items() if row.method().gated or name == "ike"]
GARBAGE = "a quite other thing"


def test_every_editor_that_decides_by_request_is_here():
    assert {EDITORS[name].editor for name in GATED} == {
        "balancedit", "grace", "hice", "ike", "lemoe", "liveedit", "lte", "recipe", "serac",
    }  # fmt: skip


def case(answer: str | None) -> EditCase:
    """Probes in and out of scope; the benchmark's answers to them are these."""
    return EditCase(
        REQUEST,
        {
            "text": (Probe(REQUEST.image, "What can be seen?", answer),),
            "image": (Probe(picture(20), QUESTIONS[0], answer),),
        },
        {
            "near_image": (Probe(picture(40), QUESTIONS[0], answer),),
            "other_question": (Probe(REQUEST.image, QUESTIONS[2], answer),),
            "text": (Probe(None, QUESTIONS[1], answer),),
        },
        base_answer=answer or "",
    )


@cache
def prepared(answer: str | None) -> PreparedCase:
    return prepare(tiny(FAMILY), case(answer), 0, tokens=False)


@pytest.mark.parametrize("name", [*GATED, "balancedit-last"])
def test_decisions_do_not_change_with_the_reference_answers(name: str):
    vlm = tiny(FAMILY)
    if name == "balancedit-last":
        settings = {**EDITORS["ft"].settings, "threshold": 2.0}
        edit = editor("balancedit", **settings).edit(vlm, REQUEST)
    else:
        edit = made(FAMILY, name).edit
    held = Held(vlm, Variant(name, edit.editor, {}))
    held.model.add(edit)
    held.edits[edit.id] = edit
    found = []
    for answer in (None, GARBAGE, REQUEST.answer):
        effects, routed = held.acting(prepared(answer))
        said = [None if one is None or one.insert is None else (one.insert.before, one.insert.after) for one in effects]
        found.append((said, [(one.fired, one.entry) for one in routed], [one.distance for one in routed]))
    for said, routes, distances in found[1:]:
        assert (said, routes) == found[0][:2]
        # the last bits depend on how long the rows beside a prompt are
        assert distances == pytest.approx(found[0][2], rel=1e-4, abs=1e-5, nan_ok=True)
    assert any(fired for fired, _ in found[0][1])
    expected = held.model.route(*map(list, zip(*ROWS, strict=True)))
    for answers in (["two cups"] * 3, [GARBAGE, "tea", "a cat"]):
        decisions = {}
        for rows, _, _, some in forced(held.model.deciders(), [r[0] for r in ROWS], [r[1] for r in ROWS], answers):
            decisions |= dict(zip(rows, some, strict=True))
        assert [decisions[row] for row in range(len(ROWS))] == expected


@pytest.mark.parametrize("name", GATED)
def test_an_empty_memory_is_the_bases_bits_and_sees_the_picture(name: str):
    """Of each editor one edit is made and removed: what an empty memory leaves in place would show."""
    vlm = tiny(FAMILY)
    model = EditedModel(vlm)
    model.add(made(FAMILY, name).edit)
    model.remove(made(FAMILY, name).edit.id)
    options = {"max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}

    def logits(one: EditedModel, number: int) -> torch.Tensor:
        return one.generate([picture(number)], [QUESTIONS[0]], **options).logits[0]

    assert torch.equal(logits(model, 1), logits(EditedModel(vlm), 1))
    assert not torch.equal(logits(model, 1), logits(model, 9))
