"""HICE: the gate against slow references and cases with a known answer; the prompt word for word."""

import numpy as np
import pytest
import torch

from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.data.case import EditRequest
from vledit.editors import features
from vledit.editors.demonstrations import chosen_for, new_fact, prompt_with, spread_out
from vledit.editors.edited_model import EditedModel
from vledit.editors.random_features import fitted as solved
from vledit.editors.random_features import lifted, random_matrix, ridge
from vledit.editors.registry import editor
from vledit.editors.training import artefact
from vledit.editors.training.loop import read_log
from vledit.errors import InputError

from .retrieving import REQUEST, Words, fitted


@pytest.fixture(autouse=True)
def words(monkeypatch):
    monkeypatch.setattr(features, "encoder", lambda name: Words())


@pytest.mark.parametrize("rows", [20, 4])
def test_ridge_solves_the_normal_equations_with_more_rows_than_features_or_fewer(rows):
    draw = np.random.RandomState(0)
    h, y = draw.standard_normal((rows, 5)), draw.standard_normal((rows, 2))
    found = ridge(h, y, 0.3)
    assert np.allclose((h.T @ h + 0.3 * np.eye(5)) @ found, h.T @ y)
    small = ridge(h, y, 1e-9)
    assert np.allclose(small, np.linalg.lstsq(h, y, rcond=None)[0], atol=1e-5)


def test_random_features_solve_what_a_line_cannot():
    """Exclusive or: equal signs are one class, unequal ones the other."""
    draw = np.random.RandomState(1)
    x = draw.choice([-1.0, 1.0], (400, 2)) + 0.2 * draw.standard_normal((400, 2))
    classes = (x[:, 0] * x[:, 1] > 0).astype(int)

    def share(h):
        weights, _ = solved(h[:300], classes[:300].tolist(), 0)
        return float(((h[300:] @ weights).argmax(1) == classes[300:]).mean())

    assert share(lifted(x, random_matrix(2, 100, 0))) >= 0.95
    assert share(x) < 0.75


def test_the_random_matrix_is_told_by_its_seed_and_a_row_by_itself():
    first = random_matrix(3, 7, 5)
    assert np.array_equal(first, random_matrix(3, 7, 5))
    assert not np.array_equal(first, random_matrix(3, 7, 6))
    assert abs(float(random_matrix(50, 200, 0).std()) - 1) < 0.05
    x = np.random.RandomState(0).standard_normal((6, 3))
    assert np.array_equal(lifted(x, first)[2:3], lifted(x[2:3], first))
    assert np.allclose(lifted(x, first), np.maximum(x @ first, 0), atol=1e-5)


def test_a_gate_needs_both_classes():
    with pytest.raises(InputError, match="out of scope"):
        solved(np.ones((4, 3)), [1, 1, 1, 1], 0)


def test_demonstrations_are_far_apart_and_the_nearest_come_first():
    vectors = np.eye(4)[[0, 0, 1, 2, 0, 3]]
    assert sorted(vectors[spread_out(vectors, 4)].argmax(1).tolist()) == [0, 1, 2, 3]
    assert spread_out(vectors, 9)[:1] == [0]
    draw = np.random.RandomState(2)
    many, one = draw.standard_normal((50, 8)), draw.standard_normal(8)
    brute = sorted(range(50), key=lambda i: (-float(many[i] @ one), i))
    assert chosen_for(one, many, 6) == brute[:6]


def test_the_prompt_word_for_word():
    vlm = tiny("blip2")
    demonstrations = ["New Fact: Q1 A1\nPrompt: R1 A1\n\n", "New Fact: Q1 A1\nPrompt: Q1 A1\n\n"]
    fact = new_fact("Who is it?", "Ann")
    whole = prompt_with(vlm, demonstrations, fact, "Which one?", None, 2500)
    expected = "New Fact: Q1 A1\nPrompt: R1 A1\n\nNew Fact: Q1 A1\nPrompt: Q1 A1\n\nNew Fact: Who is it? Ann\nPrompt: Which one?"
    assert whole.question("Which one?") == expected
    assert prompt_with(vlm, demonstrations, fact, "Which one?", None, len(expected)).before == whole.before
    cut = prompt_with(vlm, demonstrations, fact, "Which one?", None, len(expected) - 1)
    assert cut.before == demonstrations[0] + fact
    assert prompt_with(vlm, demonstrations, fact, "Which one?", None, 0).before == fact
    long = prompt_with(vlm, ["a cat " * 300], fact, "Which one?", None, 10**6)
    assert long.before == fact  # the model itself reads no more


def gated(vlm, folder, **settings):
    model = EditedModel(vlm)
    model.edit(REQUEST, "hice", fitted=str(folder), demonstrations=0, **settings)
    return model


