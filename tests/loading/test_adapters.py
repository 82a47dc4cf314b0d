"""Models with PEFT adapters: loaded as fine-tuning tools write them, or adapted in memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

import vledit
from tests.vlm.models import QUESTIONS, build, picture
from vledit import EditRequest, adapters, loading
from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError, MissingDataError, ModelMismatchError
from vledit.vlm import VLM

peft = pytest.importorskip("peft", reason="needs peft: pip install 'vledit[peft]'")

REQUEST = EditRequest(picture(0), QUESTIONS[0], "two cups", rephrases=("What can be seen?",))
SETTINGS = {"rephrase": "supplied", "steps": 200, "learning_rate": 0.05}


def lora(**settings):
    return peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **settings)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny LLaVA, and an adapter that was trained on it, as a trainer saves it."""
    base, adapter = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("adapter")
    vlm = build("llava")
    vlm.model.save_pretrained(base)
    vlm.processor.save_pretrained(base)
    fresh = loading.load_vlm(base)
    encoded = fresh.encode([picture(3)], QUESTIONS[:1], ["a red house"])
    model = peft.get_peft_model(fresh.model, lora())
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=0.05)
    model.train()
    for _ in range(5):
        logits = model(**encoded.model_inputs).logits[encoded.predict_mask]
        torch.nn.functional.cross_entropy(logits, encoded.targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(adapter)
    return base, adapter


def test_a_folder_with_an_adapter_is_its_base_with_the_adapter(folders):
    base, adapter = folders
    adapted, plain = loading.load_vlm(adapter), loading.load_vlm(base)
    encoded = plain.encode([picture(3)], QUESTIONS[:1], ["a red house"])
    reference = peft.PeftModel.from_pretrained(loading.load_vlm(base).model, adapter).eval()
    with torch.no_grad():
        expected = reference(**encoded.model_inputs).logits
    assert torch.equal(adapted.model(**encoded.model_inputs).logits, expected)
    assert not torch.equal(plain.model(**encoded.model_inputs).logits, expected)
    assert adapted.fingerprint != plain.fingerprint
    assert adapted.fingerprint == loading.load_vlm(base, adapter=adapter).fingerprint
    assert loading.load_vlm(base, adapter=adapter).name == f"{base} + {adapter}"


def test_how_strongly_an_adapter_acts_is_part_of_the_fingerprint(folders):
    adapted = loading.load_vlm(folders[1])
    before = adapted.fingerprint
    for module in adapted.model.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling["default"] *= 2
    assert VLM(adapted.model, adapted.processor, adapted.family).fingerprint != before


def test_an_edit_is_made_saved_and_loaded_in_a_new_process(folders, tmp_path):
    base, adapter = folders
    model = vledit.load(adapter)
    before = model.answer(picture(0), QUESTIONS[0]).text
    model.edit(REQUEST, **SETTINGS)
    assert model.answer(picture(0), QUESTIONS[0]).text == "two cups" != before
    model.save_pretrained(tmp_path / "edits")
    picture(0).save(tmp_path / "picture.png")
    script = (
        "import sys, vledit; from vledit.loading import load_vlm; from vledit.editors.edited_model import EditedModel; "
        "model = EditedModel.from_pretrained(load_vlm(sys.argv[1]), sys.argv[2]); "
        "print(model.answer(sys.argv[3], sys.argv[4]))"
    )
    given = [adapter, tmp_path / "edits", tmp_path / "picture.png", QUESTIONS[0]]
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *map(str, given)], capture_output=True, text=True
    )
    assert ran.stdout.strip() == "two cups", ran.stderr
    with pytest.raises(ModelMismatchError):
        EditedModel.from_pretrained(loading.load_vlm(base), tmp_path / "edits")


def in_memory(form: str) -> VLM:
    """A tiny LLaVA with LoRA on all linears that does something, put in one of the ways there are."""
    vlm = build("llava")
    torch.manual_seed(1)
    config = lora(init_lora_weights=False)
    if form == "PeftModel":
        return VLM(peft.get_peft_model(vlm.model, config), vlm.processor, vlm.family)
    if form == "injected":
        return VLM(peft.inject_adapter_in_model(config, vlm.model), vlm.processor, vlm.family)
    vlm.model.add_adapter(config)
    return VLM(vlm.model, vlm.processor, vlm.family)


def test_every_way_to_put_an_adapter_in_gives_the_same_model():
    assert len({in_memory(form).fingerprint for form in ("PeftModel", "injected", "transformers")}) == 1


