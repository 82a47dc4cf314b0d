"""The estimate against what is measured on models that are loaded."""

from __future__ import annotations

import time

import pytest
import torch
from transformers import CONFIG_MAPPING, Blip2Config, OPTConfig

from tests.vlm.models import QUESTIONS, picture
from vledit import EditRequest, estimate, loading, quantization
from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError, UnknownNameError
from vledit.vlm import Site, registry
from vledit.vlm.published import DERIVED, Published

from .conftest import FAMILIES


def weights_of(vlm) -> int:
    return sum(p.numel() * p.element_size() for p in vlm.model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
class TestAgainstAModel:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_weights_to_the_byte(self, saved, family, dtype):
        folder, _ = saved(family)
        found = estimate.estimate(*estimate.sizes_of(str(folder)), dtype=dtype)
        assert found.weights == weights_of(loading.load_vlm(folder, dtype=dtype))

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_trunk_and_cache_to_the_byte(self, saved, family, dtype):
        folder, _ = saved(family)
        vlm = loading.load_vlm(folder, dtype=dtype)
        encoded = vlm.encode([picture(0)], QUESTIONS[:1], ["a cat"])
        visual, answer = int(encoded.visual_mask.sum()), int(encoded.answer_mask.sum())
        words = encoded.input_ids.shape[1] - visual - answer
        sizes, known = estimate.sizes_of(str(folder))
        assert sizes.visual_tokens == visual
        found = estimate.estimate(sizes, known, dtype=dtype, question_tokens=words, answer_tokens=answer)
        assert found.trunk_per_probe == vlm.trunk(encoded, -1).hidden.nbytes
        with torch.inference_mode():
            cache = vlm.anatomy.decoder(**vlm.language_inputs(encoded), use_cache=True).past_key_values
        assert found.answering == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)

    @pytest.mark.parametrize("kind", ["full", "span"])
    def test_an_edit_to_the_byte(self, saved, family, kind):
        folder, vlm = saved(family)
        request = EditRequest(picture(0), QUESTIONS[0], "a cat", rephrases=("What can be seen?",))
        settings = {"rephrase": "supplied", "steps": 200, "learning_rate": {"full": 0.05, "span": 1.0}[kind]}
        entry = EditedModel(vlm).edit(request, transformation=kind, **settings).entry
        assert entry is not None
        tokens = len(vlm.answer_tokens(QUESTIONS[0], "a cat"))
        found = estimate.estimate(*estimate.sizes_of(str(folder)), answer_tokens=tokens)
        assert entry.transformation.nbytes == (found.full_per_edit if kind == "full" else found.span_per_edit)
        assert entry.key.nbytes == found.key_per_edit
        assert 300 < len(entry.thumbnail or b"") < 6000

    def test_sizes_are_those_of_the_model(self, saved, family):
        folder, vlm = saved(family)
        sizes, _ = estimate.sizes_of(str(folder))
        assert sizes.layers == vlm.n_layers
        assert sizes.tied == (vlm.model.get_input_embeddings().weight is vlm.anatomy.lm_head.weight)
        for role in ("mlp.in", "mlp.up", "mlp.out"):
            module = vlm.site_module(Site(0, role))
            assert estimate.site_shape(sizes, Site(0, role)) == (module.out_features, module.in_features)


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_packed_weights_within_a_twentieth(tmp_path, kind):
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'vledit[quantization]'")
    from tests.vlm.models import build

    vlm = build("minigpt4", hidden_size=256, intermediate_size=512)
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    found = estimate.estimate(*estimate.sizes_of(str(tmp_path)), dtype="bfloat16", quantization=kind)
    loaded = loading.load_vlm(tmp_path, dtype="bf16", quantization=kind)
    assert abs(found.weights / packed_bytes(loaded) - 1) < 0.05
    plain = estimate.estimate(*estimate.sizes_of(str(tmp_path)), dtype="bfloat16")
    assert found.weights < plain.weights


def packed_bytes(vlm) -> int:
    """Weights with the scales that bitsandbytes keeps beside them."""
    total = weights_of(vlm)
    for parameter in vlm.model.parameters():
        state, scales = getattr(parameter, "quant_state", None), getattr(parameter, "SCB", None)
        total += state.absmax.nbytes if state is not None else 0
        total += scales.nbytes if scales is not None else 0
    return total


