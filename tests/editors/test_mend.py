"""MEND against autograd, as the identity, and as something that learns: what the released code got wrong is tested here."""

import copy
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.evaluate.small import case
from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.codebook import SpanTransformation
from vledit.data.case import EditRequest
from vledit.editors import mend
from vledit.editors.edited_model import EditedModel
from vledit.editors.gradient_factors import gradient_factors
from vledit.editors.mend_fit import MendJob
from vledit.editors.mend_network import Block, MendNetwork, Statistics
from vledit.editors.training import artefact
from vledit.editors.training.fitting import Fitting
from vledit.editors.training.loop import read_log
from vledit.editors.training.losses import kl_from_base
from vledit.errors import InputError, MissingDataError, ModelMismatchError

REQUEST = EditRequest(picture(1), QUESTIONS[0], "two cups", id="cups")
SMALL = {"rank": 4, "warm_up": 2, "locality": "text,near_image", "learning_rate": 1e-3, "steps": 6, "save_every": 2}


def trunk_of(vlm, request, layer=0):
    return vlm.trunk(vlm.encode([request.image], [request.question], [request.answer]), layer)


def as_it_is(network):
    """Statistics that change nothing: mean 0, spread 1."""
    for pair in network.seen:
        for statistics in pair:
            statistics.count.fill_(2)
            statistics.squares.fill_(1)
    return network


def job(vlm, cases=2, folder=Path("unused"), **settings):
    fitting = Fitting(vlm, [case(number) for number in range(cases)], folder, mend.MendFit(**{**SMALL, **settings}))
    return MendJob.of(fitting)


def fitted(vlm, folder, cases=2, **settings):
    chosen = mend.MendFit(**{**SMALL, **settings})
    return mend.Mend.fit(Fitting(vlm, [case(number) for number in range(cases)], folder, chosen))


# --- the gradient and its factors ---------------------------------------------------------------------------------------


def weight_gradients(vlm, request, sites):
    """Site → the gradient of the answer's loss by autograd, in a copy of the whole model whose weights learn."""
    encoded = vlm.encode([request.image], [request.question], [request.answer])
    own = copy.copy(vlm)
    own.__dict__ = dict(vlm.__dict__)
    model = copy.deepcopy(vlm.model)
    names = {id(module): name for name, module in vlm.model.named_modules()}
    weights = {}
    for site in sites:
        weight = model.get_submodule(names[id(vlm.site_module(site))]).weight
        weights[site] = weight.requires_grad_(True)
    causal = model if vlm.anatomy.causal is vlm.model else model.get_submodule(names[id(vlm.anatomy.causal)])
    with torch.enable_grad():
        logits = causal(**vlm.language_inputs(encoded), use_cache=False).logits
        loss = F.cross_entropy(logits[encoded.predict_mask].float(), encoded.targets)
        return dict(zip(sites, torch.autograd.grad(loss, list(weights.values())), strict=True)), float(loss.detach())


def test_with_the_identity_the_update_is_minus_alpha_times_the_weights_gradient(vlm):
    shapes = mend.shapes(vlm)
    network = as_it_is(MendNetwork(shapes, rank=3, alpha=0.25))
    found = gradient_factors(vlm, trunk_of(vlm, REQUEST), list(shapes))
    expected, loss = weight_gradients(vlm, REQUEST, list(shapes))
    made = mend.changes(network, found)
    assert found.loss == pytest.approx(loss, rel=1e-4)
    assert len(shapes) in (6, 9)  # two or three linears in each of three layers
    for site, gradient in expected.items():
        change = made[site].directions @ made[site].inputs
        assert change.shape == gradient.shape == shapes[site][::-1]
        assert torch.allclose(change, -0.25 * gradient, atol=1e-6 * float(gradient.abs().max()) + 1e-9, rtol=1e-3)
        assert float(gradient.abs().max()) > 0


def test_only_tokens_that_have_a_gradient_are_kept():
    vlm = tiny("pocket")
    trunk = trunk_of(vlm, REQUEST)
    found = gradient_factors(vlm, trunk, list(mend.shapes(vlm)))
    answer = int(trunk.encoded.answer_mask.sum())
    prompt = int(trunk.encoded.prompt_mask.sum())
    for site, (u, delta) in found.of.items():
        assert len(u) == len(delta) == (answer if site.startswith("2.") else prompt + answer - 1)


