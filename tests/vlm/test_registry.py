"""Families, fingerprints, loading."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vledit import loading
from vledit.errors import InputError, MissingDataError, UnknownNameError
from vledit.vlm import VLM, Site, registry
from vledit.vlm.fingerprint import fingerprint

from .models import ANSWERS, FAMILIES, QUESTIONS, build, picture, tiny


class TestFamilies:
    def test_names_and_near_miss(self):
        assert {"pocket", "blip2", "minigpt4"} <= set(registry.family_names())
        with pytest.raises(UnknownNameError, match="Did you mean 'blip2'"):
            registry.family("blip-2")

    def test_found_by_config(self, vlm):
        assert registry.family_of(vlm.model.config).name == vlm.family.name

    def test_unknown_models_are_named(self):
        with pytest.raises(InputError, match=r"type 'llama'.*Known families: .*vledit\.families"):
            registry.family_of(LlamaConfig())

    def test_families_from_other_packages(self, monkeypatch):
        other = replace(registry.family("blip2"), name="other", model_types=(("llama", ""),))

        class Point:
            name = "other"

            def load(self):
                return other

        monkeypatch.setattr(registry, "_installed", lambda: {"other": Point()})
        registry.family.cache_clear()
        assert "other" in registry.family_names()
        assert registry.family_of(LlamaConfig()) is other
        registry.family.cache_clear()

    def test_templates_are_checked(self):
        with pytest.raises(ValueError, match="question"):
            replace(registry.family("pocket"), prompt="no marks")

    def test_defaults(self):
        assert registry.family("blip2").default_site == Site(-1, "mlp.out")  # layers[31].fc2 of 32
        assert registry.family("minigpt4").default_site == Site(-1, "mlp.up")  # layers[31].mlp.up_proj of 32

    def test_nothing_heavy_is_imported(self):
        code = (
            "import sys, vledit.vlm, vledit.loading; from vledit.vlm import registry; "
            "[registry.family(n) for n in registry.family_names()]; registry.checkpoints(); "
            "from vledit.vlm import Site, Family; print({'torch', 'transformers'} & set(sys.modules))"
        )
        assert (
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
        )

    def test_tokenizer_of_another_model_is_refused(self):
        with pytest.raises(InputError, match="same checkpoint"):
            VLM(tiny("blip2").model, tiny("pocket").processor, registry.family("blip2"))


class TestFingerprint:
    def test_same_weights_same_name(self, vlm):
        assert fingerprint(deepcopy(vlm.model)) == vlm.fingerprint
        assert len({tiny(f).fingerprint for f in FAMILIES}) == len(FAMILIES)

    def test_does_not_depend_on_the_dtype_loaded(self, vlm):
        low = deepcopy(vlm.model).to(torch.bfloat16)
        assert fingerprint(low) == fingerprint(deepcopy(low).to(torch.float32)) == vlm.fingerprint

    def test_any_weight_counts(self, vlm):
        names = [name for name, parameter in vlm.model.named_parameters() if parameter.ndim > 1]
        for name in (names[0], next(name for name in names if "layers.1" in name)):
            other = deepcopy(vlm.model)
            with torch.no_grad():
                other.get_parameter(name).mul_(1.1)
            assert fingerprint(other) != vlm.fingerprint

    def test_settings_count_but_not_how_it_was_saved(self, vlm):
        other = deepcopy(vlm.model)
        other.config._name_or_path = "elsewhere"
        other.config.transformers_version = "9.9"
        assert fingerprint(other) == vlm.fingerprint
        other.config.image_token_id = vlm.image_token_id + 1
        assert fingerprint(other) != vlm.fingerprint

    def test_fast_for_135m_parameters(self):
        config = LlamaConfig(
            hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
            vocab_size=49152, tie_word_embeddings=True,
        )  # fmt: skip
        with torch.device("meta"):
            model = LlamaForCausalLM(config)
        model = model.to_empty(device="cpu")
        start = time.process_time()
        fingerprint(model)
        assert time.process_time() - start < 0.5


class TestLoading:
    def test_round_trip_of_a_folder(self, vlm, tmp_path):
        vlm.model.save_pretrained(tmp_path)
        vlm.processor.save_pretrained(tmp_path)
        images = [picture(0), None]
        loaded = loading.load_vlm(tmp_path)
        assert loaded.family.name == vlm.family.name
        assert loaded.family.prompt == vlm.family.prompt
        assert loaded.dtype == torch.float32
        assert loaded.fingerprint == vlm.fingerprint
        assert loaded.answer(images, QUESTIONS[:2], 6) == vlm.answer(images, QUESTIONS[:2], 6)
        low = loading.load_vlm(tmp_path, dtype="bfloat16")
        assert low.dtype == torch.bfloat16
        assert low.fingerprint == vlm.fingerprint
        encoded = low.encode(images, QUESTIONS[:2], ANSWERS[:2])
        assert low.head(low.trunk(encoded, 1)).dtype == torch.bfloat16

    def test_missing_weights_are_an_error(self, tmp_path):
        from safetensors.torch import load_file, save_file

        vlm = tiny("pocket")
        vlm.model.save_pretrained(tmp_path)
        vlm.processor.save_pretrained(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        name = next(n for n in weights if "down_proj" in n)
        del weights[name]
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(MissingDataError, match="down_proj"):
            loading.load_vlm(tmp_path)

    def test_damaged_weights_are_an_error(self, tmp_path):
        vlm = tiny("blip2")
        vlm.model.save_pretrained(tmp_path)
        vlm.processor.save_pretrained(tmp_path)
        weights = tmp_path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:5000])
        with pytest.raises(MissingDataError, match="cannot be read from folder"):
            loading.load_vlm(tmp_path)

    def test_weights_of_another_size_are_an_error(self, tmp_path):
        build("blip2", ffn_dim=40).model.save_pretrained(tmp_path)
        tiny("blip2").model.config.save_pretrained(tmp_path)
        tiny("blip2").processor.save_pretrained(tmp_path)
        with pytest.raises(MissingDataError, match="cannot be read"):
            loading.load_vlm(tmp_path)

    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            (("pokcet",), UnknownNameError, "Did you mean 'pocket'"),
            (("/no/such/folder",), MissingDataError, "no folder"),
            (("some/where-no-model-is",), MissingDataError, "some/where-no-model-is"),
            (("pocket", "warp"), InputError, "device 'warp'"),
            (("pocket", "cuda:7"), InputError, "device 'cuda:7'"),
            (("pocket", "cpu", "float23"), UnknownNameError, "Did you mean 'float32'"),
            (("pocket", "cpu", torch.int8), InputError, "int8"),
        ],
    )
    def test_unfit_arguments_are_named(self, arguments, error, words):
        with pytest.raises(error, match=words):
            loading.load_vlm(*arguments)

    def test_folders_without_a_model(self, tmp_path):
        with pytest.raises(InputError, match=r"no config\.json"):
            loading.load_vlm(tmp_path)
        (tmp_path / "config.json").write_text("{broken")
        with pytest.raises(MissingDataError, match="cannot be read"):
            loading.load_vlm(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
        with pytest.raises(InputError, match="no family covers"):
            loading.load_vlm(tmp_path)

    def test_auto_device(self):
        assert loading.parse_device("auto").type in ("cpu", "cuda", "mps", "xpu")


def test_anchors_have_the_model_s_own_size(vlm):
    side = 16 * 8 if vlm.family.name.startswith("qwen") else 32
    assert vlm.black().size == vlm.image_size == (side, side)
    assert vlm.black(picture(0, (10, 6))).size == (10, 6)
    assert vlm.black().getextrema() == ((0, 0),) * 3


def test_repr_says_what_it_is():
    assert repr(build("blip2")) == "VLM('tiny-blip2', BLIP-2 (OPT), 3 layers, torch.float32, cpu)"
