"""A key that is read at a lower site than the edit acts at: `key_site`, and how `fit-scope` chooses one."""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from tests.contract.rows import LONG, ROWS, asked, hooks, weights_digest
from tests.evaluate.small import case
from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.codebook import Codebook
from vledit.data.case import EditRequest
from vledit.editors import reach, reach_fit
from vledit.editors.balancedit import BalancEdit, BalancEditConfig
from vledit.editors.edited_model import EditedModel
from vledit.editors.training import artefact
from vledit.errors import InputError
from vledit.evaluate.asking import prepare
from vledit.evaluate.held import Held, digest
from vledit.evaluate.manifest import Variant
from vledit.evaluate.runner import ends
from vledit.vlm.site import Site

QUICK = {"steps": 200, "learning_rate": 0.05, "margin": 1.0, "transformation": "full"}
BELOW = {**QUICK, "key_site": "1.layer", "threshold": 1e-3}
REQUEST = EditRequest(picture(1), QUESTIONS[0], "two cups", ("What can be seen?",), "one")


@pytest.fixture(scope="module")
def vlm():
    return tiny("pocket")


@pytest.fixture(scope="module", params=["pocket", "llava", "qwen2_vl"])
def made(request):
    """(model, edit) of several families, the key read two layers below."""
    vlm = tiny(request.param)
    return vlm, BalancEdit(BalancEditConfig(**BELOW)).edit(vlm, REQUEST)


def edited(made) -> EditedModel:
    model = EditedModel(made[0])
    model.add(made[1])
    return model


@contextmanager
def counted(module):
    """Within the context, how often a module is called."""
    calls = []
    handle = module.register_forward_hook(lambda *_: calls.append(1))
    try:
        yield calls
    finally:
        handle.remove()


def test_the_key_is_what_enters_the_lower_layer(made):
    vlm, edit = made
    assert (edit.entry.site, edit.entry.key_site) == ("2.mlp.out", "1.layer")
    seen = []
    handle = vlm.layers[1].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    encoded = vlm.encode([REQUEST.image], [REQUEST.question])
    with torch.no_grad():
        vlm.model(**encoded.model_inputs) if vlm.anatomy.causal is vlm.model else vlm.head(vlm.trunk(encoded, 0))
    handle.remove()
    np.testing.assert_allclose(edit.entry.key, seen[-1][0, -1].numpy(), rtol=1e-4, atol=1e-5)


def test_it_is_decided_within_the_answers_own_first_pass(made):
    vlm, model = made[0], edited(made)
    for row, answer in ((0, "two cups"), (1, None)):
        with counted(vlm.layers[0]) as base:
            asked(EditedModel(vlm), [ROWS[row]], **LONG)
        with counted(vlm.layers[0]) as passes:
            asked(model, [ROWS[row]], **LONG)
        assert len(passes) == len(base)
        told = model.answer(*ROWS[row], 4)
        assert told.decision.fired == (answer is not None)
        assert answer is None or told.text == answer
    assert hooks(vlm) == hooks(tiny(vlm.name.removeprefix("tiny-")))


def test_every_way_of_running_decides_alike_and_undoing_gives_the_bases_bits(made):
    vlm, model = made[0], edited(made)
    weights = weights_digest(vlm)
    whole = asked(model, ROWS, **LONG)
    base = asked(EditedModel(vlm), ROWS, **LONG)
    assert torch.equal(whole[1:], base[1:])
    assert not torch.equal(whole[0], base[0])
    for row in (0, 1):
        alone = asked(model, [ROWS[row]], **LONG)
        assert torch.equal(asked(model, [ROWS[row]], **LONG, prefill_chunk_size=5), alone)
        encoded = vlm.encode(*([one] for one in ROWS[row]))
        inputs = {name: value for name, value in encoded.model_inputs.items() if name != "position_ids"}
        with model.attached() as hf_model, torch.inference_mode():
            said = hf_model.generate(**inputs, **LONG, eos_token_id=vlm._prompter.end_ids, pad_token_id=0)
        assert vlm._prompter.text(said[0, -8:].tolist()) == vlm._prompter.text(alone[0, -8:].tolist())
    model.remove("one")
    assert torch.equal(asked(model, ROWS, **LONG), base)
    model.restore("one")
    assert torch.equal(asked(model, ROWS, **LONG), whole)
    assert weights_digest(vlm) == weights


