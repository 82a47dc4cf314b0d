"""SERAC: scope scores with a known answer, hard routing, and a fitting that reaches everything that learns."""

import math
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.evaluate.small import case
from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.data.case import EditRequest
from vledit.editors import features
from vledit.editors.answering import forced_with
from vledit.editors.cited_cases import CitedCases
from vledit.editors.edited_model import EditedModel
from vledit.editors.effect import Effect, decided
from vledit.editors.low_rank import LowRank
from vledit.editors.mend import shapes
from vledit.editors.registry import editor
from vledit.editors.serac import Scope, SeracFit, cited
from vledit.editors.serac_fit import SeracJob
from vledit.editors.training import artefact
from vledit.editors.training.fitting import Fitting
from vledit.editors.training.loop import read_log
from vledit.errors import InputError

from .retrieving import REQUEST, Words, fitted, logits

SMALL = {"steps": 3, "per_cell": 1, "layers": 2, "rank": 2, "width": 8}


@pytest.fixture(autouse=True)
def words(monkeypatch):
    monkeypatch.setattr(features, "encoder", lambda name: Words())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "encoder", lambda name: Words())
        return fitted("serac", tiny("blip2"), tmp_path_factory.mktemp("serac"), **SMALL)


def job(vlm, **settings):
    cases = [case(number) for number in range(3)]
    return SeracJob.of(Fitting(vlm, cases, Path("unused"), SeracFit(**{**SMALL, **settings})))


def identity(scope):
    """A classifier that compares what it is given, pictures and all."""
    with torch.no_grad():
        for linear in (scope.inner, scope.outer):
            torch.nn.init.eye_(linear.weight)
            linear.bias.zero_()
    return scope


def test_scope_scores_of_hand_made_requests_are_the_known_ones():
    """One-hot questions and pictures, a classifier that passes them on: β = exp(−2 · the number of differing parts)."""
    scope = identity(Scope(3, 2, 6))
    one_hot = lambda i, n: F.one_hot(torch.tensor(i), n).float()  # noqa: E731
    edits = scope(torch.stack([one_hot(0, 3), one_hot(1, 3)]), torch.stack([one_hot(0, 2), one_hot(0, 2)]))
    asked = [(0, 0), (1, 0), (2, 0), (0, 1)]
    requests = scope(torch.stack([one_hot(q, 3) for q, _ in asked]), torch.stack([one_hot(p, 2) for _, p in asked]))
    expected = [[1, math.exp(-2)], [math.exp(-2), 1], [math.exp(-2)] * 2, [math.exp(-2), math.exp(-4)]]
    assert torch.allclose(scope.scores(edits, requests), torch.tensor(expected))


def test_the_edits_own_request_scores_exactly_one_in_any_batch(folder):
    vlm = tiny("blip2")
    model = EditedModel(vlm)
    model.edit(REQUEST, "serac", fitted=str(folder))
    alone = model.route([REQUEST.image], [REQUEST.question])[0]
    batch = model.route([picture(4), REQUEST.image, None], [QUESTIONS[1], REQUEST.question, QUESTIONS[2]])
    assert alone.distance == 0.0
    assert batch[1] == alone
    assert all(one.distance > 0 for one in (batch[0], batch[2]))


def test_above_the_threshold_the_counterfactual_model_answers_at_or_below_it_the_bases_bits_remain(folder):
    vlm = tiny("blip2")
    base = logits(EditedModel(vlm), REQUEST.image, REQUEST.question)
    model = EditedModel(vlm)
    model.edit(REQUEST, "serac", fitted=str(folder))
    memory = model.memories["serac"]
    changes = memory.changes
    assert any(float(change.directions.abs().max()) > 0 for change in changes.values())
    effect = Effect(decided("x", ""), changes, cited(REQUEST.question, REQUEST.answer))
    asked = ([REQUEST.image], [REQUEST.question], ["a cat"])
    expected, _ = forced_with(vlm, [effect], *asked)
    found, _ = forced_with(vlm, model.effects(*asked[:2]), *asked)
    assert torch.equal(found, expected)
    assert not torch.equal(logits(model, REQUEST.image, REQUEST.question), base)
    with torch.no_grad():
        memory.scope.log_scale.fill_(0.0)
    other = (picture(7), REQUEST.question)
    score = 1 - model.route(*([one] for one in other))[0].distance
    for threshold, fires in ((score, False), (score - 1e-4, True)):
        memory.settings["threshold"] = threshold
        assert model.route(*([one] for one in other))[0].fired == fires
    memory.settings["threshold"] = score
    assert torch.equal(logits(model, *other), logits(EditedModel(vlm), *other))


