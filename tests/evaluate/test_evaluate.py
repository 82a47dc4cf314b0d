"""Scoring equals asking the edited model probe by probe; metrics are pure functions of what is stored."""

import json
import math
from dataclasses import replace

import pytest
import torch

from vledit.data.case import Probe
from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError, MissingDataError
from vledit.evaluate import alpha, metrics
from vledit.evaluate.asking import prepare
from vledit.evaluate.bootstrap import Estimate
from vledit.evaluate.case_trunks import MAX_NEW_TOKENS
from vledit.evaluate.manifest import Variant
from vledit.evaluate.protocols import single

from .small import BALANCED, FINE_TUNE, case, outcome


def ask(model, probe):
    return model.answer(probe.image, probe.question, max_new_tokens=MAX_NEW_TOKENS)


@pytest.mark.parametrize("variant", [BALANCED, FINE_TUNE], ids=lambda variant: variant.name)
def test_scores_equal_asking_the_edited_model(any_vlm, variant):
    """The verified pass and stored routing against the slow way: edit, ask every probe with greedy decoding, undo."""
    one = case()
    model = EditedModel(any_vlm)
    base = {(family, cell, index): ask(model, probe).text for family, cell, index, probe in one.probes()}
    scored = single(any_vlm, prepare(any_vlm, one), variant)
    assert scored.failure is None
    model.edit(one.request, variant.editor, **variant.settings)
    found = {(o.family, o.cell, o.index): o for o in scored.outcomes}
    assert found["reliability", "edit", 0].new
    for family, cell, index, probe in one.probes():
        answer, seen = ask(model, probe), found[family, cell, index]
        target = probe.answer if family == "portability" else one.request.answer
        assert seen.new == (answer.text == target)
        if variant is BALANCED:
            assert seen.fired == answer.decision.fired
            assert seen.distance == pytest.approx(answer.decision.distance, rel=1e-4)
        if family == "locality":
            assert seen.base_answer == base[family, cell, index]
            assert seen.same == (answer.text == base[family, cell, index])


def test_scores_by_token_equal_the_whole_model(any_vlm):
    """Token accuracy and EasyEdit's top-10 against plain forwards of the edited model, before and after."""
    prepared = prepare(any_vlm, case())
    row, asked = next((row, one) for row, one in enumerate(prepared.asked) if one.is_locality and one.probe.image)
    asked.base_answer = "a cat"  # what a random model says is seldom spelled the same when it is read again
    prepared.run_trunks(prepared.sames, {row: "a cat"})
    prepared.base_top[row] = forced(any_vlm, asked.probe, "a cat")[0].topk(10, -1).indices
    scored = single(any_vlm, prepared, FINE_TUNE)
    seen = scored.outcomes[row]
    change = scored.edit.weights[str(any_vlm.default_site)]
    logits, targets = forced(any_vlm, asked.probe, asked.target, change)
    assert seen.changed_new_token == pytest.approx(float((logits.argmax(-1) == targets).float().mean()))
    before, after = (
        forced(any_vlm, asked.probe, "a cat", act)[0].softmax(-1).topk(10, -1).indices for act in (None, change)
    )
    assert seen.changed_top10 == pytest.approx(float((before.reshape(-1) == after.reshape(-1)).float().mean()))
    assert seen.changed_same_token == pytest.approx(float((before[:, 0] == after[:, 0]).float().mean()))
    assert seen.changed_same == bool((before[:, 0] == after[:, 0]).all())


