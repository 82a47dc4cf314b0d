"""What remains does not depend on the order in which edits came and went; and every edit answers its own request."""

from __future__ import annotations

from functools import cache

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.data.case import EditRequest
from vledit.editors.edited_model import EditedModel
from vledit.editors.registry import editor

REQUESTS = [
    EditRequest(picture(1), QUESTIONS[0], "two cups", ("What can be seen in the picture?",), "cups"),
    EditRequest(picture(1), QUESTIONS[2], "a cat", ("Who has made this?",), "cat"),
    EditRequest(None, QUESTIONS[1], "tea", ("Say it in a word.",), "tea"),
    EditRequest(picture(2), QUESTIONS[0], "the beach", ("What can be seen in the picture?",), "beach"),
]


@cache
def edits():
    """The four edits, each made by itself."""
    options = {"steps": 200, "learning_rate": 0.05, "margin": 1.0, "rephrase": "supplied", "transformation": "full"}
    method = editor("balancedit", **options, alpha=0.0)
    return [method.edit(tiny("pocket"), request) for request in REQUESTS]


def state(model: EditedModel) -> list[torch.Tensor]:
    options = {"max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    return [model.generate([one.image], [one.question], **options).logits[0] for one in REQUESTS]


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(("add", "remove", "restore")), st.integers(0, 3)), max_size=9))
def test_only_what_remains_counts(steps):
    model = EditedModel(tiny("pocket"))
    for action, number in steps:
        edit = edits()[number]
        held = {entry.id: entry.status for entry in model.codebook.entries()}.get(edit.id)
        if action == "add" and held is None:
            model.add(edit)
        elif action == "remove" and held == "active":
            model.remove(edit.id)
        elif action == "restore" and held == "removed":
            model.restore(edit.id)
    remaining = {entry.id for entry in model.codebook.active()}
    fresh = EditedModel(tiny("pocket"))
    for edit in edits():
        if edit.id in remaining:
            fresh.add(edit)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(state(model), state(fresh), strict=True))
    for edit in edits():
        if edit.id in remaining:
            said = model.answer(edit.request.image, edit.request.question).text
            assert said == edit.request.answer, f"edit '{edit.id}' no longer answers its own request"
