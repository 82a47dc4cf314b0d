"""Requests that are read once give the batches that encoding them anew gives."""

import pytest
import torch

from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.editors.training.requests import Forced, Requests


@pytest.mark.parametrize("family", ["pocket", "blip2", "qwen2_vl"])
def test_batches_are_those_of_encode_in_any_order(family):
    vlm = tiny(family)
    images, answers = [picture(1), None, picture(2)], ["a cat", "tea", "two cups"]
    asked = [Forced(*row) for row in zip(images, QUESTIONS[:3], answers, strict=True)]
    read = Requests(vlm, 1.0)
    for order in ([0, 1, 2], [2, 0], [1]):
        found = read.batch([asked[i] for i in order])
        expected = vlm.encode([images[i] for i in order], [QUESTIONS[i] for i in order], [answers[i] for i in order])
        assert found.model_inputs.keys() == expected.model_inputs.keys()
        for name, value in expected.model_inputs.items():
            assert torch.equal(found.model_inputs[name], value), name
        assert torch.equal(found.predict_mask, expected.predict_mask)


def test_embeddings_stand_where_encode_puts_them_and_get_a_gradient():
    vlm = tiny("pocket")
    soft = torch.randn(2, vlm.model.get_input_embeddings().weight.shape[1], requires_grad=True)
    found = Requests(vlm, 1.0).batch([Forced(picture(1), QUESTIONS[0], "tea")] * 2, [soft, None])
    expected = vlm.encode([picture(1)] * 2, [QUESTIONS[0]] * 2, ["tea"] * 2, [soft.detach(), None])
    assert torch.equal(found.soft_mask, expected.soft_mask)
    assert torch.equal(found.soft, expected.soft)
    found.soft.sum().backward()
    assert bool((soft.grad == 1).all())


def test_pictures_beyond_the_memory_are_read_again():
    vlm = tiny("pocket")
    asked = [Forced(picture(i), QUESTIONS[0], "tea") for i in range(3)]
    small, large = Requests(vlm, 0.0), Requests(vlm, 1.0)
    for some in (asked, asked[:1], asked):
        for name, value in large.batch(some).model_inputs.items():
            assert torch.equal(small.batch(some).model_inputs[name], value), name
    assert len(small._pictures) == 1


def test_what_cannot_be_forced_is_told():
    read = Requests(tiny("pocket"), 1.0)
    assert read.fits(Forced(None, QUESTIONS[0], "tea"))
    assert not read.fits(Forced(None, QUESTIONS[0], ""))
    assert not read.fits(Forced(None, "", "tea"))