def test_a_question_without_a_picture_is_only_about_an_edit_without_one(folder):
    model = EditedModel(tiny("blip2"))
    model.edit(REQUEST, "serac", fitted=str(folder), threshold=0.0)
    assert not model.route([None], [REQUEST.question])[0].fired
    text = model.edit(EditRequest(None, REQUEST.question, "tea"), "serac", fitted=str(folder))
    assert model.route([None], [REQUEST.question])[0].entry == text.id
    assert model.route([REQUEST.image], [REQUEST.question])[0].entry != text.id


def test_after_a_step_everything_that_learns_has_a_gradient():
    vlm = tiny("blip2")
    one = job(vlm)
    one.start()
    optimizer = one.optimizer()
    for step in range(2):  # what reads has none before what writes has left zero
        optimizer.zero_grad()
        sum(one.losses(step, random.Random(step)).values()).backward()
        optimizer.step()
    for name, parameter in one.module.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert float(parameter.grad.abs().max()) > 0, name
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in one.module.parameters()
    }


def test_the_answers_loss_is_that_of_the_whole_model_with_the_edit_cited():
    vlm = tiny("blip2")
    one = job(vlm, rows=5)
    low_rank = LowRank(shapes(vlm, layers=2), 2)
    with torch.no_grad():
        for write in low_rank.writes:
            write.normal_(std=0.1)
    changes = low_rank.fixed()
    with torch.no_grad():
        found = one.cited.losses([0], changes, random.Random(0), 5)["answer"]
    assert isinstance(one.cited, CitedCases)
    rows = one.cited.rows(0)
    assert len(rows) == 3  # the edit, a wording, another picture
    losses = []
    for row in rows:
        effect = Effect(decided("x", ""), changes, row.insert)
        values, encoded = forced_with(vlm, [effect], [row.probe.image], [row.probe.question], [row.answer])
        losses.append(F.cross_entropy(values.float(), encoded.targets, reduction="sum"))
    tokens = sum(len(vlm.answer_tokens(row.probe.question, row.answer)) for row in rows)
    assert float(found) == pytest.approx(float(sum(losses)) / tokens, rel=1e-3)


def test_a_fitting_learns_scope_and_answers_and_goes_on_to_the_same_bits(tmp_path):
    vlm = tiny("blip2")
    settings = {"steps": 40, "learning_rate": 0.02, "scope_rate": 0.01, "save_every": 10, "log_every": 5}
    whole = fitted("serac", vlm, tmp_path / "whole", **{**SMALL, **settings})
    lines = read_log(whole)
    assert lines[-1]["scope"] < 0.5 * lines[0]["scope"]
    assert lines[-1]["answer"] < lines[0]["answer"]

    class Stop(Exception):
        pass

    def progress(done, steps, losses):
        if done == 23:
            raise Stop

    part = tmp_path / "part"
    cases = [case(number) for number in range(4)]
    fitting = Fitting(vlm, cases, part, SeracFit(**{**SMALL, **settings}), progress=progress)
    with pytest.raises(Stop):
        SeracJob.of(fitting).run("serac")
    fitted("serac", vlm, part, **{**SMALL, **settings})
    assert (part / artefact.WEIGHTS).read_bytes() == (whole / artefact.WEIGHTS).read_bytes()


@pytest.mark.parametrize("settings", [{"threshold": 1.0}, {"threshold": -0.1}])
def test_unfit_settings_are_named(settings):
    with pytest.raises(InputError, match="threshold"):
        editor("serac", **settings)
