"""Sites inside a mixture: the expert that all tokens share, and named experts; against models that really are changed so."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from vledit import EditRequest
from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError
from vledit.vlm import VLM, transformed

from .models import ANSWERS, QUESTIONS, build, picture, tiny
from .test_today_families import IMAGES, whole

REQUEST = EditRequest(picture(1), QUESTIONS[0], "two cups", ("What is shown in this picture?",))
SETTINGS = {"steps": 200, "learning_rate": 0.05, "margin": 1.0}
SHARED = ("qwen3_5_moe", "glm4v_moe", "llama4")
MIXTURES = ("qwen3_vl_moe", *SHARED)


class Wide:
    def __init__(self, width: int):
        self.weight = 0.3 * torch.randn(width, width, generator=torch.Generator().manual_seed(3))

    def delta(self, x):
        return x @ self.weight.T


class OneByOne(nn.Module):
    """The experts, with one of them changed, token after token."""

    def __init__(self, experts: nn.Module, number: int, change: Wide):
        super().__init__()
        self.experts, self.number, self.change = experts, number, change

    def forward(self, x, chosen=None, share=None):
        if (
            chosen is None
        ):  # Llama 4: what each expert is to see, expert after expert; nothing where it is to see nothing
            out = self.experts(x)
            rows = len(x) // self.experts.num_experts
            for row in range(self.number * rows, (self.number + 1) * rows):
                out[row] += self.change.delta(x[row])
            return out
        out = self.experts(x, chosen, share)
        for token in range(len(x)):
            for place in range(chosen.shape[1]):
                if int(chosen[token, place]) == self.number:
                    out[token] += share[token, place] * self.change.delta(x[token])
        return out


def routed(vlm: VLM) -> list[int]:
    """The experts of the last layer that the answer's tokens are sent to."""
    trunk = vlm.trunk(vlm.encode([REQUEST.image], [REQUEST.question], [REQUEST.answer]), vlm.n_layers - 1)
    found = []
    for number in range(4):
        try:
            vlm.site_tail(trunk, f"-1.mlp.expert.{number}")
        except InputError:
            continue
        found.append(number)
    return found


@pytest.mark.parametrize("name", MIXTURES)
def test_a_named_expert_is_changed_alone(name):
    vlm = tiny(name)
    number = routed(vlm)[0]
    site = vlm.resolve_site(f"-1.mlp.expert.{number}")
    assert vlm.site_shape(site) == (32, 32)
    change = Wide(32)
    encoded = vlm.encode(IMAGES, QUESTIONS, ANSWERS)
    base = whole(vlm, encoded)
    copy = VLM(deepcopy(vlm.model), vlm.processor, vlm.family)
    block = copy.site_module("-1.mlp")
    block.experts = OneByOne(block.experts, number, change)
    expected = whole(copy, encoded)
    with transformed(vlm, site, [change] * 3):
        found = whole(vlm, encoded)
    seen = encoded.attention_mask.bool()
    torch.testing.assert_close(found[seen], expected[seen], rtol=0, atol=1e-4)
    assert not torch.equal(found, base)
    with transformed(vlm, site, [None, change, None]):
        found = whole(vlm, encoded)
    assert torch.equal(found[[0, 2]], base[[0, 2]])
    trunk = vlm.trunk(encoded, vlm.n_layers - 1)
    torch.testing.assert_close(vlm.head(trunk, site, change)[seen], expected[seen], rtol=0, atol=1e-4)
    torch.testing.assert_close(
        vlm.site_tail(trunk, site).logits(change), expected[encoded.predict_mask], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("name", ["qwen3_5_moe", "llama4"])
def test_a_fine_tune_of_a_named_expert(name, tmp_path):
    """The router sends every token to the same experts: in a tiny random model each token would go elsewhere."""
    vlm = build(name)
    block = vlm.site_module("-1.mlp")
    router = block.router if hasattr(block, "router") else block.gate
    with torch.no_grad():
        router.weight[:] = router.weight[0].clone()
    model = EditedModel(vlm)
    said = model.answer(REQUEST.image, REQUEST.question, 8).text
    before = whole(vlm, vlm.encode(IMAGES, QUESTIONS))
    edit = model.edit(REQUEST, "ft", site=f"-1.mlp.expert.{routed(vlm)[0]}", **SETTINGS)
    assert model.answer(REQUEST.image, REQUEST.question).text == "two cups" != said
    with pytest.raises(InputError, match="all experts are one tensor"):
        model.merge()
    model.save_pretrained(tmp_path)
    again = EditedModel.from_pretrained(vlm, tmp_path)
    assert again.answer(REQUEST.image, REQUEST.question).text == "two cups"
    model.remove(edit.id)
    assert model.answer(REQUEST.image, REQUEST.question, 8).text == said
    assert torch.equal(whole(vlm, vlm.encode(IMAGES, QUESTIONS)), before)


@pytest.mark.parametrize("name", SHARED)
def test_a_fine_tune_of_the_shared_expert_becomes_weights(name):
    vlm = tiny(name)
    model = EditedModel(vlm)
    said = model.answer(REQUEST.image, REQUEST.question, 8).text
    edit = model.edit(REQUEST, "ft", site="-1.mlp.shared.out", **SETTINGS)
    assert model.answer(REQUEST.image, REQUEST.question).text == "two cups" != said
    merged = VLM(model.merge(), vlm.processor, vlm.family)
    assert merged.answer([REQUEST.image], [REQUEST.question]) == ["two cups"]
    model.remove(edit.id)
    assert model.answer(REQUEST.image, REQUEST.question, 8).text == said


def test_what_makes_no_sense_is_refused_with_a_reason():
    mixture = EditedModel(tiny("llama4"))
    with pytest.raises(InputError, match=r"only where the router sends the token.*whole block, '-1.mlp'.*ft, mend"):
        mixture.edit(REQUEST, site="-1.mlp.expert.0")
    idle = next(number for number in range(4) if number not in routed(mixture.vlm))
    with pytest.raises(
        InputError, match=r"none of the tokens that predict the answer is sent to this expert.*Name one"
    ):
        mixture.edit(REQUEST, "ft", site=f"-1.mlp.expert.{idle}")
    with pytest.raises(InputError, match=r"no expert 7; its experts are 0 … 3"):
        mixture.edit(REQUEST, "ft", site="-1.mlp.expert.7")
    with pytest.raises(InputError, match=r"no expert that all tokens pass"):
        EditedModel(tiny("qwen3_vl_moe")).edit(REQUEST, "ft", site="-1.mlp.shared.out")
    with pytest.raises(InputError, match=r"has no experts"):
        EditedModel(tiny("llava")).edit(REQUEST, "ft", site="-1.mlp.expert.0")
