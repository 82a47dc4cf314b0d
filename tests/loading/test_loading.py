"""Names, dtypes, device maps and what is told of bad ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import vledit
from tests.vlm.models import QUESTIONS, picture, tiny
from vledit import loading
from vledit.errors import InputError, MissingDataError, UnknownNameError
from vledit.vlm import registry
from vledit.vlm.published import Published

CHECKPOINT = Published("Nobody/Model-4", 100, 4, 8, 2, 10, 3, names=("model-4",), convert="minigpt4")


class TestDtypes:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ("bf16", torch.bfloat16),
            ("fp16", torch.float16),
            ("fp32", torch.float32),
            ("bfloat16", torch.bfloat16),
            (torch.float16, torch.float16),
        ],
    )
    def test_names(self, given, expected):
        assert loading.parse_dtype(given) is expected

    @pytest.mark.parametrize("family", ["blip2", "minigpt4", "pocket"])
    def test_bf16_all_the_way(self, saved, family):
        folder, vlm = saved(family)
        model = vledit.load(folder, dtype="bf16")
        assert model.vlm.dtype is torch.bfloat16
        assert {p.dtype for p in model.vlm.layers.parameters()} == {torch.bfloat16}
        assert model.answer(picture(0), QUESTIONS[0]).text is not None
        assert model.vlm.fingerprint == vlm.fingerprint

    def test_near_miss(self):
        with pytest.raises(UnknownNameError, match="Did you mean 'bfloat16'"):
            loading.parse_dtype("bfloat17")


class TestNames:
    @pytest.mark.parametrize(
        ("name", "error", "words"),
        [
            ("blip2-opt-2.7", UnknownNameError, "Did you mean 'blip2-opt-2.7b'"),
            ("Salesforce/blip2-opt-2.7", MissingDataError, "Did you mean 'Salesforce/blip2-opt-2.7b'"),
            ("folder/nothing", MissingDataError, "no such local folder either"),
            ("./nothing", MissingDataError, "no folder './nothing'"),
            ("~/nothing-there", MissingDataError, "no folder"),
            ("a/b/c", UnknownNameError, "unknown model 'a/b/c'"),
            (" ", InputError, "the name is empty"),
        ],
    )
    def test_unknown_ones(self, name, error, words, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "folder").mkdir()
        with pytest.raises(error, match=words.replace(".", r"\.")):
            loading.load_vlm(name)

    def test_a_file_is_no_folder(self, tmp_path):
        (tmp_path / "model.safetensors").write_text("")
        with pytest.raises(InputError, match="is a file"):
            loading.load_vlm(tmp_path / "model.safetensors")

    def test_the_folder_above_the_model(self, saved, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text("{}")
        with pytest.raises(InputError, match=r"Did you mean '.*model'"):
            loading.load_vlm(tmp_path)

    @pytest.mark.parametrize("name", ["model-4", "Nobody/Model-4"])
    def test_a_model_that_has_to_be_converted_names_the_command(self, name, monkeypatch):
        other = replace(registry.family("minigpt4"), published=(CHECKPOINT,))
        monkeypatch.setattr(registry, "family", lambda name: other)
        with pytest.raises(MissingDataError, match="`vledit convert minigpt4`"):
            loading.load_vlm(name)

    def test_prints_no_bars_and_leaves_those_of_others_on(self, saved, capfd):
        from transformers.utils import logging

        folder, _ = saved("pocket")
        capfd.readouterr()
        logging.enable_progress_bar()
        vledit.load(folder)
        assert capfd.readouterr() == ("", "")
        assert logging.is_progress_bar_enabled()

    def test_says_which_family_it_took_the_model_for(self, saved):
        assert "MiniGPT-4" in repr(loading.load_vlm(saved("minigpt4")[0]))

    def test_classes_without_a_family_of_their_own_get_the_generic_one(self, saved, monkeypatch):
        """Passed through from the registry, whatever it says."""
        generic = replace(registry.family("blip2"), name="generic", title="generic (Blip2)")
        monkeypatch.setattr(registry, "family_of", lambda config: generic)
        assert loading.load_vlm(saved("blip2")[0]).family.name == "generic"


class TestDeviceMaps:
    @pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}])
    def test_everything_on_one_device_is_the_same_model(self, saved, device_map):
        folder, vlm = saved("minigpt4")
        placed = loading.load_vlm(folder, device_map=device_map)
        encoded = placed.encode([picture(0), None], QUESTIONS[:2])
        expected = vlm.head(vlm.trunk(vlm.encode([picture(0), None], QUESTIONS[:2]), 1))
        assert torch.equal(placed.head(placed.trunk(encoded, 1)), expected)
        assert placed.fingerprint == vlm.fingerprint

    def test_layers_on_disk_below_the_edited_one(self, saved, monkeypatch, tmp_path):
        """What is moved out of memory comes back for each pass; answers are the same."""
        folder, vlm = saved("minigpt4")
        monkeypatch.chdir(tmp_path)
        names = ["vision_model", "qformer", "query_tokens", "language_projection", "language_model.lm_head"]
        names += ["language_model.model.embed_tokens", "language_model.model.norm", "language_model.model.rotary_emb"]
        names += [f"language_model.model.layers.{i}" for i in (1, 2)]
        places = {**dict.fromkeys(names, "cpu"), "language_model.model.layers.0": "disk"}
        placed = loading.load_vlm(folder, device_map=places)
        assert placed.layers[0].mlp.up_proj.weight.device.type == "meta"
        assert placed.answer([picture(0)], QUESTIONS[:1], 6) == vlm.answer([picture(0)], QUESTIONS[:1], 6)

    def test_the_edited_layer_must_stay_in_memory(self, saved, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        names = ["vision_model", "qformer", "query_tokens", "language_projection", "language_model.lm_head"]
        names += ["language_model.model.embed_tokens", "language_model.model.norm", "language_model.model.rotary_emb"]
        names += [f"language_model.model.layers.{i}" for i in (0, 1)]
        places = {**dict.fromkeys(names, "cpu"), "language_model.model.layers.2": "disk"}
        with pytest.raises(InputError, match="decoder layer 2"):
            loading.load_vlm(saved("minigpt4")[0], device_map=places)

    def test_device_or_device_map(self, saved):
        with pytest.raises(InputError, match="one of the two"):
            loading.load_vlm(saved("blip2")[0], "meta", device_map="auto")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; there is none")
class TestCuda:
    def test_the_same_answers_as_on_the_cpu(self, saved):
        folder, vlm = saved("minigpt4")
        placed = loading.load_vlm(folder, "cuda")
        assert placed.device.type == "cuda"
        assert placed.answer([picture(0)], QUESTIONS[:1], 6) == vlm.answer([picture(0)], QUESTIONS[:1], 6)


def test_without_cuda_the_error_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(InputError, match="Use 'cpu' or 'auto'"):
        loading.load_vlm("pocket", "cuda")


def test_tiny_models_are_not_changed_by_loading(saved):
    assert tiny("minigpt4").fingerprint == saved("minigpt4")[1].fingerprint