def test_an_answer_that_goes_on_is_not_the_same(any_vlm, monkeypatch):
    """Preserved is the whole answer, its end included: "a cat" is not "a cat and a dog"."""
    prepared = prepare(any_vlm, case())
    row = next(row for row, one in enumerate(prepared.asked) if one.is_locality)
    prepared.asked[row].base_answer = "a cat"
    prepared.run_trunks(prepared.sames, {row: "a cat"})
    targets = any_vlm.encode([prepared.picture(row)], [prepared.asked[row].probe.question], ["a cat"]).targets
    said = torch.nn.functional.one_hot(targets, any_vlm.anatomy.lm_head.out_features).float()
    prepared.base_top[row] = said.topk(10, -1).indices
    end = int(targets[-1])
    assert end in any_vlm._prompter.end_ids or any_vlm.family.end_of_answer
    places = torch.zeros(len(targets), dtype=torch.long)
    for place, same in ((None, True), (len(targets) - 1, False), (0, False)):
        logits = said.clone()
        if place is not None:
            logits[place] = torch.nn.functional.one_hot((targets[place] + 1) % logits.shape[1], logits.shape[1]).float()
        monkeypatch.setattr(prepared.sames, "logits", lambda *_, found=logits: iter([([row], found, targets, places)]))
        assert prepared.score_sames([row], [None])[row].exact is same


def forced(vlm, probe, answer, change=None):
    """(logits (n, V), targets (n,)) of an answer put after its prompt."""
    encoded = vlm.encode([probe.image], [probe.question], [answer])
    with torch.inference_mode():
        trunk = vlm.trunk(encoded, 0)
        return vlm.head(trunk, vlm.default_site, change, positions=encoded.predict_mask).float(), encoded.targets


@pytest.mark.pocket
@pytest.mark.icons
def test_scores_of_the_embedded_model_equal_asking_it():
    """The same on real answers, where a base answer is told from one pass and not by generating it again."""
    import vledit
    from vledit.data import icons

    try:
        whole = icons.load_edits("test")[0]
    except (MissingDataError, IndexError):
        pytest.skip("the edits of icons are not there: vledit data build icons")
    vlm = vledit.load("pocket").vlm
    one = replace(
        whole,
        generality={cell: probes[:2] for cell, probes in whole.generality.items()},
        locality={cell: probes[:2] for cell, probes in whole.locality.items()},
    )
    prepared = prepare(vlm, one)
    assert len(prepared.base_top) >= 0.8 * sum(asked.is_locality for asked in prepared.asked)
    for editor in ("balancedit", "ft"):
        variant = Variant(editor, editor, {"rephrase": "supplied"} if editor == "balancedit" else {})
        scored = single(vlm, prepared, variant)
        model = EditedModel(vlm)
        model.edit(one.request, variant.editor, **variant.settings)
        for (family, _, _, probe), seen in zip(one.probes(), scored.outcomes[1:], strict=True):
            text = ask(model, probe).text
            assert seen.new == (text == seen.target)
            if family == "locality":
                assert seen.same == (text == seen.base_answer)


def test_leaving_out_the_tokens_leaves_the_exact_scores_as_they_are(vlm):
    whole = single(vlm, prepare(vlm, case()), FINE_TUNE).outcomes
    part = single(vlm, prepare(vlm, case(), tokens=False), FINE_TUNE).outcomes
    assert [(o.new, o.family != "locality" or o.same) for o in part] == [
        (o.new, o.family != "locality" or o.same) for o in whole
    ]
    assert [math.isnan(o.changed_new_token) for o in part] == [o.family == "locality" for o in part]
    assert not any(math.isnan(o.new_token) for o in whole)


