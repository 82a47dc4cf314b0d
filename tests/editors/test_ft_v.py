"""`ft_v`: what is changed is the vision side, and that alone."""

import pytest
import torch

from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.codebook import FullTransformation
from vledit.data.case import EditRequest
from vledit.editors.edited_model import EditedModel
from vledit.editors.ft_v import forced_logits
from vledit.editors.registry import editor
from vledit.errors import EditFailedError, InputError, UnknownNameError
from vledit.vlm.acting import VISION, acting

REQUEST = EditRequest(picture(1), QUESTIONS[0], "two cups", ("What can be seen?",))
KEEP = {"steps": 3, "learning_rate": 0.05, "unlearnt": "keep"}


def logits(model, image, question):
    options = {"max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    return model.generate([image], [question], **options).logits[0]


@pytest.fixture(params=["pocket", "blip2", "llava", "qwen2_5_vl"])
def vlm(request):
    return tiny(request.param)


def test_questions_without_a_picture_keep_their_bits(vlm):
    model, base = EditedModel(vlm), EditedModel(vlm)
    model.edit(REQUEST, "ft_v", **KEEP)
    assert not torch.equal(logits(model, *(picture(1), QUESTIONS[0])), logits(base, picture(1), QUESTIONS[0]))
    for question in QUESTIONS:
        assert torch.equal(logits(model, None, question), logits(base, None, question))


def test_the_gradient_is_that_of_finite_differences(vlm):
    """The loss as a function of one number of the change: autograd against a central difference.

    The model is float64, but norms reckon in float32 all the same: the step is large against that, the bound wide."""
    import copy

    from vledit.vlm import VLM

    exact = VLM(copy.deepcopy(vlm.model).double(), vlm.processor, vlm.family, vlm.name)
    encoded = exact.encode([REQUEST.image], [REQUEST.question], [REQUEST.answer])
    path, linear = next(iter(exact.vision_linears().items()))

    def loss(delta):
        change = {VISION + path: FullTransformation(delta)}
        with acting(exact, [change], encoded):
            return torch.nn.functional.cross_entropy(forced_logits(exact, encoded), encoded.targets)

    delta = torch.zeros(linear.weight.shape, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(delta), delta)
    place = divmod(int(gradient.abs().argmax()), gradient.shape[1])
    with torch.no_grad():
        step = torch.zeros_like(delta)
        step[place] = 1e-3
        measured = (loss(delta + step) - loss(delta - step)) / 2e-3
    assert torch.allclose(measured, gradient[place], rtol=2e-2)


def test_no_steps_change_nothing_and_a_step_lowers_the_loss(vlm):
    losses = [
        editor("ft_v", **{**KEEP, "steps": n, "learning_rate": 1e-3}).edit(vlm, REQUEST).report.loss for n in (0, 4)
    ]
    assert losses[1] < losses[0]
    model, base = EditedModel(vlm), EditedModel(vlm)
    model.edit(REQUEST, "ft_v", **{**KEEP, "steps": 0})
    assert torch.equal(logits(model, picture(1), QUESTIONS[0]), logits(base, picture(1), QUESTIONS[0]))


def test_edits_in_a_row_hold_each_other_and_come_off_in_turn(vlm):
    model = EditedModel(vlm)
    first = model.edit(REQUEST, "ft_v", **KEEP)
    one = logits(model, picture(1), QUESTIONS[0])
    second = model.edit(EditRequest(picture(2), QUESTIONS[1], "tea"), "ft_v", **KEEP)
    with pytest.raises(InputError, match="remove"):
        model.remove(first.id)
    model.remove(second.id)
    assert torch.equal(logits(model, picture(1), QUESTIONS[0]), one)


def test_what_it_cannot_do_it_refuses(vlm):
    with pytest.raises(InputError, match="without a picture"):
        editor("ft_v").edit(vlm, EditRequest(None, QUESTIONS[0], "tea"))
    with pytest.raises(UnknownNameError, match="vision site"):
        editor("ft_v", sites="nowhere").edit(vlm, REQUEST)
    with pytest.raises(EditFailedError, match="does not answer 'two cups'"):
        editor("ft_v", steps=0).edit(vlm, REQUEST)