def test_the_gradient_is_that_of_the_model_with_earlier_edits():
    vlm = tiny("pocket")
    shapes = mend.shapes(vlm)
    generator = torch.Generator().manual_seed(0)
    start = {
        site: SpanTransformation(
            torch.randn(shape[1], 2, generator=generator) * 0.1, torch.randn(2, shape[0], generator=generator) * 0.1
        )
        for site, shape in shapes.items()
    }
    changed = copy.deepcopy(vlm.model)
    names = {id(module): name for name, module in vlm.model.named_modules()}
    for site, change in start.items():
        with torch.no_grad():
            weight = changed.get_submodule(names[id(vlm.site_module(site))]).weight
            weight += change.directions @ change.inputs
    other = type(vlm)(changed, vlm.processor, vlm.family)
    with_start = gradient_factors(vlm, trunk_of(vlm, REQUEST), list(shapes), start)
    merged = gradient_factors(other, trunk_of(other, REQUEST), list(shapes))
    assert with_start.loss == pytest.approx(merged.loss, rel=1e-4)
    for site in shapes:
        for mine, theirs in zip(with_start.of[site], merged.of[site], strict=True):
            assert torch.allclose(mine, theirs, atol=1e-4)


def test_a_change_as_factors_is_the_change_as_a_matrix(vlm):
    shapes = mend.shapes(vlm)
    trunk = trunk_of(vlm, REQUEST)
    network = as_it_is(MendNetwork(shapes, rank=3, alpha=0.5))
    made = mend.changes(network, gradient_factors(vlm, trunk, list(shapes)))
    changed = copy.deepcopy(vlm.model)
    names = {id(module): name for name, module in vlm.model.named_modules()}
    for site, change in made.items():
        with torch.no_grad():
            changed.get_submodule(names[id(vlm.site_module(site))]).weight += change.directions @ change.inputs
    other = type(vlm)(changed, vlm.processor, vlm.family)
    positions = trunk.encoded.predict_mask
    merged = other.head(trunk_of(other, REQUEST), positions=positions)
    lazy = vlm.anatomy.lm_head(mend.hidden_with(vlm, trunk, made))
    assert torch.allclose(vlm.after_projection(lazy), merged, atol=2e-4)
    assert not torch.allclose(merged, vlm.head(trunk, positions=positions), atol=1e-3)


# --- the network ---------------------------------------------------------------------------------------------------------


def test_with_u_zero_the_network_is_the_identity_bit_for_bit():
    torch.manual_seed(0)
    block = Block(7, 3, 2)
    z = torch.randn(5, 7)
    assert torch.equal(block(z, 1), z)
    with torch.no_grad():
        block.U.normal_()
    expected = z + torch.relu(block.s[1] * (z @ (block.U @ block.V).T + block.b) + block.o[1])
    assert torch.allclose(block(z, 1), expected, atol=1e-6)


def test_statistics_are_those_of_everything_seen():
    rows = torch.randn(57, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 7) + 3
    running = Statistics(6)
    with pytest.raises(InputError, match="fewer than two"):
        running(rows)
    for part in rows.split([1, 20, 5, 31]):
        running.update(part)
    running.update(rows[:0])
    assert torch.allclose(running.mean, rows.mean(0), atol=1e-5)
    assert torch.allclose(running.spread(), rows.std(0), atol=1e-4)
    assert torch.allclose(running(rows), (rows - rows.mean(0)) / rows.std(0), atol=1e-4)


def test_a_coordinate_that_never_moves_is_not_blown_up():
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 1e-6  # as small as gradients are
    rows[:, 2] = 0
    running = Statistics(4)
    running.update(rows)
    assert float(running(rows)[:, 0].std()) == pytest.approx(1, abs=0.01)
    assert float(running(torch.full((1, 4), 1e-8)).abs().max()) < 20


