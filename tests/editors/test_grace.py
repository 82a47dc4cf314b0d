"""GRACE: how balls share the room, and that the prompt alone decides."""

import pytest
import torch

from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.data.case import EditRequest
from vledit.editors.edited_model import EditedModel
from vledit.editors.grace import place
from vledit.editors.registry import editor
from vledit.errors import EditFailedError, UnknownNameError

REQUEST = EditRequest(picture(1), QUESTIONS[0], "two cups", ("What can be seen?",))
OTHER = EditRequest(picture(2), QUESTIONS[1], "tea", ())
SETTINGS = {"site": "0.mlp.out", "steps": 20, "unlearnt": "keep", "radius": 1e-3}


@pytest.fixture(params=["pocket", "blip2", "qwen2_5_vl", "internvl"])
def vlm(request):
    return tiny(request.param)


def logits(model, image, question):
    options = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False, "return_dict_in_generate": True}
    return torch.cat(model.generate([image], [question], output_logits=True, **options).logits)


@pytest.mark.parametrize(
    ("keys", "labels", "expected"),
    [
        ([(0, 0)], ["a"], [(0, 1.0, 0)]),
        ([(0, 0), (5, 0)], ["a", "b"], [(0, 1.0, 0), (1, 1.0, 1)]),  # far: a ball of its own
        ([(0, 0), (1.5, 0)], ["a", "a"], [(0, 1.5, 1)]),  # the same answer: the ball grows, the newer value
        ([(0, 0), (0.5, 0)], ["a", "a"], [(0, 1.0, 1)]),  # inside already
        ([(0, 0), (1.0, 0)], ["a", "b"], [(0, 0.5 - 1e-5, 0), (1, 0.5, 1)]),  # another answer: half each
        ([(0, 0), (0, 0)], ["a", "b"], [(0, 0.0, 0), (1, 0.0, 1)]),  # the same prompt: the newer is asked first
        ([(0, 0), (1.5, 0), (2.5, 0)], ["a", "a", "b"], [(0, 1.25 - 1e-5, 1), (2, 1.25, 2)]),
        ([(0, 0), (3, 0), (0.4, 0)], ["a", "b", "b"], [(0, 0.2 - 1e-5, 0), (1, 1.0, 1), (2, 0.2, 2)]),
    ],
)
def test_balls_share_the_room_as_algorithm_1_says(keys, labels, expected):
    found = place([torch.tensor(key, dtype=torch.float32) for key in keys], [1.0] * len(keys), labels)
    assert [(own, value) for own, _, value in found] == [(own, value) for own, _, value in expected]
    assert [radius for _, radius, _ in found] == pytest.approx([radius for _, radius, _ in expected], abs=1e-6)


def test_the_exact_prompt_fires_and_nothing_else(vlm):
    model, base = EditedModel(vlm), EditedModel(vlm)
    model.edit(REQUEST, "grace", **SETTINGS)
    before = logits(base, REQUEST.image, REQUEST.question)
    assert model.answer(REQUEST.image, REQUEST.question, 2).decision.fired
    assert not torch.equal(logits(model, REQUEST.image, REQUEST.question), before)
    for image, question in ((picture(9), QUESTIONS[0]), (picture(1), QUESTIONS[2]), (None, QUESTIONS[0])):
        assert not model.answer(image, question, 2).decision.fired
        assert torch.equal(logits(model, image, question), logits(base, image, question))


def test_what_remains_does_not_depend_on_the_order_of_removal(vlm):
    edits = [editor("grace", **SETTINGS).edit(vlm, one) for one in (REQUEST, OTHER)]
    both = EditedModel(vlm)
    for edit in edits:
        both.add(edit)
    both.remove(edits[0].id)
    alone = EditedModel(vlm)
    alone.add(edits[1])
    for one in (REQUEST, OTHER):
        assert torch.equal(logits(both, one.image, one.question), logits(alone, one.image, one.question))
    both.restore(edits[0].id)
    assert {one.edit.id for one in both.memories["grace"].active()} == {edit.id for edit in edits}


def test_a_value_at_the_last_prompt_token_is_what_a_hook_by_hand_gives(vlm):
    edit = editor("grace", **SETTINGS).edit(vlm, REQUEST)
    model = EditedModel(vlm)
    model.add(edit)
    encoded = vlm.encode([REQUEST.image], [REQUEST.question])
    value, width = edit.payload.tensors["value"], encoded.prompt_mask.shape[1]

    def by_hand(_module, _args, output):
        shaped = output.reshape(1, width, -1).clone()
        shaped[:, -1] = value
        return shaped.reshape(output.shape)

    trunk = vlm.trunk(encoded, 0)
    handle = vlm.site_module("0.mlp.out").register_forward_hook(by_hand)
    try:
        expected = vlm.head(trunk)[0, -1]
    finally:
        handle.remove()
    assert torch.allclose(logits(model, REQUEST.image, REQUEST.question)[0], expected, atol=1e-4)


def test_a_longer_training_comes_nearer_and_settings_are_checked(vlm):
    rate = {**SETTINGS, "learning_rate": 0.02}
    losses = [editor("grace", **{**rate, "steps": n}).edit(vlm, REQUEST).report.loss for n in (1, 60)]
    assert losses[1] < losses[0]
    with pytest.raises(EditFailedError, match="lower site"):
        editor("grace", **{**SETTINGS, "steps": 1, "unlearnt": "refuse"}).edit(vlm, REQUEST)
    with pytest.raises(UnknownNameError, match="replace"):
        editor("grace", replace="first")
