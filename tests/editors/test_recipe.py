"""RECIPE: the sentinel is a threshold of the query's own, the picture stays, and what is learnt no longer counts."""

import json

import pytest
import torch
import torch.nn.functional as F

from tests.contract.fitted import fitted
from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.data.case import EditCase, EditRequest
from vledit.editors.answering import answer_with
from vledit.editors.edited_model import EditedModel
from vledit.editors.effect import Effect, Insert, decided
from vledit.editors.recipe import retrieved, scores
from vledit.editors.recipe_fit import RecipeJob, contrast, hinge
from vledit.editors.registry import editor
from vledit.editors.training.fitting import Fitting, fitting_class
from vledit.editors.training.loop import read_log
from vledit.errors import InputError, MissingDataError

REQUEST = EditRequest(picture(1), QUESTIONS[0], "two cups", (), "cups")
SMALL = {"steps": 40, "save_every": 100, "log_every": 1, "width": 24, "learning_rate": 0.01}


@pytest.fixture
def vlm():
    return tiny("pocket")


@pytest.fixture
def model(vlm):
    found = EditedModel(vlm)
    found.edit(REQUEST, "recipe", fitted=fitted(vlm, "recipe", REQUEST, SMALL))
    return found


def logits(model, image, question):
    options = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False, "return_dict_in_generate": True}
    return torch.cat(model.generate([image], [question], output_logits=True, **options).logits)


def test_it_fires_where_the_statement_beats_the_sentinel_and_only_there():
    statement, sentinel = torch.eye(2)
    for a, b, fires in ((0.6, 0.5, True), (0.5, 0.6, False), (0.5, 0.5, False), (-0.1, -0.2, True)):
        number, *_ = retrieved(a * statement + b * sentinel, statement[None], sentinel)
        assert (number == 0) is fires
    two = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert retrieved(torch.tensor([1.0, 0.0]), two, sentinel)[0] == 1  # of equal edits the newest
    q, k = torch.randn(3, 7), torch.randn(4, 7)
    assert torch.allclose(scores(q, k), q @ k.T / 7**0.5, atol=1e-5)


def test_a_token_that_leads_by_a_fifth_gives_no_gradient():
    for share, counts in ((1.3, False), (1.1, True), (0.5, True)):
        free = torch.tensor([[share, 1.0, 0.1]]).log().requires_grad_()
        with torch.enable_grad():
            loss = hinge(free, torch.tensor([0]))
            loss.backward()
        assert bool(free.grad.abs().sum() > 0) is counts
        if counts:
            assert float(loss.detach()) == pytest.approx(
                float(F.cross_entropy(free.detach(), torch.tensor([0]))), rel=1e-5
            )


def test_contrast_terms_are_those_of_a_loop():
    asked = torch.tensor([[3.0, 0.0, 1.0], [1.0, 2.0, 0.0]])
    away = torch.tensor([[0.5, 0.2, 0.1]])
    found = contrast(asked, away)
    own = [-(torch.tensor(row).softmax(0)[i].log()) for i, row in enumerate(asked.tolist())]
    assert float(found["own"]) == pytest.approx(float(sum(own) / 2), rel=1e-5)
    # the first query's sentinel leads already; the second's does not
    assert float(found["sentinel"]) == pytest.approx(float(-torch.tensor([1.0, 0.0]).softmax(0)[1].log()), rel=1e-5)
    assert float(found["away"]) == pytest.approx(float(-away[0].softmax(0)[2].log()), rel=1e-5)


def test_no_embeddings_are_the_bases_bits_and_the_picture_is_seen_with_and_without_an_edit(vlm, model):
    base = EditedModel(vlm)
    width = vlm.model.get_input_embeddings().weight.shape[1]
    empty = Effect(decided("x", "x"), insert=Insert(soft=torch.zeros(0, width)))
    assert answer_with(vlm, empty, [REQUEST.image], [REQUEST.question], 4) == [
        base.answer(*(REQUEST.image, REQUEST.question), 4).text
    ]
    encoded = [
        vlm.encode([REQUEST.image], [REQUEST.question], ["a cat"], soft) for soft in (None, [torch.zeros(0, width)])
    ]
    assert torch.equal(encoded[0].input_ids, encoded[1].input_ids)
    (edit,) = model.memories["recipe"].active()
    effect = model.memories["recipe"].effect_of(edit, empty, REQUEST.image, REQUEST.question)
    from vledit.editors.answering import forced_with

    seen = [forced_with(vlm, [effect], [picture(n)], [REQUEST.question], ["a cat"])[0] for n in (1, 5)]
    assert not torch.allclose(*seen, atol=1e-3)
    assert not torch.allclose(logits(base, picture(1), QUESTIONS[0]), logits(base, picture(5), QUESTIONS[0]), atol=1e-3)
    model.remove("cups")
    for n in (1, 5):
        assert torch.equal(logits(model, picture(n), QUESTIONS[0]), logits(base, picture(n), QUESTIONS[0]))


