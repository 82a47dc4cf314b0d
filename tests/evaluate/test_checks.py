"""Mistakes that evaluation code has made elsewhere, planted here on purpose: each has to be caught, by the library itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.vlm.models import Full, build, picture, tiny
from vledit.data.case import Probe
from vledit.errors import CheckFailedError
from vledit.evaluate import case_trunks
from vledit.evaluate.asking import prepare
from vledit.evaluate.checks import BaseChangedError, BaseGuard, LeakError, check_prompt_mask
from vledit.evaluate.protocols import single
from vledit.evaluate.runner import Plan, run
from vledit.vlm import forest as forest_module
from vledit.vlm.base import transformed
from vledit.vlm.forest import Forest

from .small import BALANCED, VARIANTS, case, content


@pytest.fixture
def own():
    """A model that a test may change."""
    return build("pocket")


# --- the base scored after the edit -----------------------------------------------------------------------------------


def test_the_base_asked_while_an_edit_acts_is_caught(vlm):
    guard = BaseGuard(vlm)
    with (
        transformed(vlm, vlm.default_site, Full(vlm, str(vlm.default_site))),
        pytest.raises(BaseChangedError, match="hook"),
    ):
        prepare(vlm, case(), guard=guard)
    prepare(vlm, case(), guard=guard)


def test_the_base_asked_while_an_edit_acts_is_caught_without_a_guard_made_before(vlm):
    change = Full(vlm, str(vlm.default_site))
    with transformed(vlm, vlm.default_site, change), pytest.raises(BaseChangedError, match="before anything acts"):
        prepare(vlm, case())


def test_hooks_with_which_transformers_records_outputs_are_no_edit():
    """It puts them on some models (here InternVL's vision side) when they run first."""
    fresh = build("internvl")
    BaseGuard(fresh).check()
    BaseGuard(fresh).check()


@pytest.mark.parametrize("behind_its_back", [False, True])
def test_the_base_asked_after_an_edit_of_its_weights_is_caught(own, behind_its_back):
    """EasyEdit 643, 659: the edit is written into the model's weights, and "before" is asked of what is edited already."""
    guard = BaseGuard(own)
    weight = own.site_module(own.default_site).weight
    with torch.no_grad():
        (weight.data if behind_its_back else weight).add_(0.05)
    with pytest.raises(BaseChangedError):
        prepare(own, case(), guard=guard)


def test_an_edit_that_is_not_undone_is_caught_before_the_next_one(own):
    guard = BaseGuard(own, "")
    ready = prepare(own, case(), guard=guard)
    assert single(own, ready, BALANCED, guard).failure is None
    with torch.no_grad():
        own.site_module(own.default_site).weight.add_(0.05)
    with pytest.raises(BaseChangedError, match="written to"):
        single(own, ready, BALANCED, guard)


def test_weights_written_to_and_put_back_are_the_base(own):
    guard = BaseGuard(own)
    assert guard.weights
    weight = own.site_module(own.default_site).weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1.0)
        weight.copy_(before)
    guard.check()
    guard.check_weights()


def test_a_bit_anywhere_is_seen_at_the_end(own):
    guard = BaseGuard(own)
    assert guard.weights
    unused = own.model.get_input_embeddings().weight.data
    unused[5, 0] += 1  # behind PyTorch's back, in a row that the stored probe does not read
    with pytest.raises(BaseChangedError):
        guard.check_weights()


def test_a_run_whose_editor_writes_to_the_base_stops(own, tmp_path, monkeypatch):
    from vledit.editors.ft import FineTune

    edit = FineTune.edit

    def careless(self, vlm, request, *args, **kwargs):
        made = edit(self, vlm, request, *args, **kwargs)
        with torch.no_grad():
            vlm.site_module(vlm.default_site).weight.add_(0.01)
        return made

    monkeypatch.setattr(FineTune, "edit", careless)
    with pytest.raises(BaseChangedError):
        run(own, [case(i) for i in range(3)], VARIANTS, tmp_path / "r.jsonl")
    assert len(content(tmp_path / "r.jsonl")["records"]) == 2  # those of the first case, whose base was the base


# --- the answer inside the routed prompt ------------------------------------------------------------------------------


def test_keys_that_see_the_answer_are_caught(any_vlm, monkeypatch):
    """The released code's key: mean over prompt and answer, on which the radius is then calibrated."""
    real = case_trunks.pool
    monkeypatch.setattr(case_trunks, "pool", lambda x, encoded, tokens: real(x, encoded, "prompt+answer"))
    ready = prepare(any_vlm, case())
    with pytest.raises(CheckFailedError, match="without the answer"):
        single(any_vlm, ready, BALANCED)


@pytest.mark.parametrize("shared_rows", [True, False])
def test_a_prompt_mask_that_holds_the_answer_is_caught(any_vlm, monkeypatch, shared_rows):
    """In trunks that are cut out of a forest, and in those of models whose prompts are run one by one."""

    def marking(real):
        def marked(*given):
            encoded = real(*given)
            return replace(encoded, prompt_mask=encoded.prompt_mask | encoded.answer_mask)

        return marked

    if shared_rows:
        monkeypatch.setattr(Forest, "encoded", marking(Forest.encoded))
    else:
        monkeypatch.setattr(forest_module, "MASKED", ())
        monkeypatch.setattr(any_vlm, "encode", marking(any_vlm.encode))
    with pytest.raises(CheckFailedError, match="does not end where that prompt ends"):
        prepare(any_vlm, case())


@pytest.mark.parametrize("image", [True, False])
def test_a_good_prompt_mask_passes(any_vlm, image):
    encoded = any_vlm.encode([picture(0) if image else None], ["What is it?"], ["two cups"])
    check_prompt_mask(any_vlm, encoded, ["What is it?"], [image])


def test_a_question_that_ends_with_its_answer_is_refused(vlm):
    """EasyEdit 404, 604: `text_input = prompt + target` put to a router as if it were the request."""
    one = case()
    leaking = replace(one, generality={"text": (Probe(one.request.image, "What can be seen? two cups"),)})
    with pytest.raises(LeakError, match="ends with the answer 'two cups'"):
        prepare(vlm, leaking)
    choice = replace(one, generality={"text": (Probe(one.request.image, "Is it a fox, or two cups?"),)})
    prepare(vlm, choice)


def test_trunks_of_another_model_are_caught(tmp_path):
    """A cache that gave the wrong activations would be seen: keys are read anew for one probe of every case."""
    from vledit.evaluate.trunk_cache import TrunkCache

    vlm = tiny("pocket")
    cache = TrunkCache(vlm, 1.0, tmp_path)
    ready = prepare(vlm, case(), cache=cache)
    for kind in (ready.targets, ready.sames):
        for trunk, _, _ in kind.batches(kind.rows()):
            trunk.hidden.mul_(1.5)
    cache.path(ready).unlink()
    assert cache.save(ready)
    with pytest.raises(CheckFailedError):
        single(vlm, prepare(vlm, case(), cache=cache), BALANCED)


def test_a_run_without_mistakes_passes_all_checks(any_vlm, tmp_path):
    end = run(any_vlm, [case(i) for i in range(2)], VARIANTS, tmp_path / "r.jsonl", Plan())
    assert (end["failed"], end["records"]) == (0, 4)
