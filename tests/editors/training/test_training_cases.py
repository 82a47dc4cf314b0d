"""Training cases: what is asked, what is kept back, and that the frozen part is the model's own."""

import random

import pytest
import torch

from tests.evaluate.small import case
from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.data.case import EditCase, EditRequest, Probe
from vledit.editors.training.cases import TrainingCases, held_out, order, training_case
from vledit.editors.training.losses import answer_loss, kl_from_base
from vledit.errors import InputError
from vledit.evaluate.prepared import PreparedCase
from vledit.evaluate.trunk_cache import TrunkCache


def full_logits(vlm, image, question, answer):
    """The positions that predict the answer, by the Hugging Face model's own forward pass."""
    encoded = vlm.encode([image], [question], [answer])
    with torch.no_grad():
        logits = vlm.anatomy.causal(**vlm.language_inputs(encoded), use_cache=False).logits
    return logits[encoded.predict_mask], encoded.targets


def test_nothing_that_scoring_keeps_back_is_trained_on():
    request = EditRequest(picture(1), QUESTIONS[0], "tea", ("What can be seen?",), "one")
    image = [Probe(picture(i), QUESTIONS[0], tags={"seen": "no" if i % 2 else "yes"}) for i in range(8)]
    text = [Probe(request.image, QUESTIONS[1], tags={"wording": "test"}), Probe(request.image, QUESTIONS[2])]
    whole = EditCase(request, {"image": tuple(image), "text": tuple(text)}, {"text": (Probe(None, QUESTIONS[2]),)})
    found = training_case(whole, 3)
    assert {probe.question for probe in found.generality["text"]} == {"What can be seen?", QUESTIONS[2]}
    assert len(found.generality["image"]) == 3
    assert not any(held_out(probe) for _, _, _, probe in found.probes())
    assert training_case(whole, 3) == found
    assert training_case(whole, 3, seed=1) != found
    assert [cell for _, cell, _, _ in training_case(whole, 3, cells=["locality/text"]).probes()] == ["text"]
    assert not training_case(whole, 3, cells=["locality/text"]).generality


def test_what_the_base_says_is_what_the_model_says_by_itself(vlm):
    cases = TrainingCases(vlm, [case(0)], layer=1, per_cell=2)
    one = cases[0]
    rows = one.rows("edit", "generality", "locality")
    assert one.rows("edit") == [0]
    assert {one.asked[row].cell for row in one.rows("locality")} <= {"near_image", "text"}
    found = 0
    for row in rows:
        asked = one.asked[row]
        (part,) = one.frozen([row])
        # a tiny random model says nothing that can be forced: the new answer stands in for it
        expected, targets = full_logits(vlm, asked.probe.image, asked.probe.question, one.request.answer)
        assert part.targets.tolist() == targets.tolist()
        assert torch.allclose(part.base_log_probs(), expected.float().log_softmax(-1), atol=2e-4)
        edited = vlm.head(part.trunk, positions=part.positions)
        assert float(kl_from_base(part.base_log_probs(), edited)) == pytest.approx(0, abs=1e-5)
        found += 1
    assert found >= 4


def test_rows_of_a_batch_are_the_rows_alone():
    vlm = tiny("pocket")
    one = TrainingCases(vlm, [case(0)], layer=1, per_cell=3)[0]
    rows = one.rows("generality")
    together = {}
    for part in one.frozen(rows[::-1]):
        log_probs = part.base_log_probs()
        for place in range(len(part.trunk)):
            together[tuple(part.trunk.encoded.input_ids[place].tolist()), place] = log_probs[
                part.trunk.encoded.target_rows == place
            ]
        edited = vlm.head(part.trunk, positions=part.positions)
        assert torch.allclose(edited.float().log_softmax(-1), log_probs, atol=1e-4)
    assert len(together) == len(rows)


def say(monkeypatch, answer):
    """Makes the base's greedy answers a text that can be forced: a tiny random model's seldom is."""
    monkeypatch.setattr(PreparedCase, "speak", lambda _self, rows: dict.fromkeys(rows, answer))
    monkeypatch.setattr(PreparedCase, "read_base_top", lambda _self: None)