def test_after_one_step_every_parameter_has_a_gradient(vlm):
    made = job(vlm)
    made.start()
    optimizer = made.optimizer()
    for _ in range(2):
        optimizer.zero_grad()
        sum(made.losses(0, random.Random(0)).values()).backward()
        gradients = {name: parameter.grad for name, parameter in made.module.named_parameters()}
        optimizer.step()
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert bool(torch.isfinite(gradient).all()), name
        rows = gradient if name.endswith((".s", ".o")) else gradient[None]  # each layer's own scale and shift
        assert all(float(row.abs().max()) > 0 for row in rows), name
    seen = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert seen == {id(parameter) for parameter in made.module.parameters()}


def test_as_released_the_step_sizes_alone_learn():
    made = job(tiny("pocket"), as_released=True)
    made.start()
    sum(made.losses(0, random.Random(0)).values()).backward()
    learns = {name for name, one in made.module.named_parameters() if one.grad is not None and bool(one.grad.any())}
    assert learns == {"raw_alpha"}


def test_the_terms_of_a_step_are_those_of_the_rows_one_by_one():
    """All rows go through one vocabulary projection; each term must be that of its own row."""
    vlm = tiny("qwen2_5_vl")
    made = job(vlm, edit_weight=0.3, locality_weight=2.0)
    made.start()
    one = made.cases[1]
    acting = mend.changes(made.module, gradient_factors(vlm, one.frozen([0])[0].trunk, made.module.sites))
    rows = {term: one.rows(term.cell)[0] for term in made.plan if one.rows(term.cell)}
    found = made.terms(one, acting, rows)
    assert set(found) == {"generality/text", "generality/image", "locality/text", "locality/near_image"}
    for (cell, *_), row in rows.items():
        (part,) = one.frozen([row])
        logits = vlm.anatomy.lm_head(mend.hidden_with(vlm, part.trunk, acting)).float()
        if cell.startswith("generality"):
            expected = 0.3 * F.cross_entropy(logits, part.targets)
        else:
            expected = 2.0 * kl_from_base(part.base_log_probs(), logits)
        assert found[cell].item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)


# --- fitting and editing --------------------------------------------------------------------------------------------------


def test_a_fitting_that_is_interrupted_goes_on_to_the_same_bits_statistics_too(tmp_path, monkeypatch):
    vlm = tiny("pocket")
    fitted(vlm, tmp_path / "whole")
    calls = []

    def losses(self, number, draw, true=MendJob.losses):
        calls.append(number)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return true(self, number, draw)

    with monkeypatch.context() as patch:
        patch.setattr(MendJob, "losses", losses)
        with pytest.raises(KeyboardInterrupt):
            fitted(vlm, tmp_path / "cut")
    fitted(vlm, tmp_path / "cut")
    whole, cut = (artefact.read(tmp_path / name, "mend", vlm).tensors for name in ("whole", "cut"))
    assert {name for name in whole if name.endswith("count")}
    for name, tensor in whole.items():
        assert torch.equal(tensor, cut[name]), name


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """(a tiny model, an editor that is fitted to two edits of it)."""
    vlm = tiny("pocket")
    settings = {
        "steps": 60,
        "rank": 8,
        "learning_rate": 1e-2,
        "alpha_rate": 0.1,
        "edit_weight": 1.0,
        "locality": "text",
    }
    folder = fitted(vlm, tmp_path_factory.mktemp("mend") / "fit", log_every=10, **settings)
    return vlm, mend.Mend(mend.MendConfig(fitted=str(folder))), folder


def test_what_is_fitted_makes_edits_and_undoing_them_leaves_no_trace(learnt):
    """Overfitted on two edits, each of which is then answered after one pass forward and back."""
    vlm, editor, folder = learnt
    first, last = read_log(folder)[0], read_log(folder)[-1]
    assert last["generality/text"] < 0.1 * first["generality/text"]
    assert last["locality/text"] < 1.0
    for number in range(2):
        request = case(number).request
        asked = [request.image], [request.question]
        model = EditedModel(vlm)
        before = model.answers(*asked, 4)[0].text
        made = editor.edit(vlm, request)
        assert all(change.kind == "span" for change in made.weights.values())
        assert made.report.nbytes == sum(change.nbytes for change in made.weights.values())
        model.add(made)
        assert bool(model.verify(*asked, [request.answer]).exact[0])
        assert made.report.trained
        model.remove(made.id)
        assert model.answers(*asked, 4)[0].text == before


