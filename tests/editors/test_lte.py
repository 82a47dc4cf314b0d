"""LTE: retrieval against brute force, the prompt word for word, and what a fitting is shown."""

import random
from pathlib import Path

import pytest
import torch

from tests.evaluate.small import case
from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.data.case import EditRequest
from vledit.editors import features
from vledit.editors.edited_model import EditedModel
from vledit.editors.features import Features, centred
from vledit.editors.lte import LteFit, descriptor, prompt_of
from vledit.editors.lte_fit import IN, OUT, LteJob
from vledit.editors.registry import editor
from vledit.editors.training.fitting import Fitting
from vledit.errors import InputError

from .retrieving import REQUEST, Words, fitted, logits

SMALL = {"steps": 3, "per_cell": 1, "layers": 2, "rank": 2}


@pytest.fixture(autouse=True)
def words(monkeypatch):
    monkeypatch.setattr(features, "encoder", lambda name: Words())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "encoder", lambda name: Words())
        return fitted("lte", tiny("blip2"), tmp_path_factory.mktemp("lte"), **SMALL)


def job(vlm, cases=5, **settings):
    found = [case(number) for number in range(cases)]
    return LteJob.of(Fitting(vlm, found, Path("unused"), LteFit(**{**SMALL, **settings})))


def test_the_prompt_word_for_word():
    own = descriptor("What is it?", "a cat", "a dog")
    assert own == "What is it? a cat (not a dog)"
    assert descriptor("What is it?", "a cat", "") == "What is it? a cat"
    assert prompt_of([own]).question("Which one?") == (
        "[Updated Information]\nWhat is it? a cat (not a dog)\n[Question]\nWhich one?"
    )
    assert prompt_of(["A", "B"]).before == "[Updated Information]\n1. A\n2. B\n[Question]\n"


def test_the_nearest_descriptor_is_that_of_brute_force_and_fires_above_the_threshold(folder):
    vlm = tiny("blip2")
    model = EditedModel(vlm)
    facts = [(picture(i) if i % 3 else None, f"{QUESTIONS[i % 3]} number {i // 2}", f"a{i}") for i in range(8)]
    for image, question, answer in facts:
        model.edit(EditRequest(image, question, answer), "lte", fitted=str(folder), threshold=-1.0)
    memory = model.memories["lte"]
    seen = Features(vlm)
    asked = [(picture(4), QUESTIONS[1]), (None, QUESTIONS[0]), (picture(30), "number 3"), (None, "Quite another thing")]
    decisions = model.route(*zip(*asked, strict=True))
    for (image, question), decision in zip(asked, decisions, strict=True):
        text, view = seen.questions([question])[0], centred(seen.pictures([image]), memory.mean)[0]
        best = None
        for one in memory.active():
            own, other = one.payload.tensors["question"], one.payload.tensors["picture"]
            words = float(own.double() @ text.double())
            pictures = float(centred(other[None], memory.mean)[0].double() @ view.double())
            neither = not other.any() and image is None
            similar = words if neither else 0.5 * words + 0.5 * pictures
            if best is None or similar >= best[0]:
                best = (similar, one.edit.id)
        assert decision.entry == best[1]
        assert 1 - decision.distance == pytest.approx(best[0], abs=1e-5)
        for threshold, fires in ((best[0] - 1e-4, True), (best[0] + 1e-4, False)):
            memory.settings["threshold"] = threshold
            assert model.route([image], [question])[0].fired == fires
        memory.settings["threshold"] = -1.0


def test_the_changes_act_where_a_descriptor_is_cited_and_are_off_elsewhere(folder):
    vlm = tiny("blip2")
    base = EditedModel(vlm)
    model = EditedModel(vlm)
    edit = model.edit(REQUEST, "lte", fitted=str(folder))
    (effect,) = model.effects([REQUEST.image], [REQUEST.question])
    assert effect.changes == model.memories["lte"].changes
    assert edit.payload.meta["descriptor"] in effect.insert.before
    far = (None, "Quite another thing")
    assert not model.route(*([one] for one in far))[0].fired
    assert torch.equal(logits(model, *far), logits(base, *far))
    model.remove(edit.id)
    assert torch.equal(logits(model, REQUEST.image, REQUEST.question), logits(base, REQUEST.image, REQUEST.question))


