"""The adversarial loss as a switch of editors that train one edit: off, nothing changes; on, Eq. 10 is what is minimised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.data.words_encoder import WordsEncoder
from tests.vlm.models import QUESTIONS, build, picture
from vledit.codebook import FullTransformation
from vledit.data.case import EditCase, EditRequest, Probe
from vledit.data.devqa import DevQA
from vledit.editors import adversary as module
from vledit.editors.adversary import Adversary, companions
from vledit.editors.ft import FineTuneConfig
from vledit.editors.ft_v import VisionFineTuneConfig, forced_logits
from vledit.editors.registry import editor
from vledit.errors import InputError, UnknownNameError
from vledit.evaluate.held import digest
from vledit.retrieval import Index
from vledit.vlm.acting import acting

REQUEST = EditRequest(picture(9), "Which capital is this?", "the fox", (), "edit")
EDITORS: dict[str, dict[str, Any]] = {
    "ft": {"steps": 40, "learning_rate": 0.02},
    "balancedit": {"steps": 40, "learning_rate": 0.02},
    "t_patcher": {"steps": 60, "learning_rate": 0.05},
}

WEIGHT = {"ft": 1.0, "balancedit": 1.0, "t_patcher": 10.0}
"""λ1: with the paper's 0.1 a random model does not learn the answer against the terms in so few steps."""


def record(number: int, question: str, answer: str) -> EditCase:
    request = EditRequest(picture(number), question, answer, (), f"record-{number}")
    unrelated = (Probe(picture(number + 50), "Who made this?"),)
    return EditCase(request, {}, {"random_image": unrelated, "text": (Probe(None, QUESTIONS[2]),)}, base_answer="tea")


@pytest.fixture(scope="module")
def pool() -> DevQA:
    words = ("animal", "cup", "beach")
    return DevQA([record(n, f"Which {w} is this?", w) for n, w in enumerate(words)], Index(WordsEncoder()))


@pytest.fixture(autouse=True)
def own_pool(pool: DevQA, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "companions", lambda source: pool)


@pytest.fixture(scope="module")
def vlm():
    return build("pocket", 3)


def changes(edit: Any) -> dict[str, Any]:
    return edit.weights if edit.weights is not None else {edit.entry.site: edit.entry.transformation}


def left(vlm: Any, edit: Any) -> dict[str, float]:
    """Term → what the edit moves, in nats, by the editor's own probes."""
    config = FineTuneConfig(adversarial="all", locality_weight=0.0)
    adversary = Adversary.of(vlm, REQUEST, config, list(changes(edit)))
    assert adversary is not None
    with torch.no_grad():
        return {term: float(value) for term, value in adversary.divergences(changes(edit)).items()}


@pytest.mark.parametrize("name", EDITORS)
def test_off_is_the_same_bits_and_on_keeps_the_base_where_it_is_asked_to(vlm, name: str):
    method = editor(name, **EDITORS[name])
    plain = method.edit(vlm, REQUEST)
    for off in ({"adversarial": ""}, {"adversarial": "all", "adversarial_weight": 0.0}):
        again = editor(name, **EDITORS[name], **off).edit(vlm, REQUEST)
        assert digest(again) == digest(plain)
    on = editor(name, **EDITORS[name], adversarial="all", edit_weight=WEIGHT[name]).edit(vlm, REQUEST)
    assert on.report.trained
    before, after = left(vlm, plain), left(vlm, on)
    assert set(after) == {"RI", "NI", "CI"}
    assert sum(after.values()) < 0.6 * sum(before.values())


def test_the_gradient_is_that_of_equation_10_by_finite_differences(vlm):
    site = vlm.default_site
    config = FineTuneConfig(adversarial="RI,NI,CI", edit_weight=0.3, locality_weight=0.7, adversarial_weight=1.3)
    adversary = Adversary.of(vlm, REQUEST, config, [str(site)])
    assert adversary is not None
    assert adversary.probes.terms == ("RI", "NI", "CI", "I-Loc", "T-Loc")
    trunk = vlm.trunk(vlm.encode([REQUEST.image], [REQUEST.question], [REQUEST.answer]), site.layer)
    generator = torch.Generator().manual_seed(5)
    shape = vlm.site_shape(site)
    point = 0.05 * torch.randn(shape, generator=generator)
    ways = [torch.randn(shape, generator=generator) for _ in range(3)]

    def loss(weights: torch.Tensor) -> torch.Tensor:
        change = FullTransformation(weights)
        edit = F.cross_entropy(
            vlm.head(trunk, site, change, positions=trunk.encoded.predict_mask), trunk.encoded.targets
        )
        return adversary.loss(edit, adversary.divergences({str(site): change}))

    learned = point.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(learned), learned)
    for way in ways:
        with torch.no_grad():
            slope = (loss(point + 1e-3 * way) - loss(point - 1e-3 * way)) / 2e-3
        assert float(slope) == pytest.approx(float((gradient * way).sum()), rel=0.03, abs=2e-3)