def test_an_answer_that_the_model_gives_already_changes_nothing(learnt):
    """Its gradient is small, but it is standardised: without care the model would be changed for nothing."""
    vlm, editor, _ = learnt
    request = case(0).request
    changed = copy.deepcopy(vlm.model)
    names = {id(module): name for name, module in vlm.model.named_modules()}
    for site, change in editor.edit(vlm, request).weights.items():
        with torch.no_grad():
            changed.get_submodule(names[id(vlm.site_module(site))]).weight += change.directions @ change.inputs
    knows = type(vlm)(changed, vlm.processor, vlm.family)
    editor._networks[knows.fingerprint, str(knows.device)] = editor.network(vlm)
    made = editor.edit(knows, request)
    assert made.report.steps == 0
    assert made.report.trained
    assert {len(change.inputs) for change in made.weights.values()} == {0}
    model = EditedModel(knows)
    asked = [request.image], [request.question]
    before = model.generate(*asked, max_new_tokens=4, return_dict_in_generate=True, output_logits=True).logits
    model.add(made)
    after = model.generate(*asked, max_new_tokens=4, return_dict_in_generate=True, output_logits=True).logits
    assert all(torch.equal(mine, other) for mine, other in zip(before, after, strict=True))


def test_edits_add_up_and_any_of_them_can_be_removed(learnt):
    vlm, editor, folder = learnt
    requests = [case(number).request for number in range(2)] + [EditRequest(None, QUESTIONS[2], "tea", id="tea")]

    def held(model):
        return {site: (change.kind, *change.tensors().values()) for site, change in model._always.items()}

    model = EditedModel(vlm)
    for request in requests:
        model.edit(request, "mend", check=False, fitted=str(folder))
    sums = dict(model._always)
    apart = [editor.edit(vlm, request).weights for request in requests]
    for site, whole in sums.items():
        expected = sum(change[site].directions @ change[site].inputs for change in apart)
        assert torch.allclose(mend_matrix(whole), expected, atol=1e-5)
    assert {change.kind for change in sums.values()} == {"full", "span"}  # as a matrix where that is smaller
    model.remove(requests[0].id)
    only = EditedModel(vlm)
    for request in requests[1:]:
        only.edit(request, "mend", check=False, fitted=str(folder))
    for mine, other in zip(held(model).values(), held(only).values(), strict=True):
        assert mine[0] == other[0]
        assert all(torch.equal(a, b) for a, b in zip(mine[1:], other[1:], strict=True))


def mend_matrix(change):
    return change.weight_delta if change.kind == "full" else change.directions @ change.inputs


def test_without_a_fitting_the_command_is_said_and_another_models_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("VLEDIT_CACHE", str(tmp_path / "cache"))
    vlm = tiny("pocket")
    with pytest.raises(MissingDataError, match="vledit fit --editor mend"):
        mend.Mend().edit(vlm, REQUEST)
    fitted(vlm, artefact.default_folder("mend", vlm), steps=1)
    assert mend.Mend().edit(vlm, REQUEST).editor == "mend"
    with pytest.raises(ModelMismatchError):
        mend.Mend(mend.MendConfig(fitted=str(artefact.default_folder("mend", vlm)))).edit(tiny("blip2"), REQUEST)


def test_an_edit_without_a_picture_is_made_too(tmp_path):
    vlm = tiny("pocket")
    folder = fitted(vlm, tmp_path / "fit", steps=1)
    made = mend.Mend(mend.MendConfig(fitted=str(folder))).edit(vlm, EditRequest(None, QUESTIONS[2], "tea"))
    assert all(len(change.inputs) for change in made.weights.values())


def test_unfit_settings_are_named():
    with pytest.raises(InputError, match="rank: 0 given"):
        mend.MendFit(rank=0)
    with pytest.raises(InputError, match="alpha: -1 given"):
        mend.MendFit(alpha=-1)
    with pytest.raises(InputError, match="layer"):
        mend.shapes(tiny("pocket"), "9.mlp.out")
    published = mend.MendFit(**mend.Mend.published("blip2"))
    assert (published.rank, published.learning_rate, published.steps) == (1920, 1e-6, 50_000)
    assert mend.shapes(tiny("blip2"), published.sites) == mend.shapes(tiny("blip2"))
    assert mend.Mend.published("pocket") == {}