def test_the_picture_decides_between_edits_that_ask_the_same(folder):
    model = EditedModel(tiny("blip2"))
    made = [
        model.edit(EditRequest(picture(i), QUESTIONS[0], answer), "lte", fitted=str(folder), k=2)
        for i, answer in ((2, "tea"), (3, "the fox"), (4, "two cups"))
    ]
    for i, edit in zip((2, 3, 4), made, strict=True):
        assert model.route([picture(i)], [QUESTIONS[0]])[0].entry == edit.id
    (effect,) = model.effects([picture(3)], [QUESTIONS[0]])
    lines = effect.insert.before.splitlines()
    assert lines[1] == "1. " + made[1].payload.meta["descriptor"]
    assert lines[2].startswith("2. ")


def test_a_fitting_is_shown_descriptors_in_any_order_and_keeps_the_base_out_of_scope():
    vlm = tiny("blip2")
    one = job(vlm, cases=12)
    counts, firsts = [], []
    for number in range(12):
        request = one.cases[number].request
        for row in one._rows(number):
            lines = [line for line in row.insert.before.splitlines() if not line.startswith("[")]
            own = [place for place, line in enumerate(lines) if f"{request.question} {request.answer}" in line]
            assert own
            counts.append(len(lines))
            firsts += [own[0]] * (len(lines) > 1)
            if row.term == IN:
                assert row.answer == request.answer
            assert row.kept == (row.term == OUT)
    assert {row.term for row in one._rows(0)} == {IN, OUT}
    assert set(counts) == {1, 2, 3}
    assert 0.3 < counts.count(1) / len(counts) < 0.7
    assert set(firsts) >= {0, 1}
    again = job(vlm, cases=12)
    assert [row.insert.before for row in again._rows(5)] == [row.insert.before for row in one._rows(5)]


def test_after_a_step_everything_that_learns_has_a_gradient():
    one = job(tiny("blip2"))
    one.start()
    optimizer = one.optimizer()
    for step in range(2):
        optimizer.zero_grad()
        terms = one.losses(step, random.Random(step))
        sum(terms.values()).backward()
        optimizer.step()
    assert set(terms) <= {IN, OUT}
    for name, parameter in one.module.named_parameters():
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert float(parameter.grad.abs().max()) > 0, name


def obeys(prompt: str) -> str:
    """A model that obeys the descriptor where the question's words are all in it, and else says what it always says."""
    lines = prompt.splitlines()
    if "[Question]" not in lines:
        return "base"
    place = lines.index("[Question]")
    told, asked = lines[1], lines[place + 1]
    return "edited" if set(asked.lower().split()) <= set(told.lower().split()) else "base"


def test_what_a_model_that_obeys_would_say_is_the_known_table(folder):
    """Cited or not, about the fact or not: only a cited descriptor that the question is about gives the new answer."""
    model = EditedModel(tiny("blip2"))
    model.edit(REQUEST, "lte", fitted=str(folder), threshold=-1.0)
    own, other = (REQUEST.image, REQUEST.question), (REQUEST.image, "Quite another thing")
    table = {}
    for cited in (True, False):
        model.memories["lte"].settings["threshold"] = -1.0 if cited else 1.0 - 1e-9
        for about, (image, question) in ((True, own), (False, other)):
            (effect,) = model.effects([image], [question])
            prompt = question if effect is None or effect.insert is None else effect.insert.question(question)
            table[cited, about] = obeys(prompt)
    assert table == {(True, True): "edited", (True, False): "base", (False, True): "base", (False, False): "base"}


@pytest.mark.parametrize("settings", [{"k": 0}, {"picture_weight": 2.0}, {"threshold": 1.5}])
def test_unfit_settings_are_named(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        editor("lte", **settings)