@pytest.mark.pocket
def test_pocket():
    found = estimate.estimate(*estimate.sizes_of("pocket"), edits=3)
    vlm = loading.load_vlm("pocket")
    assert found.weights == weights_of(vlm)
    encoded = vlm.encode([picture(0)], ["What is this?"], ["a cat"])
    assert int(encoded.visual_mask.sum()) == estimate.sizes_of("pocket")[0].visual_tokens
    site = vlm.site_module(vlm.default_site)
    assert found.full_per_edit == site.weight.numel() * 4
    assert found.total_full - found.weights == 3 * (found.full_per_edit + site.in_features * 4 + 3000)


def test_a_published_size_without_its_weights():
    """BLIP-2 OPT-2.7B: 3.74 billion parameters, of which OPT has 2.65; counted in seconds and next to no memory."""
    text = OPTConfig(
        hidden_size=2560, ffn_dim=10240, num_hidden_layers=32, num_attention_heads=32, word_embed_proj_dim=2560,
        vocab_size=50304,
    )  # fmt: skip
    start = time.process_time()
    sizes = estimate.count("blip2-opt-2.7b", Blip2Config(text_config=text.to_dict()), registry.family("blip2"))
    assert time.process_time() - start < 20
    assert 3.73e9 < sizes.parameters < 3.76e9
    assert (sizes.hidden, sizes.intermediate, sizes.layers, sizes.visual_tokens) == (2560, 10240, 32, 32)
    found = estimate.estimate(sizes, registry.family("blip2"), edits=1000, dtype="bfloat16")
    assert found.full_per_edit == 2560 * 10240 * 4
    assert found.total_full > 100e9 > 10e9 > found.total_span
    packed = estimate.estimate(sizes, registry.family("blip2"), dtype="bfloat16", quantization="4bit")
    assert 0.25 < packed.weights / found.weights < 0.45


@pytest.mark.parametrize(("kind", "family", "name"), [("llama4", "llama4", "Scout"), ("molmo2", "molmo2", "8B")])
def test_sizes_that_are_derived_are_those_of_the_default_configuration(kind, family, name):
    known = registry.family(family)
    (told,) = [one for one in known.published if name in one.hub_id]
    assert told.source == DERIVED
    found = estimate.count(told.hub_id, CONFIG_MAPPING[kind](), known)
    for what in ("parameters", "linear", "hidden", "intermediate", "layers", "vocabulary", "kv_width", "tied"):
        assert getattr(found, what) == getattr(told, what), what


def test_names_of_published_models_need_neither_weights_nor_network(monkeypatch):
    monkeypatch.setattr(loading, "read_config", lambda name: pytest.fail(f"{name} was read"))
    named = 0
    for family in map(registry.family, registry.family_names()):
        for one in family.published:
            for name in (one.hub_id, *one.names, *estimate.short_names(family, one.hub_id)):
                sizes, found = estimate.sizes_of(name)
                assert (sizes, found.name) == (one, family.name)
                assert estimate.estimate(sizes, found, dtype="bfloat16").weights >= 2 * one.parameters
                named += 1
            assert one.hidden * one.intermediate * 2 * one.layers < one.parameters, "MLPs larger than the model"
            assert 0 < one.shrinkable < one.parameters
    if not named:
        pytest.skip("no family names the sizes of its published checkpoints")


class TestBadInput:
    sizes = Published("some/model", 1000, 4, 8, 2, 10, 3)

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"edits": -1}, "edits"),
            ({"batch": 0}, "batch"),
            ({"answer_tokens": 0}, "answer_tokens"),
            ({"quantization": "3bit"}, "3bit"),
        ],
    )
    def test_is_named(self, settings, words):
        with pytest.raises(InputError, match=words):
            estimate.estimate(self.sizes, registry.family("blip2"), **settings)

    def test_unknown_names_suggest_the_near_miss(self):
        with pytest.raises(UnknownNameError, match="Did you mean 'pocket'"):
            estimate.sizes_of("poket")

    def test_sizes_must_be_positive(self):
        with pytest.raises(ValueError, match="layers"):
            Published("some/model", 1000, 4, 8, 0, 10, 3)

    def test_a_config_that_describes_nothing(self):
        config = Blip2Config(text_config=OPTConfig(hidden_size=30, num_attention_heads=7).to_dict())
        with pytest.raises(InputError, match="config"):
            quantization.skeleton(registry.family("blip2"), config)
