"""`SiteTail` against the whole model with its weights really changed."""

from __future__ import annotations

import pytest
import torch

from vledit.errors import InputError
from vledit.vlm import SiteTail

from .models import ANSWERS, QUESTIONS, Full, build
from .test_base import MIXED, close, whole, with_weights

SITES = [f"{layer}.mlp.{role}" for layer in (0, 1, -1) for role in ("in", "up", "out")]


@pytest.mark.parametrize("site", SITES)
def test_logits_are_those_of_the_changed_model(vlm, site):
    encoded = vlm.encode(MIXED, QUESTIONS, ANSWERS)
    tail = vlm.site_tail(vlm.trunk(encoded, 0), site)
    change = Full(vlm, site)
    expected = whole(with_weights(vlm, site, change), encoded)[encoded.predict_mask]
    assert not tail.replays_layer
    close(tail.logits(change), expected)
    close(tail.logits(change.delta(tail.inputs)), expected)
    close(tail.logits(), whole(vlm, encoded)[encoded.predict_mask])
    assert torch.equal(tail.targets, encoded.targets)


@pytest.mark.parametrize("site", SITES)
def test_gradients_are_those_of_the_changed_model(vlm, site):
    encoded = vlm.encode(MIXED, QUESTIONS, ANSWERS)
    change = Full(vlm, site)
    change.weight.requires_grad_()
    tail = vlm.site_tail(vlm.trunk(encoded, 0), site)
    torch.nn.functional.cross_entropy(tail.logits(change), tail.targets).backward()

    edited = with_weights(vlm, site, Full(vlm, site))
    linear = edited.site_module(site)
    linear.weight.requires_grad_()
    run = edited.model(**encoded.model_inputs).logits[encoded.predict_mask]
    torch.nn.functional.cross_entropy(run, encoded.targets).backward()
    torch.testing.assert_close(change.weight.grad, linear.weight.grad, rtol=1e-4, atol=1e-5)
    assert vlm.site_module(site).weight.grad is None


@pytest.mark.parametrize("site", ["1.mlp.up", "-1.mlp.out"])
def test_unknown_layer_forms_are_replayed(site):
    vlm = build("blip2", do_layer_norm_before=False)  # the norm after the MLP is not in our reading of a layer
    encoded = vlm.encode(MIXED, QUESTIONS, ANSWERS)
    tail = vlm.site_tail(vlm.trunk(encoded, 0), site)
    change = Full(vlm, site)
    assert tail.replays_layer
    close(tail.logits(change), whole(with_weights(vlm, site, change), encoded)[encoded.predict_mask])
    close(tail.logits(), whole(vlm, encoded)[encoded.predict_mask])


@pytest.mark.parametrize("site", ["0.mlp.out", "-1.mlp.up"])
def test_part_of_the_vocabulary(vlm, site):
    tail = vlm.site_tail(vlm.trunk(vlm.encode(MIXED, QUESTIONS, ANSWERS), 0), site)
    change = Full(vlm, site)
    some, other = torch.tensor([5, 0, 17, 300]), torch.tensor([1, 2])
    full = tail.logits(change)
    torch.testing.assert_close(tail.logits(change, some), full[:, some])
    torch.testing.assert_close(tail.logits(change, other), full[:, other])
    torch.testing.assert_close(tail.logits(change, some), full[:, some])


def test_needed_positions(vlm):
    encoded = vlm.encode(MIXED, QUESTIONS, ANSWERS)
    trunk = vlm.trunk(encoded, 0)
    last, lower = SiteTail(vlm, trunk, "-1.mlp.up"), SiteTail(vlm, trunk, "0.mlp.up")
    assert last.inputs.shape[0] == len(encoded.targets)
    assert last.predicts.all()
    assert lower.inputs.shape[0] == int(encoded.attention_mask.sum()) - len(encoded), "all but the end tokens"
    assert int(lower.predicts.sum()) == len(encoded.targets)
    assert torch.equal(lower.rows[lower.predicts], encoded.target_rows)
    everything = vlm.site_input(trunk, "0.mlp.up")
    assert torch.equal(lower.inputs, everything[lower.positions])
    torch.testing.assert_close(lower.outputs(), vlm.site_module("0.mlp.up")(lower.inputs), rtol=1e-5, atol=1e-6)


def test_wrong_shapes_are_named(vlm):
    tail = vlm.site_tail(vlm.trunk(vlm.encode(MIXED, QUESTIONS, ANSWERS), 0), "-1.mlp.out")
    with pytest.raises(InputError, match="deltas of shape"):
        tail.logits(torch.zeros(1, 3))
    with pytest.raises(InputError, match="without answers"):
        vlm.site_tail(vlm.trunk(vlm.encode(MIXED, QUESTIONS), 0), "-1.mlp.out")


def test_other_threads_hooks_do_not_reach_the_tail(vlm):
    """The model stays locked while somebody else's transformation is in force."""
    import threading

    from vledit.vlm import transformed

    tail = vlm.site_tail(vlm.trunk(vlm.encode(MIXED, QUESTIONS, ANSWERS), 0), "0.mlp.out")
    expected, found = tail.logits(), []
    with transformed(vlm, vlm.resolve_site("1.mlp.out"), Full(vlm, "1.mlp.out")):
        thread = threading.Thread(target=lambda: found.append(tail.logits()))
        thread.start()
        thread.join(0.2)
        assert not found
    thread.join()
    assert torch.equal(found[0], expected)
