"""The site "mlp": the whole MLP block of a layer, against models whose block really computes something else."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, Phi3Config, Qwen3MoeConfig

from vledit import EditRequest
from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError
from vledit.vlm import VLM, Site, registry, transformed

from .models import ANSWERS, QUESTIONS, _lively, build, parts, picture
from .test_base import MIXED, close, whole

FORMS = ("mixture", "fused")


class Linear:
    """A change of a site by a weight and a bias of the site's width."""

    def __init__(self, vlm: VLM, site: str):
        out, into = vlm.site_shape(site)
        draw = torch.Generator().manual_seed(3)
        self.weight = 0.1 * torch.randn(out, into, generator=draw)
        self.bias = 0.1 * torch.randn(out, generator=draw)

    def delta(self, x):
        return nn.functional.linear(x, self.weight, self.bias)


class Beside(nn.Module):
    """A block, and a change of what leaves it by what enters it; what else it gives is handed on."""

    def __init__(self, block: nn.Module, change: Linear):
        super().__init__()
        self.block, self.change = block, change

    def forward(self, x, *args, **kwargs):
        found = self.block(x, *args, **kwargs)
        if isinstance(found, tuple):
            return found[0] + self.change.delta(x), *found[1:]
        return found + self.change.delta(x)


class Talkative(nn.Module):
    """A block that is called by keyword and says more than what leaves it, as some mixtures do."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, hidden_states):
        return self.block(hidden_states), torch.zeros(3)


def other_form(form: str) -> VLM:
    """A tiny LLaVA whose language model is a mixture of experts, or has gate and up in one linear."""
    model, processor = parts("llava")
    text = model.config.text_config
    ids = {name: getattr(text, name) for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    heads = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    shared = {"hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 256, **heads, **ids}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8}
    language = Qwen3MoeConfig(**shared, **experts) if form == "mixture" else Phi3Config(**shared)
    settings = model.config.to_dict() | {"text_config": language.to_dict()}
    torch.manual_seed(7)
    made = _lively(LlavaForConditionalGeneration(LlavaConfig(**settings)))
    return VLM(made, processor, registry.family("llava"), name=f"tiny-{form}")


@pytest.fixture(scope="module", params=FORMS)
def form(request):
    return other_form(request.param)


def rebuilt(vlm: VLM, layer: int, change: Linear) -> VLM:
    """A copy whose layer really has another block."""
    copy = VLM(deepcopy(vlm.model), vlm.processor, vlm.family)
    owner = copy.layers[layer]
    if hasattr(owner, "mlp"):
        owner.mlp = Beside(owner.mlp, change)
        return copy
    seen: list[torch.Tensor] = []  # OPT: two linears of the layer's own
    owner.fc1.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    owner.fc2.register_forward_hook(lambda _m, _a, y: y + change.delta(seen.pop()))
    return copy


def check_block(vlm: VLM, layer: int) -> None:
    site = f"{layer}.mlp"
    change = Linear(vlm, site)
    encoded = vlm.encode(MIXED, QUESTIONS, ANSWERS)
    expected = whole(rebuilt(vlm, layer, change), encoded)
    trunk = vlm.trunk(encoded, layer)
    close(vlm.head(trunk, site, change), expected)
    tail = vlm.site_tail(trunk, site)
    close(tail.logits(change), expected[encoded.predict_mask])
    close(tail.logits(), whole(vlm, encoded)[encoded.predict_mask])
    assert tail.shape == vlm.site_shape(site) == (32, 32)
    assert torch.equal(tail.inputs, vlm.site_input(trunk, site)[tail.positions])
    with transformed(vlm, vlm.resolve_site(site), [None, change, None]):
        found = whole(vlm, encoded)
    base = whole(vlm, encoded)
    assert torch.equal(found[[0, 2]], base[[0, 2]])
    assert not torch.equal(found[1], base[1])


@pytest.mark.parametrize("layer", [0, -1])
def test_the_block_of_every_family_can_be_changed(vlm, layer):
    check_block(vlm, layer)


@pytest.mark.parametrize("layer", [0, -1])
def test_the_block_of_mixtures_and_fused_linears_can_be_changed(form, layer):
    check_block(form, layer)


def test_a_block_may_be_called_by_keyword_and_give_more_than_one_thing():
    vlm = build("llava")
    layer = vlm.layers[1]
    layer.mlp = Talkative(layer.mlp)

    def forward(hidden, **kwargs):  # a decoder layer that knows of it
        attended = hidden + layer.self_attn(hidden_states=layer.input_layernorm(hidden), **kwargs)[0]
        return attended + layer.mlp(hidden_states=layer.post_attention_layernorm(attended))[0]

    layer.forward = forward
    change = Linear(vlm, "1.mlp")
    encoded = vlm.encode(MIXED, QUESTIONS, ANSWERS)
    expected = whole(rebuilt(build("llava"), 1, change), encoded)
    close(vlm.head(vlm.trunk(encoded, 1), "1.mlp", change), expected)
    close(vlm.site_tail(vlm.trunk(encoded, 1), "1.mlp").logits(change), expected[encoded.predict_mask])


@pytest.mark.parametrize("role", ["mlp.in", "mlp.up"])
def test_gate_and_up_of_a_fused_linear_are_its_halves(role):
    """Changing a half is changing its rows of the weight."""
    vlm = other_form("fused")
    site = f"1.{role}"
    change = Linear(vlm, site)
    assert vlm.site_shape(site) == (48, 32)
    encoded = vlm.encode(MIXED, QUESTIONS, ANSWERS)
    copy = VLM(deepcopy(vlm.model), vlm.processor, vlm.family)
    fused = copy.layers[1].mlp.gate_up_proj
    rows = slice(0, 48) if role == "mlp.in" else slice(48, 96)
    fused.bias = nn.Parameter(torch.zeros(96), requires_grad=False)
    with torch.no_grad():
        fused.weight[rows] += change.weight
        fused.bias[rows] += change.bias
    expected = whole(copy, encoded)
    close(vlm.head(vlm.trunk(encoded, 1), site, change), expected)
    close(vlm.site_tail(vlm.trunk(encoded, 1), site).logits(change), expected[encoded.predict_mask])


def test_a_mixture_is_edited_at_its_block_by_default():
    vlm = other_form("mixture")
    assert vlm.default_site == Site(2, "mlp")
    assert build("llava").default_site == Site(2, "mlp.out")
    with pytest.raises(InputError, match=r"no linear for 'mlp.out'.*Sites of this layer: mlp, layer\."):
        vlm.site_place("-1.mlp.out")
    with pytest.raises(InputError, match="whole MLP block"):
        vlm.site_weight(vlm.default_site)
    model = EditedModel(vlm)
    before = model.answer(picture(0), QUESTIONS[0], 8).text
    request = EditRequest(picture(0), QUESTIONS[0], "two cups", rephrases=("What can be seen?",))
    made = model.edit(request, rephrase="supplied", steps=200, learning_rate=0.05)
    assert model.answer(picture(0), QUESTIONS[0]).text == "two cups" != before
    model.remove(made.id)
    assert model.answer(picture(0), QUESTIONS[0], 8).text == before