def test_prompt_tuning_is_refused():
    vlm = build("llava")
    config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, num_layers=3, token_dim=32, num_attention_heads=4
    )
    with pytest.raises(InputError, match="PROMPT_TUNING puts learned tokens before the prompt"):
        VLM(peft.get_peft_model(vlm.model, config), vlm.processor, vlm.family)


class TestUnfitAdapters:
    def change(self, folders, tmp_path, **settings):
        folder = tmp_path / "adapter"
        folder.mkdir()
        for file in folders[1].iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        found = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**found, **settings}))
        return folder

    def test_without_a_base(self, folders, tmp_path):
        folder = self.change(folders, tmp_path, base_model_name_or_path=None)
        with pytest.raises(InputError, match=r"names no base.*adapter="):
            loading.load_vlm(folder)
        assert loading.load_vlm(folders[0], adapter=folder).fingerprint == loading.load_vlm(folders[1]).fingerprint

    def test_a_base_that_is_gone(self, folders, tmp_path):
        folder = self.change(folders, tmp_path, base_model_name_or_path="/gone/away")
        with pytest.raises(MissingDataError, match="there is no folder '/gone/away'"):
            loading.load_vlm(folder)

    def test_a_base_beside_the_adapter(self, folders, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # where there is no '../base'
        folder = self.change(folders, tmp_path, base_model_name_or_path="../base")
        (tmp_path / "base").symlink_to(folders[0])
        assert adapters.resolve(str(folder)) == (str(folder / "../base"), str(folder))

    def test_of_another_model(self, folders, tmp_path):
        other = build("llava", hidden_size=64)
        other.model.save_pretrained(tmp_path)
        other.processor.save_pretrained(tmp_path)
        with pytest.raises(MissingDataError, match="the adapter is of another model: size mismatch"):
            loading.load_vlm(tmp_path, adapter=folders[1])

    def test_with_weights_missing(self, folders, tmp_path):
        from safetensors.torch import load_file, save_file

        folder = self.change(folders, tmp_path)
        weights = load_file(folder / "adapter_model.safetensors")
        weights.pop(sorted(weights)[0])
        save_file(weights, folder / "adapter_model.safetensors")
        with pytest.raises(MissingDataError, match="lacks weights"):
            loading.load_vlm(folder)

    def test_damaged_settings(self, folders, tmp_path):
        folder = self.change(folders, tmp_path)
        (folder / "adapter_config.json").write_text("{")
        with pytest.raises(MissingDataError, match=r"adapter_config\.json' cannot be read"):
            loading.load_vlm(folder)

    def test_edits_are_no_adapter(self, folders, tmp_path):
        folder = self.change(folders, tmp_path, peft_type="VLEDIT")
        with pytest.raises(InputError, match=r"holds edits, not a model.*from_pretrained"):
            loading.load_vlm(folder)

    @pytest.mark.parametrize(
        ("given", "says"),
        [("file", "is a file"), ("empty", "has no adapter_config.json"), ("./gone", "there is no folder")],
    )
    def test_paths(self, folders, tmp_path, given, says):
        (tmp_path / "file").write_text("")
        (tmp_path / "empty").mkdir()
        path = given if given.startswith(".") else tmp_path / given
        with pytest.raises((InputError, MissingDataError), match=says):
            loading.load_vlm(folders[0], adapter=path)

    def test_an_adapter_is_no_base(self, folders):
        with pytest.raises(InputError, match="is an adapter itself"):
            loading.load_vlm(folders[1], adapter=folders[1])

    def test_without_the_package_the_error_says_what_to_install(self, folders, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(MissingDataError, match=r"pip install 'vledit\[peft\]'"):
            loading.load_vlm(folders[1])


def test_on_the_command_line(folders, tmp_path):
    from typer.testing import CliRunner

    from vledit.cli.app import build as build_app

    picture(0).save(tmp_path / "picture.png")
    base, adapter = folders
    given = ["ask", QUESTIONS[0], "--image", str(tmp_path / "picture.png"), "--json"]
    answers = []
    for model in (["--model", str(base), "--adapter", str(adapter)], ["--model", str(adapter)]):
        ran = CliRunner().invoke(build_app(), [*given, *model])
        assert ran.exit_code == 0, ran.output
        answers.append(json.loads(ran.stdout)["answer"])
    assert answers[0] == answers[1] == vledit.load(adapter).answer(picture(0), QUESTIONS[0]).text