def test_the_loss_against_a_slow_reference(vlm):
    """Every term anew: one probe at a time, whole passes, plain numpy."""
    site = vlm.default_site
    config = FineTuneConfig(adversarial="RI,CI", edit_weight=0.5, locality_weight=2.0, adversarial_weight=3.0)
    adversary = Adversary.of(vlm, REQUEST, config, [str(site)])
    assert adversary is not None
    change = FullTransformation(0.05 * torch.randn(vlm.site_shape(site), generator=torch.Generator().manual_seed(1)))
    planned = module.planned_probes(vlm, REQUEST, config)
    slow = 0.5 * 7.0
    encoded = adversary.trunk.encoded
    for row, (term, probe) in enumerate(planned.items()):
        tokens = encoded.targets[encoded.target_rows == row].tolist()
        pictures = vlm.read_pictures(probe.image, probe.question)
        alone = vlm.assemble([vlm._prompter.prompt(probe.question, pictures.placeholders)], [tokens], [pictures])
        base = vlm.head(vlm.trunk(alone, 0), positions=alone.predict_mask).double().detach().numpy()
        assert base.argmax(1).tolist() == tokens  # the base's own greedy answer is what is forced
        edited = vlm.head(vlm.trunk(alone, 0), site, change, positions=alone.predict_mask)
        edited = edited.double().detach().numpy()
        p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (base, edited))
        weight = 2.0 if term.endswith("Loc") else 3.0
        slow += weight * (p * np.log(p / q)).sum(1).mean()
    with torch.no_grad():
        found = adversary.loss(torch.tensor(7.0), adversary.divergences({str(site): change}))
    assert float(found) == pytest.approx(slow, rel=1e-3)


def test_a_step_on_the_vision_side_goes_down_equation_10(vlm):
    """The first step of AdamW is the rate times the sign of the gradient, which is had anew here, probe by probe."""
    config: dict[str, Any] = {"steps": 1, "learning_rate": 1e-3, "unlearnt": "keep", "margin": 50.0}
    plain = editor("ft_v", **config).edit(vlm, REQUEST)
    off = editor("ft_v", **config, adversarial="all", adversarial_weight=0.0).edit(vlm, REQUEST)
    assert digest(plain) == digest(off)
    point = next(iter(plain.weights))
    config["sites"] = point.removeprefix("vision:")
    noise = torch.randn(plain.weights[point].weight_delta.shape, generator=torch.Generator().manual_seed(2))
    before = FullTransformation(0.1 * noise)  # what an earlier edit did: without it every divergence is at its lowest
    weights = {"edit_weight": 0.2, "locality_weight": 3.0, "adversarial_weight": 5.0}
    made = editor("ft_v", **config, adversarial="all", **weights).edit(vlm, REQUEST, start={point: before})
    assert made.report.steps == 1
    step = made.weights[point].weight_delta - before.weight_delta

    learned = before.weight_delta.clone().requires_grad_()
    change = FullTransformation(learned)
    planned = module.planned_probes(vlm, REQUEST, VisionFineTuneConfig(adversarial="all"))
    adversary = Adversary.of(vlm, REQUEST, VisionFineTuneConfig(adversarial="all"), [point])
    assert adversary is not None
    assert adversary.probes.terms == ("RI", "CI", "I-Loc")
    encoded = vlm.encode([REQUEST.image], [REQUEST.question], [REQUEST.answer])
    with acting(vlm, [{point: change}], encoded):
        loss = 0.2 * F.cross_entropy(forced_logits(vlm, encoded).float(), encoded.targets)
    for row, term in enumerate(adversary.probes.terms):
        probe, whole = planned[term], adversary.trunk.encoded
        tokens = whole.targets[whole.target_rows == row].tolist()
        pictures = vlm.read_pictures(probe.image, probe.question)
        alone = vlm.assemble([vlm._prompter.prompt(probe.question, pictures.placeholders)], [tokens], [pictures])
        with torch.no_grad():
            base = forced_logits(vlm, alone).float().log_softmax(-1)
        with acting(vlm, [{point: change}], alone):
            edited = forced_logits(vlm, alone).float().log_softmax(-1)
        apart = (base.exp() * (base - edited)).sum(1).mean()
        loss = loss + (3.0 if term == "I-Loc" else 5.0) * apart
    (gradient,) = torch.autograd.grad(loss, learned)
    steep = gradient.abs() > 0.05 * gradient.abs().max()
    assert steep.float().mean() > 0.2
    assert torch.equal(torch.sign(step)[steep], -torch.sign(gradient)[steep])


def test_what_follows_other_edits_still_keeps_the_base(vlm):
    first = editor("ft", **EDITORS["ft"]).edit(vlm, EditRequest(picture(4), "Who made this?", "tea", (), "first"))
    second = editor("ft", **EDITORS["ft"], adversarial="RI", edit_weight=1.0).edit(vlm, REQUEST, start=first.weights)
    plain = editor("ft", **EDITORS["ft"]).edit(vlm, REQUEST, start=first.weights)
    assert left(vlm, second)["RI"] < left(vlm, plain)["RI"]


def test_an_edit_without_a_picture_has_no_ni_and_unfit_settings_are_refused(vlm):
    text = EditRequest(None, "Which capital is this?", "the fox", (), "text")
    config = FineTuneConfig(adversarial="all", locality_weight=0.0)
    assert set(module.planned_probes(vlm, text, config)) == {"RI", "CI"}
    with pytest.raises(UnknownNameError, match="adversarial term"):
        editor("ft", adversarial="RI,XX")
    with pytest.raises(InputError, match="edit_weight"):
        editor("t_patcher", edit_weight=-1.0)


def test_companions_come_from_a_table_of_edits(tmp_path, monkeypatch):
    monkeypatch.setattr("vledit.data.devqa.index_of", lambda pool: Index(WordsEncoder()))
    picture(1).save(tmp_path / "one.png")
    table = tmp_path / "edits.csv"
    table.write_text("image,question,answer\none.png,Which cup is this?,a mug\n,Which capital is it?,Rome\n")
    found = companions.__wrapped__(str(table))
    assert [case.request.answer for case in found.pool] == ["a mug", "Rome"]
    assert len({case.id for case in found.pool}) == 2
    with pytest.raises(UnknownNameError, match="icons"):
        companions.__wrapped__("icon")
