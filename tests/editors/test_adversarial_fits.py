"""The adversarial terms in the fittings of lte, recipe, liveedit: off they are not there, on they are Eq. 10, one by one."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluate.small import case
from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.data import devqa
from vledit.data.case import EditCase, EditRequest, Probe
from vledit.editors import features
from vledit.editors.adversarial import TERMS
from vledit.editors.adversarial_fit import with_cells
from vledit.editors.answering import forced_with
from vledit.editors.effect import Effect, Insert, decided
from vledit.editors.liveedit import Experts, affinity, edit_of
from vledit.editors.liveedit_fit import LiveEditJob
from vledit.editors.lte_fit import LteJob
from vledit.editors.recipe import answer_words
from vledit.editors.recipe_fit import RecipeJob
from vledit.editors.registry import editor_class
from vledit.editors.training.fitting import Fitting
from vledit.errors import InputError, UnknownNameError
from vledit.retrieval import Index

from .retrieving import Words

JOBS: dict[str, Any] = {"lte": LteJob, "recipe": RecipeJob, "liveedit": LiveEditJob}
SMALL: dict[str, dict[str, Any]] = {
    "lte": {"layers": 2, "rank": 2},
    "recipe": {"width": 16, "tokens": 2, "contrast": 2},
    "liveedit": {"width": 16, "heads": 2, "queries": 2},
}
WEIGHTS: dict[str, Any] = {"edit_weight": 0.3, "locality_weight": 0.7, "adversarial_weight": 1.7}
EDIT = {"lte": "in scope", "recipe": "edit", "liveedit": "answer"}
KEPT = {"lte": "out of scope", "recipe": "locality", "liveedit": "locality"}
OTHER = EditRequest(picture(70), "Who made this thing?", "tea", ("Who has made it?",), "other")


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(features, "encoder", lambda name: Words())
    monkeypatch.setattr(devqa, "index_of", lambda pool: Index(Words(), devqa.questions(pool)))


def pool() -> list[EditCase]:
    """A case, and a record with another question, another picture and another answer."""
    return [case(0), EditCase(OTHER, {}, {"random_image": (Probe(picture(71), QUESTIONS[2]),)})]


def job(name: str, cases: list[EditCase] | None = None, **settings: Any) -> Any:
    """The fitting's job; what is zero at the start is moved away from there, so that an edit says something."""
    config = editor_class(name).FitConfig(**{"per_cell": 1, **SMALL[name], **settings})  # type: ignore[attr-defined]
    made = JOBS[name].of(Fitting(tiny("pocket"), cases or pool(), Path("unused"), config))
    made.start()
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
    return made


def losses(made: Any) -> dict[str, torch.Tensor]:
    with torch.enable_grad():
        return dict(made.losses(0, random.Random(0)))


def test_the_terms_are_asked_of_the_pairs_they_are_named_by():
    fitting = Fitting(tiny("pocket"), pool(), Path("unused"), editor_class("lte").FitConfig())  # type: ignore[attr-defined]
    first = with_cells(fitting, tuple(TERMS))[0]
    found = {term: first.locality[cell][0] for term, cell in TERMS.items()}
    assert (found["RI"].image, found["RI"].question) == (picture(71), first.request.question)
    assert (found["NI"].image, found["NI"].question) == (None, first.request.question)
    assert (found["CI"].image, found["CI"].question) == (OTHER.image, OTHER.question)
    fitting.cases = [first]
    assert with_cells(fitting, tuple(TERMS))[0] is first


@pytest.mark.parametrize("name", JOBS)
def test_off_the_cells_of_de_vqa_take_no_part(name: str):
    bare = job(name)
    wrapped = [replace(one, locality={**one.locality, "T1I3": (Probe(picture(33), "Q?"),)}) for one in pool()]
    for other in (job(name, wrapped), job(name, adversarial="all", adversarial_weight=0.0)):
        found, expected = losses(other), losses(bare)
        assert list(found) == list(expected)
        assert all(torch.equal(found[term], expected[term]) for term in found)