def test_texts_are_what_the_edited_model_says(vlm):
    one = case()
    scored = single(vlm, prepare(vlm, one), FINE_TUNE, texts=True)
    model = EditedModel(vlm)
    model.edit(one.request, "ft", **FINE_TUNE.settings)
    for (*_, probe), seen in zip(one.probes(), scored.outcomes[1:], strict=True):
        assert seen.answer == ask(model, probe).text
        assert seen.shown_answer == (
            seen.answer or (seen.target if seen.new else seen.base_answer if seen.changed_same else "")
        )


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_parts_of_a_cell_count_their_own_probes():
    tagged = [
        outcome("a", "image", True, tags={"seen": "yes", "recognised": "no"}),
        outcome("a", "image", False, index=1, tags={"seen": "no", "recognised": "yes"}),
        outcome("a", "image", True, index=2, tags={"seen": "no", "recognised": "yes"}),
        outcome("a", "near_image", False, same=True, tags={"seen": "yes", "same_answer": "yes"}),
        outcome("a", "near_image", False, same=False, index=1, tags={"seen": "no", "same_answer": "no"}),
    ]
    found = {name: estimate.mean for name, estimate in metrics.estimates(tagged).items()}
    assert found["image_generality"] == pytest.approx(2 / 3)
    assert (found["image_generality_seen"], found["image_generality_held_out"]) == (1.0, 0.5)
    assert found["image_generality_recognised"] == 0.5
    assert (found["near_image_preserved_seen"], found["near_image_preserved_held_out"]) == (1.0, 0.0)
    assert found["near_image_preserved_same_answer"] == 1.0
    assert "random_image_preserved_seen" not in found


def test_what_the_base_says_of_a_probe_is_in_its_tags(any_vlm):
    """Recognised: it says the true answer; same answer: it says what it says to the edited question."""
    picture, question = case().request.image, case().request.question
    said = ask(EditedModel(any_vlm), Probe(picture, question)).text
    other = ask(EditedModel(any_vlm), Probe(None, "Why?")).text
    one = replace(
        case(),
        base_answer=said,
        generality={
            "image": (
                Probe(picture, question, None, {"truth": said}),
                Probe(picture, question, None, {"truth": "a zebra"}),
                Probe(picture, question),
            )
        },
        locality={"near_image": (Probe(picture, question), Probe(None, "Why?"))},
    )
    tags = [asked.tags() for asked in prepare(any_vlm, one).asked]
    forced = any_vlm.verify(any_vlm.encode([picture], [question], [said])).exact[0] if said else False
    assert [found.get("recognised") for found in tags[1:4]] == ["yes" if forced else "no", "no", None]
    assert [found.get("same_answer") for found in tags[4:6]] == ["yes", "yes" if other == said else "no"]


def test_retained_is_the_share_of_edits_so_far_that_still_hold():
    def record(name, after, new, protocol="sequential"):
        return {"case": name, "after": after, "protocol": protocol, "outcomes": [outcome(name, "edit", new)]}

    after_two = [record("a", 2, False), record("b", 2, True)]
    assert metrics.table(after_two)["retained"].mean == 0.5
    assert metrics.table([record("a", 1, True)])["retained"].mean == 1.0
    assert "retained" not in metrics.table([record("a", 1, True, "single")])


def test_metrics_by_hand():
    outcomes = [
        outcome("a", "text", True),
        outcome("a", "image", True),
        outcome("a", "image", False, index=1),
        outcome("a", "near_image", True, same=False),
        outcome("a", "near_image", False, same=True, index=1),
        outcome("b", "text", True),
        outcome("b", "image", True),
        outcome("b", "near_image", True, same=False, fired=False),
    ]
    found = metrics.estimates(outcomes)
    assert found["text_generality"].mean == 1
    assert found["image_generality"].mean == pytest.approx((0.5 + 1) / 2)
    assert found["near_image_preserved"].mean == pytest.approx((0.5 + 1) / 2)
    assert found["near_image_not_edited_answer"].mean == pytest.approx((0.5 + 1) / 2)
    assert found["near_image_not_edited_answer_token"].mean == pytest.approx((0.5 + 1) / 2)
    assert found["HM"].mean == pytest.approx(3 / (1 / 1 + 1 / 0.75 + 1 / 0.75))
    assert not found["HM"].has_interval
    assert str(found["text_generality"]) == "100.0 (n = 2)"


def test_the_two_locality_families_are_not_one():
    """A model that says a third thing keeps nothing, but does not give the new answer either."""
    outcomes = [outcome("a", "near_image", False, same=False, changed_new_token=0.25, changed_top10=0.4)]
    found = metrics.by_edit(outcomes)
    assert found["near_image_preserved"] == {"a": 0.0}
    assert found["near_image_not_edited_answer"] == {"a": 1.0}
    assert found["near_image_not_edited_answer_token"] == {"a": 0.75}
    assert found["near_image_top10"] == {"a": 0.4}