def test_edits_made_together_and_rows_of_a_batch_have_the_keys_of_edits_made_alone(vlm):
    requests = [
        REQUEST,
        EditRequest(None, QUESTIONS[2], "tea", id="two"),
        EditRequest(picture(4), QUESTIONS[1], "a fox"),
    ]
    method = BalancEdit(BalancEditConfig(**BELOW))
    together = [
        method.edit(vlm, one, begun=begun) for one, begun in zip(requests, method.begin(vlm, requests), strict=True)
    ]
    for one, request in zip(together, requests, strict=True):
        alone = method.edit(vlm, request)
        np.testing.assert_allclose(one.entry.key, alone.entry.key, rtol=1e-3, atol=1e-5)
        assert one.entry.key_site == alone.entry.key_site == "1.layer"


def test_a_file_keeps_where_the_key_is_read_and_says_so_to_older_versions(made, tmp_path):
    vlm, model = made[0], edited(made)
    path = tmp_path / "plain.vledit"
    with Codebook.create(path, vlm.fingerprint) as book:
        plain = EditedModel(vlm, book)
        plain.edit(EditRequest(picture(7), QUESTIONS[1], "the fox", id="two"), **QUICK, threshold=1e-3)
        assert schema(path) == 1
        plain.add(made[1])
        assert schema(path) == 2
    with Codebook.open(path, vlm.fingerprint) as book:
        again = EditedModel(vlm, book)
        assert again.codebook.get("one").key_site == "1.layer"
        assert again.codebook.get("two").key_site == again.codebook.get("two").site == "2.mlp.out"
        # keys at two sites: decided in a pass of their own, and both are found
        assert again.answer(REQUEST.image, REQUEST.question).text == "two cups"
        assert again.answer(picture(7), QUESTIONS[1]).text == "the fox"
        assert again.answer(*ROWS[1], 4).text == EditedModel(vlm).answer(*ROWS[1], 4).text
    assert torch.equal(asked(model, ROWS, **LONG), asked(edited(made), ROWS, **LONG))


def schema(path) -> int:
    db = sqlite3.connect(path)
    try:
        return db.execute("PRAGMA user_version").fetchone()[0]
    finally:
        db.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"key_site": "2.mlp"}, "key_site: '2.mlp' does not lie below"),
        ({"key_site": "9.mlp.out"}, "3 decoder layers"),
        ({"key_site": "1.head"}, "site role"),
        ({"key_site": "one"}, "layer number"),
        ({"key_site": "1.layer", "scope": "paper"}, "key_site: it belongs to scope=last"),
        ({"key_site": "1.layer", "alpha": 0.2}, "key_site"),
    ],
)
def test_unfit_key_sites_are_refused_before_anything_is_trained(vlm, settings, message):
    with pytest.raises(Exception, match=message):
        BalancEdit(BalancEditConfig(**{**QUICK, **settings})).edit(vlm, REQUEST)


def test_what_is_seen_in_time():
    def known(first: str, second: str) -> bool:
        return Site.parse(first).known_before(Site.parse(second))

    assert known("3.layer", "4.mlp.in")
    assert known("3.mlp.out", "3.mlp.out")
    assert known("3.mlp.in", "3.mlp.out")
    assert known("3.mlp.out", "3.mlp")
    assert not known("3.mlp", "3.mlp.out")
    assert not known("3.mlp.in", "3.mlp.up")
    assert not known("4.mlp.in", "3.layer")
    assert not known("3.mlp", "3.mlp.expert.1")


# --- fitting ------------------------------------------------------------------------------------------------------------

SITES = [Site(1, "layer"), Site(2, "mlp.out")]


@pytest.fixture(scope="module")
def fittings(vlm, tmp_path_factory):
    """(folder, what was fitted): each site alone, then both with one chosen on other cases."""
    cases, choose = [case(0), case(1)], [case(2), case(3)]
    found = []
    for sites in ([SITES[0]], [SITES[1]], SITES):
        folder = tmp_path_factory.mktemp("scope")
        found.append((folder, reach_fit.fit(vlm, cases, folder, key_sites=sites, choose=choose)))
    return found