def test_the_edits_request_finds_it_and_other_requests_the_sentinel(vlm, model, tmp_path):
    answer = model.answer(REQUEST.image, REQUEST.question, 4)
    assert answer.decision.fired
    assert not model.answer(None, QUESTIONS[1], 4).decision.fired
    assert torch.equal(logits(model, None, QUESTIONS[1]), logits(EditedModel(vlm), None, QUESTIONS[1]))
    assert not torch.equal(
        logits(model, *(REQUEST.image, REQUEST.question)), logits(EditedModel(vlm), REQUEST.image, REQUEST.question)
    )
    model.save_pretrained(tmp_path)
    again = EditedModel.from_pretrained(vlm, tmp_path)
    for row in ((REQUEST.image, REQUEST.question), (None, QUESTIONS[1])):
        assert torch.equal(logits(again, *row), logits(model, *row))
        assert again.route([row[0]], [row[1]])[0].distance == model.route([row[0]], [row[1]])[0].distance


def test_the_same_words_about_another_picture_are_another_query(model):
    (one,), (two,) = (model.route([picture(n)], [REQUEST.question]) for n in (1, 5))
    assert one.distance != two.distance


def test_every_parameter_learns_and_the_loss_falls(vlm, tmp_path):
    folder = fitted(vlm, "recipe", REQUEST, SMALL)
    log = read_log(__import__("pathlib").Path(folder))
    assert sum(one["edit"] for one in log[-5:]) < sum(one["edit"] for one in log[:5])
    from vledit.data.case import EditCase, Probe

    case = EditCase(
        REQUEST, {"text": (Probe(REQUEST.image, "What can be seen?"),)}, {"text": (Probe(None, QUESTIONS[1]),)}
    )
    other = EditCase(
        EditRequest(picture(2), QUESTIONS[2], "tea", (), "tea"), {}, {"text": (Probe(None, QUESTIONS[1]),)}
    )
    method = fitting_class("recipe")
    job = RecipeJob.of(Fitting(vlm, [case, other], tmp_path, method.FitConfig(**SMALL)))
    import random

    job.start()
    with torch.enable_grad():
        spoken, light = job.losses(0, random.Random(0)), job.light_losses(0, random.Random(0))
        torch.stack([*spoken.values(), *light.values()]).sum().backward()
    for name, parameter in job.module.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name
        assert bool(torch.isfinite(parameter.grad).all()), name


def test_contrast_terms_have_steps_of_their_own_or_are_part_of_the_models(vlm, tmp_path):
    """With steps of their own they are learnt from the edits' vectors alone, and the pool grows until all edits are in it."""
    import random

    cases = [EditCase(EditRequest(picture(n), QUESTIONS[0], "tea", (), f"{n}"), {}, {}) for n in range(5)]
    method = fitting_class("recipe")
    small = {"width": 16, "contrast": 2}
    apart, joint = (
        RecipeJob.of(Fitting(vlm, cases, tmp_path, method.FitConfig(**small, contrast_steps=count))) for count in (4, 0)
    )
    assert (apart.light_steps, joint.light_steps) == (4, 0)
    assert set(apart.losses(0, random.Random(0))) == {"edit"}
    assert set(joint.losses(0, random.Random(0))) == {"edit", "own", "sentinel"}
    seen = []
    apart._contrast = lambda numbers, draw: seen.append(set(numbers)) or {}
    for step, size in ((0, 2), (1, 4), (9, 5)):
        seen.clear()
        for part in range(40):
            apart.light_losses(step, random.Random(part))
        assert all(len(one) == 2 for one in seen)
        assert len(set.union(*seen)) == size
    with pytest.raises(InputError, match="contrast_steps"):
        method.FitConfig(contrast_steps=-1)


def test_unfit_settings_and_a_model_without_a_fitting_are_told(vlm):
    with pytest.raises(InputError, match="tokens"):
        fitting_class("recipe").FitConfig(tokens=0)
    with pytest.raises(MissingDataError, match="vledit fit --editor recipe"):
        editor("recipe").edit(vlm, REQUEST)
    assert json.dumps(fitting_class("recipe").published("blip2"))
