"""Algorithm 1 on a model whose answer provably comes from one token, against a slow reference, and on every family."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from tests.vlm.models import FAMILIES, QUERY_TOKENS, QUESTIONS, Full, build, picture, tiny
from vledit.analysis.anatomised import anatomise, eager, logits_everywhere, logits_hiding, patch_grid
from vledit.analysis.attribution import attribute, contributions
from vledit.analysis.kl import moved
from vledit.analysis.masking import best, but_keys, hiding, others_like, spans, without
from vledit.analysis.ranks import spearman
from vledit.errors import InputError
from vledit.vlm import VLM
from vledit.vlm.hooks import transformed

from .constructed import LAYERS, LOOKING, WORDS, model

PICTURE = picture(0)
ASKED = QUESTIONS[1]  # "Which animal is this?"


def encoded(vlm: VLM, answer: str | None = None):
    return vlm.encode([PICTURE], [ASKED], None if answer is None else [answer])


def first_token(vlm: VLM, hidden: torch.Tensor | None = None) -> str:
    """The first token of what the constructed model answers."""
    prompt = encoded(vlm, WORDS[0])
    hidden = torch.zeros(vlm.n_layers, prompt.input_ids.shape[1], dtype=torch.bool) if hidden is None else hidden
    token = int(logits_hiding(vlm, prompt, hidden[None])[0, 0].argmax())
    return next((word for word in WORDS if vlm.answer_tokens(ASKED, word)[0] == token), "")


# --- the constructed model ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 2])
def test_the_constructed_model_answers_by_one_visual_token_alone(place: int):
    assert [first_token(model(place, code)) for code in (0, 1)] == list(WORDS)
    for noise in (1, 2, 3):  # all else about the picture changes: the answer stays
        assert [first_token(model(place, code, noise)) for code in (0, 1)] == list(WORDS)


@pytest.mark.parametrize("place", range(QUERY_TOKENS))
def test_attribution_finds_that_token(place: int):
    vlm = model(place, 1)
    found = attribute(anatomise(vlm, encoded(vlm)))
    token = int(encoded(vlm).visual_mask[0].nonzero()[place])
    assert found.image_share(LOOKING) == 1.0
    assert [one for one in found.totals() if one != found.start] == [token]
    assert [keys.layer for keys in found.layers] == [2, 1, 0]
    assert token in found.layers[1].tokens
    assert found.pulls[LOOKING] > 0.9
    assert len(found.taken) == len(found.visual)
    assert {keys.layer: len(keys.scores) for keys in found.layers} == {
        2: 0,
        1: 2,
        0: 0,
    }  # and nothing where nothing is added
    assert all(math.isnan(share) for layer, share in enumerate(found.shares()) if layer != LOOKING)


def test_of_an_answer_that_comes_from_the_text_the_picture_has_no_share():
    vlm = model(None, 1, word="animal")
    assert first_token(vlm) == WORDS[1]
    found = attribute(anatomise(vlm, encoded(vlm)))
    assert found.image_share(LOOKING) == 0.0
    assert found.pulls[LOOKING] < 1e-3
    (token,) = [one for one in found.totals() if one != found.start]
    assert vlm.tokenizer.decode(encoded(vlm).input_ids[0, token]) == " animal"


def test_deleting_that_token_changes_the_answer_and_deleting_any_other_does_not():
    vlm = model(1, 1)
    prompt = encoded(vlm, WORDS[0])
    found = attribute(anatomise(vlm, encoded(vlm)))
    (token,) = [one for one in found.totals() if one != found.start]
    for other in prompt.prompt_mask[0].nonzero().flatten().tolist():
        if other != found.start:
            answer = first_token(vlm, without([other], prompt, LAYERS))
            assert (answer == WORDS[1]) == (other != token)
    assert first_token(vlm, but_keys(found, prompt, LAYERS, 0)) == WORDS[1]  # the key tokens alone are enough


NOT_TRACED = {
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe", "lfm2_vl", "minicpm_v_4_6", "minicpm_v_4_7"), "has no attention"),
    "mllama": "by cross attention",
    "cohere2_vision": "side by side",
}
"""Families to which Algorithm 1 does not apply, and what they are told: layers without attention, a picture without tokens,
attention and MLP side by side."""


# --- against slow references ----------------------------------------------------------------------------------------


@pytest.fixture(params=[family for family in FAMILIES])
def vlm(request: pytest.FixtureRequest) -> VLM:
    return tiny(request.param)


def test_logits_everywhere_are_the_models_own(vlm: VLM):
    """Of every family, also of those that cannot be traced: the KL study asks for no more."""
    prompt = encoded(vlm)
    with torch.inference_mode():
        own = vlm.model(**prompt.model_inputs).logits[0] if vlm.anatomy.causal is vlm.model else None
    found = logits_everywhere(vlm, prompt)
    if own is not None:
        assert torch.allclose(found, own.float(), atol=2e-3, rtol=1e-3)
    last = vlm.head(vlm.trunk(prompt, vlm.n_layers - 1), positions=prompt.last_prompt_mask)
    assert torch.allclose(found[prompt.last_prompt_mask[0]], last, atol=2e-3, rtol=1e-3)


def test_parts_add_up_and_hiding_nothing_changes_nothing(vlm: VLM):
    answered = encoded(vlm, "tea")
    nothing = torch.zeros(1, vlm.n_layers, answered.input_ids.shape[1], dtype=torch.bool)
    if vlm.family.name in NOT_TRACED:
        for refused in (lambda: anatomise(vlm, encoded(vlm)), lambda: logits_hiding(vlm, answered, nothing)):
            with pytest.raises(InputError, match=f"{re.escape(vlm.family.title)}.*{NOT_TRACED[vlm.family.name]}"):
                refused()
        return
    parts = anatomise(vlm, encoded(vlm))
    assert torch.allclose(parts.entering + parts.attention + parts.mlp, parts.leaving, atol=1e-4, rtol=1e-4)
    assert torch.allclose(parts.weights.sum(-1), torch.ones(parts.weights.shape[:2]), atol=1e-4)
    plain = logits_hiding(vlm, answered, nothing)
    expected = vlm.head(vlm.trunk(answered, vlm.n_layers - 1), positions=answered.predict_mask)
    assert torch.allclose(plain[0], expected, atol=2e-3, rtol=1e-3)
    assert sum(attribute(parts, 0.0).keys(vlm.n_layers - 1)) >= 1


def test_attention_is_put_back(vlm: VLM):
    config = vlm.anatomy.decoder.config
    before = config._attn_implementation
    with eager(vlm):
        assert config._attn_implementation == "eager"
    assert config._attn_implementation == before


@pytest.mark.parametrize(("gamma", "top_k"), [(0.3, 1), (0.6, 2), (0.9, 3)])
def test_algorithm_1_against_a_slow_reference(gamma: float, top_k: int):
    vlm = build("minigpt4", 4)
    parts = anatomise(vlm, encoded(vlm))
    found = attribute(parts, gamma, top_k)
    top = (
        contributions(parts)["attention"][3, found.start] * parts.weights[3, found.start]
    )  # a third of four layers: one
    assert found.taken == pytest.approx(top.tolist(), abs=1e-6)
    assert found.pulls[3] == pytest.approx(float(top[parts.visual].sum()), abs=1e-6)
    queue = [found.start]
    for layer in (3, 2, 1, 0):
        scores, place = {}, 0
        while place < len(queue):
            t = queue[place]
            place += 1
            h, a, m, before = (
                x[layer, t].double().numpy() for x in (parts.leaving, parts.attention, parts.mlp, parts.entering)
            )
            far = [np.linalg.norm(h - x) for x in (a, m, before)]
            score = far[0] / sum(far) + h @ a / (np.linalg.norm(h) * np.linalg.norm(a))
            if score > gamma:
                scores[t] = score
                row = parts.weights[layer, t].clone()
                row[t] = 0
                for other in sorted(range(len(row)), key=lambda j: -float(row[j]))[:top_k]:
                    if row[other] > 0 and other not in queue:
                        queue.append(other)
        keys = found.layers[3 - layer]
        assert list(keys.tokens) == queue
        assert keys.scores == pytest.approx(scores, abs=1e-4)
        counted = {t: s for t, s in scores.items() if t != found.start}
        if counted:
            image = sum(s for t, s in counted.items() if parts.visual[t])
            assert found.image_share(layer) == pytest.approx(image / sum(counted.values()), abs=1e-4)
            if image < sum(counted.values()) - 1e-9:
                assert found.image_to_text(layer) == pytest.approx(image / (sum(counted.values()) - image), rel=1e-3)


def test_three_contributions_with_nothing_added():
    vlm = model(0)
    found = contributions(anatomise(vlm, encoded(vlm)))
    assert torch.allclose(found["residual"][0], torch.ones_like(found["residual"][0]))
    assert torch.allclose(found["attention"][0], torch.full_like(found["attention"][0], 0.5))


# --- masking, KL, ranks ---------------------------------------------------------------------------------------------


def test_random_sets_are_as_large_on_either_side():
    vlm = build("pocket", 3)
    prompt = encoded(vlm, "tea")
    found = attribute(anatomise(vlm, encoded(vlm)), 0.2, 2)
    draw = torch.Generator().manual_seed(0)
    visual, in_prompt = prompt.visual_mask[0], prompt.prompt_mask[0]
    keys, random = but_keys(found, prompt, 3, 1), but_keys(found, prompt, 3, 1, draw)
    assert not keys[0].any()
    for layer in (1, 2):
        for side in (visual, in_prompt & ~visual):
            assert int((keys[layer] & side).sum()) == int((random[layer] & side).sum())
        assert not keys[layer][~in_prompt].any()
        assert not random[layer][found.start]
    chosen = best(found, prompt, 3)
    others = others_like(chosen, prompt, found.start, draw)
    assert not {*others} & {*chosen, found.start}
    assert sum(bool(visual[t]) for t in others) == sum(bool(visual[t]) for t in chosen)
    assert spans(30) == [26, 22, 19, 15, 11, 8, 4, 0]
    assert spans(3)[-1] == 0


def test_hiding_nothing_is_what_verify_says_and_ways_do_not_touch_each_other():
    vlm = build("pocket", 3)
    prompt = encoded(vlm, "tea")
    nothing = torch.zeros(3, prompt.input_ids.shape[1], dtype=torch.bool)
    everything = nothing | prompt.prompt_mask[0]
    together = hiding(vlm, prompt, [nothing, everything, nothing])
    verified = vlm.verify(prompt)
    assert together[0].log_probability == pytest.approx(float(verified.log_probability), abs=1e-3)
    assert together[0] == together[2]
    assert together[1].log_probability == pytest.approx(hiding(vlm, prompt, [everything])[0].log_probability, abs=1e-4)
    assert together[1] != together[0]


def test_kl_of_nothing_is_nothing_and_of_a_change_as_computed_by_hand():
    vlm = build("pocket", 3)
    prompt = encoded(vlm)
    before = logits_everywhere(vlm, prompt)
    assert moved(before, before, prompt).text == 0.0
    assert math.isnan(moved(before, before, prompt).ratio)
    with transformed(vlm, vlm.default_site, Full(vlm, str(vlm.default_site), scale=0.5)):
        after = logits_everywhere(vlm, prompt)
    p, q = before.double().softmax(-1).numpy(), after.double().softmax(-1).numpy()
    by_hand = (p * (np.log(p) - np.log(q))).sum(-1)
    visual = prompt.visual_mask[0].numpy()
    text = prompt.prompt_mask[0].numpy() & ~visual
    found = moved(before, after, prompt)
    assert found.image == pytest.approx(by_hand[visual].mean(), rel=1e-3)
    assert found.text == pytest.approx(by_hand[text].mean(), rel=1e-3)
    assert found.ratio == pytest.approx(found.image / found.text)
    without_picture = vlm.encode([None], [ASKED])
    again = logits_everywhere(vlm, without_picture)
    assert math.isnan(moved(again, again, without_picture).image)


def test_rank_correlation():
    up = {str(n): float(n) for n in range(12)}
    assert spearman(up, {k: v**3 for k, v in up.items()}).mean == pytest.approx(1.0)
    assert spearman(up, {k: -v for k, v in up.items()}).mean == pytest.approx(-1.0)
    ties = {"a": 1.0, "b": 1.0, "c": 2.0, "d": 3.0}
    other = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 3.0}
    assert spearman(ties, other).mean == pytest.approx(np.corrcoef([1.5, 1.5, 3, 4], [1, 2, 3.5, 3.5])[0, 1])
    assert math.isnan(spearman(up, dict.fromkeys(up, 1.0)).mean)
    assert spearman(up, {"0": 1.0}).n == 1


def test_patches_are_told_where_they_can_be():
    assert patch_grid(encoded(tiny("llava"))) is not None
    assert patch_grid(encoded(tiny("qwen2_5_vl"))) is not None
    assert patch_grid(tiny("pocket").encode([None], [ASKED])) is None


def test_several_prompts_at_once_are_refused():
    vlm = tiny("pocket")
    with pytest.raises(InputError, match="one prompt at a time"):
        anatomise(vlm, vlm.encode([PICTURE, PICTURE], [ASKED, ASKED]))