def test_several_sites_are_fitted_each_as_by_itself_and_the_best_on_other_cases_is_chosen(vlm, fittings):
    site = vlm.resolve_site(vlm.default_site)
    (_, lower), (_, own), (folder, chosen) = fittings
    for key_site, alone in zip(SITES, (lower, own), strict=True):
        read = reach.reach(vlm, site, "euclidean", folder, key_site)
        assert (read.picture, read.text) == pytest.approx((alone.picture, alone.text), rel=1e-5)
        assert (read.share is None) == (alone.share is None)
        assert read.key_site == str(key_site)
    manifest = json.loads((folder / artefact.MANIFEST).read_text())
    (other,) = manifest["others"]
    assert {manifest["settings"]["key_site"], other} == set(map(str, SITES))
    values = manifest["chosen_by"], manifest["others"][other]["chosen_by"]
    assert values[0]["harmonic_mean"] >= values[1]["harmonic_mean"]
    assert values[0]["entries"] == 4
    assert reach.reach(vlm, site, "euclidean", folder).key_site == chosen.key_site == manifest["settings"]["key_site"]
    with pytest.raises(InputError, match=r"keys read at .* or .*its key read at 0\.layer"):
        reach.reach(vlm, site, "euclidean", folder, Site(0, "layer"))
    with pytest.raises(InputError, match="give edits with a picture to choose"):
        reach_fit.fit(vlm, [case(0)], folder, key_sites=SITES)


def test_the_choice_counts_each_side_alone_and_among_all_entries():
    fitting = reach_fit._Fitting(SITES[0], "euclidean")
    fitting.pictured.edit("far", np.array([100.0, 0]))
    trial = reach_fit._Trial(fitting)
    probes = [(out, case(0).locality["near_image"][0]) for out in (False, False, True, True)]
    trial.add(case(0), probes, np.array([[0.0, 0], [1, 0], [3, 0], [10, 0], [98, 0]]))
    found = reach.Reach(5.0, 5.0, "", crowd=((1, 5.0), (2, 1.5)))
    # alone: 1 and 3 are within 5, 10 and 98 are not; among two, within 1.5: only 1, and 98 is 2 from the other entry
    expected = {"inside": 1.0, "outside": 1.0, "inside_among_all": 0.5, "outside_among_all": 1.0, "entries": 2}
    assert trial.value(found, {}) == {**expected, "harmonic_mean": round(4 / (1 + 1 + 2 + 1), 4)}
    texts = trial.value(found, {"inside": 0.8, "outside": 1.0})
    assert texts["harmonic_mean"] == round(6 / (1 + 1 + 2 + 1 + 1.25 + 1), 4)


def test_an_edit_reads_its_key_where_the_fitting_says_and_the_papers_does_not(vlm, fittings):
    site = str(vlm.resolve_site(vlm.default_site))
    for folder, found in fittings[:2]:
        edit = BalancEdit(BalancEditConfig(**QUICK, scope_fitted=str(folder))).edit(vlm, REQUEST)
        assert edit.entry.key_site == found.key_site
        assert edit.entry.radius == pytest.approx(found.picture) or found.share is not None
        assert "fit-scope" in edit.entry.notes["radius_from"] or found.share is not None
    paper = BalancEdit(BalancEditConfig(**QUICK, alpha=0.3)).edit(vlm, REQUEST)
    assert paper.entry.key_site == paper.entry.site == site
    # a fitting written before there were key sites says nothing of them
    folder, found = fittings[1]
    manifest = json.loads((folder / artefact.MANIFEST).read_text())
    del manifest["settings"]["key_site"], manifest["others"]
    (folder / artefact.MANIFEST).write_text(json.dumps(manifest))
    old = reach.reach(vlm, vlm.resolve_site(site), "euclidean", folder)
    assert (old.picture, old.key_site) == (found.picture, site)


def test_scoring_reads_the_keys_that_answers_are_decided_by(vlm):
    variant = Variant("below", "balancedit", BELOW)
    above, sites = ends(vlm, [variant])
    assert (above, sites) == (2, (str(vlm.resolve_site(BELOW["key_site"])),))
    held = Held(vlm, variant)
    one = case(0)
    held.make(one.request)
    # trunks that end above the key's layer are made anew, unless it was said where keys will be asked for
    for layer, told_of, left in ((2, (), 1), (1, (), 1), (2, sites, 2)):
        prepared = prepare(vlm, one, layer, key_sites=told_of)
        effects, routed = held.acting(prepared)
        assert prepared.layer == left
        for row, (effect, route) in enumerate(zip(effects, routed, strict=True)):
            probe = prepared.asked[row].probe
            told = held.model.answer(probe.image, probe.question, 4).decision
            assert (told.fired, effect is not None) == (route.fired, route.fired)
            assert told.distance == pytest.approx(route.distance, abs=1e-4)
        assert prepared.score_targets([0], [effects[0]])[0].exact
    elsewhere = Held(vlm, Variant("own", "balancedit", {**BELOW, "key_site": "2.mlp.out"}))
    assert digest(elsewhere.make(one.request)) != digest(held.edits[one.request.id])