@pytest.mark.parametrize("name", JOBS)
def test_each_choice_of_terms_adds_exactly_these(name: str):
    plain, everything = losses(job(name)), losses(job(name, adversarial="all", **WEIGHTS))
    names = list(TERMS)
    assert [term for term in everything if term in TERMS] == names
    for chosen in range(1, 8):
        some = [one for place, one in enumerate(names) if chosen >> place & 1]
        found = losses(job(name, adversarial=",".join(some), **WEIGHTS))
        assert [term for term in found if term in TERMS] == some
        for term, value in found.items():
            assert float(value.detach()) == pytest.approx(float(everything[term].detach()), rel=1e-3, abs=1e-5), term
    for term, value in plain.items():  # the same rows are drawn; λ1 and λ2 weigh, routing is as it was
        weight = {EDIT[name]: WEIGHTS["edit_weight"], KEPT[name]: WEIGHTS["locality_weight"]}.get(term, 1.0)
        assert float(everything[term].detach()) == pytest.approx(weight * float(value.detach()), rel=1e-3, abs=1e-5)


def effect(name: str, made: Any, term: str) -> Effect:
    """The edit at work on the term's probe, put together anew."""
    request, none = made.cases[0].request, decided("edit", "test")
    if name == "lte":
        (row,) = [row for row in made.cited.rows(0) if row.term == term]
        return Effect(none, made.module.changes.fixed(), row.insert)
    vlm = made.vlm
    if name == "recipe":
        statement = made.module.statements(
            made.features.questions([f"{request.question} {request.answer}"]), made.features.pictures([request.image])
        )
        soft = made.module.prompts(statement, answer_words(vlm, request, 2)[None])[0]
        return Effect(none, insert=Insert(soft=soft.detach()))
    probe = made.cases[0].locality[TERMS[term]][0]
    seen = []
    for image, question, answer in (
        (request.image, request.question, request.answer),
        (probe.image, probe.question, request.answer),
    ):
        trunk = vlm.trunk(vlm.encode([image], [question], [answer]), vlm.resolve_site(made.site).layer)
        seen.append((vlm.site_output(trunk, made.site)[0], trunk.encoded))
    own, (read, write) = edit_of(made.module, *seen[0])
    tokens, encoded = seen[1]
    asked = made.module.features(made.module.of_request, tokens, encoded.question_mask[0], encoded.visual_mask[0])
    return Effect(none, {made.site: Experts([(float(affinity(asked.psi, own.psi).sigmoid()), read, write)])})


@pytest.mark.parametrize("name", JOBS)
def test_the_terms_against_a_slow_reference(name: str):
    """One probe at a time, whole passes, plain numpy."""
    made = job(name, adversarial="all", **WEIGHTS)
    vlm, answer = made.vlm, made.cases[0].request.answer
    found = losses(made)
    for term, cell in TERMS.items():
        probe = made.cases[0].locality[cell][0]
        with torch.no_grad():
            acted = effect(name, made, term)
        rows = [
            forced_with(vlm, [one], [probe.image], [probe.question], [answer])[0].double().cpu().numpy()
            for one in (Effect(decided("none", "base")), acted)
        ]
        p, q = (np.exp(row) / np.exp(row).sum(1, keepdims=True) for row in rows)
        slow = WEIGHTS["adversarial_weight"] * (p * np.log(p / q)).sum(1).mean()
        assert slow > 1e-4
        assert float(found[term].detach()) == pytest.approx(slow, rel=5e-3), term


@pytest.mark.parametrize("name", JOBS)
def test_the_gradient_by_finite_differences(name: str):
    made = job(name, adversarial="all", **WEIGHTS)
    parameters = list(made.module.parameters())
    begun = copy.deepcopy(made.module.state_dict())
    names = [*TERMS, EDIT[name], KEPT[name]]

    def loss() -> torch.Tensor:
        found = losses(made)
        return torch.stack([found[term] for term in names]).sum()

    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    norm = float(sum(float(g.square().sum()) for g in gradients if g is not None)) ** 0.5
    ways = [torch.zeros_like(p) if g is None else g / norm for p, g in zip(parameters, gradients, strict=True)]
    slopes = []
    for step in (2e-2, -2e-2):
        made.module.load_state_dict(begun)
        with torch.no_grad():
            for parameter, way in zip(parameters, ways, strict=True):
                parameter += step * way
        slopes.append(float(loss().detach()) / step)
    assert sum(slopes) / 2 == pytest.approx(norm, rel=0.05)
    assert norm > 1e-3


def test_unfit_settings_are_named():
    config = editor_class("recipe").FitConfig  # type: ignore[attr-defined]
    with pytest.raises(UnknownNameError, match="adversarial term 'RJ'"):
        config(adversarial="RI,RJ")
    with pytest.raises(InputError, match="adversarial_weight"):
        config(adversarial_weight=-1.0)
