"""`vledit.check`'s words on folders that fit and folders that do not, and that `load` refuses with the same ones."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING, LlavaConfig, T5Config

from vledit import hub, loading
from vledit.checking import Checked, check
from vledit.errors import InputError, MissingDataError, VLEditError
from vledit.loading import load_vlm
from vledit.vlm import VLM, registry
from vledit.vlm.generic import GENERIC

REMOTE = {"model_type": "from_afar", "auto_map": {"AutoConfig": "configuration_afar.AfarConfig"}}


@pytest.fixture
def only_config(tmp_path):
    """Saves a type's default configuration, and nothing else, and gives the folder."""

    def save(kind: str, **changes: object) -> Path:
        CONFIG_MAPPING[kind](**changes).save_pretrained(tmp_path)
        return tmp_path

    return save


def as_loaded(vlm: VLM) -> Checked:
    """What `check` must have said of a model that is loaded."""
    size = vlm.image_size
    return Checked(
        "",
        fits=True,
        family=vlm.family.name,
        layers=vlm.n_layers,
        default_site=str(vlm.default_site),
        prompt=vlm.family.prompt,
        picture_size=size,
        visual_tokens=sum(vlm.prompt("What?").visual),
        processor=type(vlm.processor).__name__,
    )


@pytest.mark.parametrize("family", ["blip2", "minigpt4", "pocket"])
def test_what_is_said_is_what_is_loaded(saved, family):
    folder, vlm = saved(family)
    found, expected = check(str(folder)), as_loaded(load_vlm(folder))
    for name in ("fits", "family", "layers", "default_site", "prompt", "picture_size", "visual_tokens", "processor"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.sites["mlp"] == tuple(range(vlm.n_layers))
    assert not found.reason
    assert not found.missing
    assert not found.assumed
    assert found.memory["weights"] == sum(p.numel() * 4 for p in vlm.model.parameters())


def test_no_weights_are_read(saved, tmp_path):
    folder, _ = saved("pocket")
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert check(str(tmp_path)).fits
    with pytest.raises(VLEditError):
        load_vlm(tmp_path)


def test_what_the_generic_family_assumes_is_told(saved, monkeypatch):
    folder, _ = saved("pocket")
    monkeypatch.setattr(registry, "family_of", lambda config: GENERIC)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = check(str(folder))
    if not found.fits:  # the embedded model's processor has no rule for placeholders
        assert "replace_image_token" in found.reason
    else:
        assert any("no family covers" in text for text in found.assumed)


def test_without_a_processor(only_config):
    found = check(str(only_config("qwen3_vl_moe")))
    assert found.fits
    assert any("processor" in text for text in found.missing)
    assert set(found.sites) == {"mlp", "layer"}
    assert found.default_site.endswith(".mlp")


@pytest.mark.parametrize("kind", ["florence2", "blip", "chameleon", "aya_vision", "t5gemma2", "mistral4", "idefics"])
def test_what_cannot_be_edited_is_refused_alike(only_config, kind, monkeypatch):
    folder = only_config(kind)
    found = check(str(folder))
    assert not found.fits
    assert found.type == kind
    monkeypatch.setattr(loading, "read_processor", lambda *given: pytest.fail("read after it was known not to fit"))
    with pytest.raises(InputError) as refused:
        load_vlm(folder)
    assert str(refused.value) == found.reason


def test_a_language_model_that_is_an_encoder_decoder(tmp_path):
    LlavaConfig(text_config=T5Config(d_model=8, num_layers=1).to_dict()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "instructblip"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "encoder-decoder" in check(str(tmp_path)).reason


def test_remote_code_is_off(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(REMOTE))
    (tmp_path / "configuration_afar.py").write_text("raise SystemExit('run')")
    found = check(str(tmp_path))
    assert not found.fits
    assert "'from_afar'" in found.reason
    assert "trust_remote_code" in found.reason
    with pytest.raises(InputError) as refused:
        load_vlm(tmp_path)
    assert str(refused.value) == found.reason


def test_remote_code_is_run_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (tmp_path / "config.json").write_text(json.dumps(REMOTE))
    (tmp_path / "configuration_afar.py").write_text(
        "from pathlib import Path\n\nfrom transformers import PreTrainedConfig\n\n"
        f"Path({str(tmp_path / 'was-run')!r}).touch()\n\n\n"
        "class AfarConfig(PreTrainedConfig):\n    model_type = 'from_afar'\n"
    )
    check(str(tmp_path))
    assert not (tmp_path / "was-run").exists()
    assert "config says nothing of pictures" in check(str(tmp_path), trust_remote_code=True).reason
    assert (tmp_path / "was-run").exists()


def test_an_id_out_of_reach_is_told_soon(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    start = time.monotonic()
    with pytest.raises(MissingDataError, match="cannot be reached") as refused:
        check("nobody/has-this-model")
    assert time.monotonic() - start < hub.SECONDS + 4
    assert "\n" not in str(refused.value)