def test_out_of_scope_rows_are_forced_to_say_what_the_base_says(vlm, monkeypatch):
    say(monkeypatch, "golden retriever")
    one = TrainingCases(vlm, [case(0)], layer=1)[0]
    for row in one.rows("locality"):
        asked = one.asked[row]
        (part,) = one.frozen([row])
        expected, targets = full_logits(vlm, asked.probe.image, asked.probe.question, "golden retriever")
        assert part.targets.tolist() == targets.tolist()
        assert torch.allclose(part.base_log_probs(), expected.float().log_softmax(-1), atol=2e-4)


def test_out_of_scope_rows_with_the_new_answer_have_to_be_asked_for(monkeypatch):
    vlm = tiny("pocket")
    say(monkeypatch, "a cat")
    near = TrainingCases(vlm, [case(0)], layer=1)[0]
    row = near.rows("locality")[0]
    with pytest.raises(InputError, match="forced_new=True"):
        near.frozen([row], forced="new")
    with pytest.raises(InputError, match="'own' or 'new'"):
        near.frozen([row], forced="old")
    one = TrainingCases(vlm, [case(0)], layer=1, forced_new=True)[0]
    (part,) = one.frozen([row], forced="new")
    asked = one.asked[row]
    expected, targets = full_logits(vlm, asked.probe.image, asked.probe.question, one.request.answer)
    assert part.targets.tolist() == targets.tolist()
    assert torch.allclose(part.base_log_probs(), expected.log_softmax(-1), atol=2e-4)


def test_what_does_not_fit_into_memory_is_made_again_and_the_same(tmp_path):
    vlm = tiny("pocket")
    many = [case(number) for number in range(3)]
    roomy = TrainingCases(vlm, many, layer=1)
    size = roomy[0].nbytes
    tight = TrainingCases(vlm, many, layer=1, memory_gb=1.5 * size / 1e9, cache=TrunkCache(vlm, folder=tmp_path))
    for number in (0, 1, 2, 0, 1, 2):
        for mine, other in zip(tight[number].frozen([0]), roomy[number].frozen([0]), strict=True):
            assert torch.equal(mine.base, other.base)
    assert (roomy.made, tight.made) == (3, 6)
    assert tight._cache.report.hits == 3
    assert len(tight._kept) == 1


def test_a_draw_is_of_the_cells_that_are_named():
    one = TrainingCases(tiny("pocket"), [case(0)], layer=1)[0]
    drawn = {one.asked[one.draw(random.Random(i), "locality/text", "generality/image")].cell for i in range(20)}
    assert drawn == {"text", "image"}
    assert one.draw(random.Random(0), "locality/black") is None
    with pytest.raises(InputError, match="at least one edit"):
        TrainingCases(tiny("pocket"), [], layer=1)


def test_an_epoch_is_a_permutation_of_its_own():
    assert sorted(order(20, 0, 0)) == list(range(20))
    assert order(20, 3, 1) == order(20, 3, 1)
    assert len({tuple(order(20, epoch, seed)) for epoch in range(3) for seed in range(3)}) == 9


def test_losses_by_hand_and_the_direction_of_kl():
    p, q = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.1, 0.3, 0.6]])
    by_hand = sum(a * (a / b).log() for a, b in zip(p[0], q[0], strict=True))
    other_way = sum(b * (b / a).log() for a, b in zip(p[0], q[0], strict=True))
    assert float(kl_from_base(p.log(), q.log() + 3)) == pytest.approx(float(by_hand), rel=1e-5)
    assert abs(float(by_hand - other_way)) > 0.05
    both = kl_from_base(torch.cat([p, p]).log(), torch.cat([q, p]).log())
    assert float(both) == pytest.approx(float(by_hand) / 2, rel=1e-5)
    assert float(answer_loss(q.log(), torch.tensor([2]))) == pytest.approx(-float(q[0, 2].log()), rel=1e-5)