def put(memory, **tensors):
    """Gives a memory's fitted part other tensors."""
    part = memory.part
    memory._take(artefact.Artefact(part.folder, "hice", part.settings, {**part.tensors, **tensors}, "", part.about))


def test_the_papers_gate_looks_at_the_question_alone_and_hard_questions_are_out(tmp_path):
    vlm = tiny("blip2")
    model = gated(vlm, fitted("hice", vlm, tmp_path, features=30), hard=0.9)
    memory = model.memories["hice"]
    one = torch.tensor([[0.0, 1.0]])
    always = torch.linalg.lstsq(torch.ones(1, 30), one).solution  # random features are never below zero
    put(memory, paper=always, hard=torch.zeros(0, 64))
    asked = [(picture(0), QUESTIONS[0]), (picture(5), QUESTIONS[0]), (None, "Quite another thing")]
    images, questions = zip(*asked, strict=True)
    assert all(one.fired for one in model.route(images, questions))
    put(memory, paper=-always, hard=torch.zeros(0, 64))
    assert not any(one.fired for one in model.route(images, questions))
    put(memory, paper=always, hard=torch.from_numpy(Words().encode([QUESTIONS[0]])))
    assert [one.fired for one in model.route(images, questions)] == [False, False, True]
    memory.settings["hard"] = 1.0
    assert model.route(images, questions)[2].fired


@pytest.mark.parametrize("gate", ["paper", "edit"])
def test_the_gate_opens_where_in_scope_leads_by_more_than_the_margin(tmp_path, gate):
    vlm = tiny("blip2")
    model = gated(vlm, fitted("hice", vlm, tmp_path, features=30), gate=gate, hard=1.0)
    memory = model.memories["hice"]
    asked = [picture(5)], [QUESTIONS[2]]
    lead = -model.route(*asked)[0].distance
    for margin, opens in ((lead - 0.01, True), (lead + 0.01, False)):
        memory.settings["margin"] = margin
        decision = model.route(*asked)[0]
        assert decision.fired is opens
        assert (decision.distance < decision.radius) is opens
    del memory.settings["margin"]  # as an older version saved it
    assert model.route(*asked)[0].fired is (lead > 0)


def test_the_gate_of_pairs_tells_the_edits_picture_from_others_and_cites_the_edit_that_is_meant(tmp_path):
    """The cases ask one question about different pictures: by the question alone they cannot be told apart."""
    vlm = tiny("blip2")
    folder = fitted("hice", vlm, tmp_path, cases=10, features=300)
    model = gated(vlm, folder, gate="edit")
    other = EditRequest(picture(1), QUESTIONS[0], "the fox")
    model.edit(other, "hice", fitted=str(folder), gate="edit", demonstrations=0)
    decisions = model.route([picture(0), picture(1), None], [QUESTIONS[0], QUESTIONS[0], QUESTIONS[2]])
    ids = {one.edit.request.answer: id for id, one in model.memories["hice"].kept.items()}
    assert [one.entry for one in decisions] == [ids["two cups"], ids["the fox"], None]


def test_the_fitting_says_what_it_tried_and_its_seed_decides(tmp_path):
    vlm = tiny("blip2")
    first = fitted("hice", vlm, tmp_path / "a", features=30)
    again = fitted("hice", vlm, tmp_path / "b", features=30)
    other = fitted("hice", vlm, tmp_path / "c", features=30, seed=1)
    weights = [(folder / artefact.WEIGHTS).read_bytes() for folder in (first, again, other)]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]
    lines = read_log(first)
    assert [line["strength"] for line in lines] == [10.0**power for power in range(-4, 5)]
    part = artefact.read(first, "hice", vlm)
    assert all(text.count("New Fact:") == 1 for texts in part.about["demonstrations"] for text in texts)
    assert len(part.about["demonstrations"]) == len(part.tensors["demonstrations"])


def test_an_edit_is_not_demonstrated_by_itself(tmp_path):
    vlm = tiny("blip2")
    folder = fitted("hice", vlm, tmp_path, features=30)
    edit = editor("hice", fitted=str(folder), demonstrations=50).edit(vlm, REQUEST)
    shown = edit.payload.meta["demonstrations"]
    assert shown
    assert not any(text.startswith(new_fact(REQUEST.question, REQUEST.answer)) for text in shown)
    assert any("the fox" in text for text in shown)


@pytest.mark.parametrize(
    "settings", [{"gate": "both"}, {"demonstrations": -1}, {"hard": 1.5}, {"picture_weight": -0.1}]
)
def test_unfit_settings_are_named(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        editor("hice", **settings)