def test_every_cell_of_every_benchmark_has_its_metrics():
    outcomes = [
        outcome("a", "T2I1", False),
        outcome("a", "one_hop", True, family="portability", changed_same=None),
        outcome("a", "two_hop", False, family="portability", changed_same=None),
    ]
    found = metrics.by_edit(outcomes)
    assert found["T2I1_preserved"] == {"a": 1.0}
    assert found["one_hop_portability"] == {"a": 1.0}
    assert found["portability"] == {"a": 0.5}


def test_scores_that_were_not_run_are_in_no_mean():
    outcomes = [
        outcome("a", "near_image", False, changed_new_token=math.nan),
        outcome("a", "near_image", False, changed_new_token=0.5, index=1),
        outcome("b", "near_image", False, changed_new_token=math.nan),
    ]
    assert metrics.by_edit(outcomes)["near_image_not_edited_answer_token"] == {"a": 0.5}
    assert metrics.estimates(outcomes)["near_image_not_edited_answer_token"].n == 1


def test_costs_come_from_the_records():
    records = [
        {"case": str(i), "outcomes": [outcome(str(i), "text", True)], "edit": {"seconds": i, "nbytes": 10 * i}}
        for i in range(1, 4)
    ]
    found = metrics.table(records)
    assert found["seconds_per_edit"].mean == 2
    assert found["bytes_per_edit"].mean == 20
    assert "HM" not in found


def test_alpha_moves_the_radius_as_equation_10_says():
    outcomes = [outcome("a", "image", True, distance=d, index=i) for i, d in enumerate((1.0, 3.0, 5.0))]
    for value, fired in ((0.0, 3), (0.5, 2), (1.0, 1)):
        moved = metrics.at_alpha(outcomes, {"a": (1.0, 5.0)}, value)
        assert sum(o.fired for o in moved) == fired


def test_alpha_is_chosen_by_harmonic_mean():
    outcomes = [
        outcome("a", "text", True, distance=0.5),
        outcome("a", "image", True, distance=2.0),
        outcome("a", "near_image", True, same=False, distance=4.0),
    ]
    records = [{"case": "a", "edit": {"d_positive": 1.0, "d_negative": 5.0, "alpha": 0.2}, "outcomes": outcomes}]
    best, by_alpha = alpha.choose(records)
    assert 2.0 <= best * 1.0 + (1 - best) * 5.0 < 4.0
    assert by_alpha[0.0] == 0.0
    assert by_alpha[best] == 1.0
    for unfit in (None, {"d_positive": 1.0, "d_negative": 5.0, "alpha": None}):  # no scope; a radius that no α made
        for of_alpha in (alpha.curve, alpha.choose):
            with pytest.raises(InputError, match="none has a radius"):
                of_alpha([{"case": "a", "edit": unfit, "outcomes": outcomes}])


def test_no_interval_is_narrower_than_its_resampling_allows():
    outcomes = [outcome(str(i), "text", i % 2 == 0) for i in range(40)]
    found = metrics.estimates(outcomes)["text_generality"]
    assert found.mean == 0.5
    assert 0.3 < found.low < 0.45 < 0.55 < found.high < 0.7


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """Of 200 samples of 50 edits with a true mean of 0.7, about 95 % of intervals hold it."""
    import numpy as np

    draw = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        values = draw.random(50) < 0.7
        table = {"m": {str(i): float(value) for i, value in enumerate(values)}}
        found: Estimate = metrics.estimated(table, resamples=400)["m"]
        held += found.low <= 0.7 <= found.high
    assert 0.88 <= held / 200 <= 0.99


def test_estimates_are_json():
    found = metrics.estimates([outcome("a", "text", True)])
    assert json.loads(json.dumps(vars(found["text_generality"])))["n"] == 1
