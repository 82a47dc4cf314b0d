"""Edits for other tools: adapters that `peft` loads, models that transformers loads; both say what the edited model said."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from tests.vlm.models import QUESTIONS, build, picture, tiny
from vledit import EditRequest, loading
from vledit.cli.app import build as app
from vledit.codebook import FullTransformation, NeuronTransformation, SpanTransformation
from vledit.editors.base import Edit, EditReport
from vledit.editors.edited_model import EditedModel
from vledit.editors.export import factors
from vledit.errors import InputError
from vledit.vlm import VLM

REQUEST = EditRequest(picture(0), QUESTIONS[0], "two cups", rephrases=("What can be seen?",))
ROWS = [(picture(0), QUESTIONS[0]), (picture(3), QUESTIONS[1]), (None, QUESTIONS[2])]
SPAN = {"transformation": "span", "steps": 200, "learning_rate": 1.0, "margin": 1.0, "common_directions": 4}
REPORT = EditReport(0.0, 0, 0.0, 0.0, 0, True)


def by_hand(vlm, **changes):
    """An always-on edit with these changes; names are points with `_` for `.`."""
    return Edit("by-hand", "ft", REQUEST, REPORT, weights={str(vlm.resolve_site(k)): v for k, v in changes.items()})


def span(vlm, site, rank, seed=0):
    out, inputs = vlm.site_shape(site)
    generator = torch.Generator().manual_seed(seed)
    directions, read = (torch.randn(*shape, generator=generator) / 3 for shape in ((out, rank), (rank, inputs)))
    return SpanTransformation(directions, read)


def logits(vlm, image, question):
    encoded = vlm.encode([image], [question])
    with torch.no_grad():
        return vlm.head(vlm.trunk(encoded, 0))


def edited_logits(model, image, question):
    encoded = model.vlm.encode([image], [question])
    with torch.no_grad(), model.acting(encoded, model.effects([image], [question])):
        return model.vlm.head(model.vlm.trunk(encoded, 0))


def assert_same(model, other):
    """`other` (a VLM without edits) computes what the edited model computes, and something else than the base."""
    for row in ROWS:
        expected = edited_logits(model, *row)
        torch.testing.assert_close(logits(other, *row), expected, rtol=1e-3, atol=1e-3)  # another order of sums
        assert not torch.allclose(expected, logits(model.vlm, *row), atol=1e-2)
        assert other.answer(*([one] for one in row), 5) == [model.answer(*row, 5).text]


@pytest.mark.parametrize("family", ["llava", "blip2", "pocket", "qwen2_5_vl"])
def test_peft_loads_the_adapter_with_the_same_logits(family, tmp_path):
    peft = pytest.importorskip("peft", reason="needs peft: pip install 'vledit[peft]'")
    vlm = build(family)
    model = EditedModel(vlm)
    model.edit(REQUEST, "ft", **SPAN)
    model.add(by_hand(vlm, **{"0.mlp.in": span(vlm, "0.mlp.in", 2)}))  # another rank at another site
    written = model.export_peft(tmp_path)
    assert len(set(written.ranks.values())) == 2
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"
    adapted = peft.PeftModel.from_pretrained(build(family).model, tmp_path)
    assert_same(model, VLM(adapted, vlm.processor, vlm.family))
    with adapted.disable_adapter():
        assert torch.equal(logits(VLM(adapted, vlm.processor, vlm.family), *ROWS[0]), logits(build(family), *ROWS[0]))
    merged = adapted.merge_and_unload()
    assert_same(model, VLM(merged, vlm.processor, vlm.family))


def test_a_fused_linear_gets_an_adapter_of_which_the_other_half_is_zero(tmp_path):
    peft = pytest.importorskip("peft", reason="needs peft: pip install 'vledit[peft]'")
    fused = next(name for name in ("glm4v", "glm46v") if _is_fused(name))
    vlm = build(fused)
    model = EditedModel(vlm)
    for role in ("mlp.in", "mlp.up"):
        other = EditedModel(vlm)
        other.add(by_hand(vlm, **{f"-1.{role}": span(vlm, f"-1.{role}", 2)}))
        other.export_peft(tmp_path / role)
        assert_same(
            other, VLM(peft.PeftModel.from_pretrained(build(fused).model, tmp_path / role), vlm.processor, vlm.family)
        )
    assert not model.weights


def _is_fused(name):
    try:
        return build(name).site_place("-1.mlp.in").half is not None
    except KeyError:
        return False


def test_a_full_change_of_low_rank_is_written_through_its_exact_factors(tmp_path):
    peft = pytest.importorskip("peft", reason="needs peft: pip install 'vledit[peft]'")
    vlm = build("llava")
    low = span(vlm, "-1.mlp.out", 3)
    model = EditedModel(vlm)
    model.add(by_hand(vlm, **{"-1.mlp.out": FullTransformation(low.directions @ low.inputs)}))
    assert list(model.export_peft(tmp_path).ranks.values()) == [3]
    assert_same(model, VLM(peft.PeftModel.from_pretrained(build("llava").model, tmp_path), vlm.processor, vlm.family))


@pytest.mark.parametrize("rank", [0, 1, 5, 40])
def test_factors_are_those_of_the_matrix(rank):
    generator = torch.Generator().manual_seed(rank)
    whole = torch.randn(120, rank, generator=generator) @ torch.randn(rank, 200, generator=generator)
    read, write = factors(whole, "it")
    assert (tuple(read.shape), tuple(write.shape)) == ((rank, 200), (120, rank))
    assert (write @ read - whole).abs().max() <= 1e-4 * max(whole.abs().max(), 1)


def test_a_matrix_of_high_rank_has_none():
    for rank in (76, 120):  # from 75 on the factors hold as many numbers as the matrix
        whole = torch.randn(120, rank) @ torch.randn(rank, 200)
        with pytest.raises(InputError, match=r"it is not of low rank.*rank 74.*transformation='span'"):
            factors(whole, "it")
    nearly = torch.randn(120, 3) @ torch.randn(3, 200) + 1e-4 * torch.randn(120, 200)
    with pytest.raises(InputError, match="not of low rank"):
        factors(nearly, "it")


class TestWhatAnAdapterCannotHold:
    def refused(self, model, folder, match):
        with pytest.raises(InputError, match=match):
            model.export_peft(folder / "out")
        assert not (folder / "out").exists()

    def test_a_full_fine_tune(self, tmp_path):
        model = EditedModel(tiny("llava"))
        full = {**SPAN, "transformation": "full", "learning_rate": 0.05}
        model.edit(REQUEST, "ft", **full)
        self.refused(model, tmp_path, r"change at '2\.mlp\.\w+' is not of low rank")

    def test_nothing(self, tmp_path):
        self.refused(EditedModel(tiny("llava")), tmp_path, "no weight edits here")

    def test_a_whole_block(self, tmp_path):
        vlm = tiny("llava")
        model = EditedModel(vlm)
        model.add(by_hand(vlm, **{"-1.mlp": span(vlm, "-1.mlp", 2)}))
        self.refused(model, tmp_path, "a whole MLP block, and LoRA stands beside linears")

    def test_neurons(self, tmp_path):
        vlm = tiny("llava")
        out, inputs = vlm.site_shape("-1.mlp.out")
        neurons = NeuronTransformation(*(torch.randn(*s) for s in ((2, inputs), (2,), (2, out), (2, inputs))))
        model = EditedModel(vlm)
        model.add(by_hand(vlm, **{"-1.mlp.out": neurons}))
        self.refused(model, tmp_path, "kind 'neurons' at '2.mlp.out' is not linear")

    def test_gated_edits(self, tmp_path):
        model = EditedModel(tiny("llava"))
        entry = model.edit(REQUEST, rephrase="supplied", **SPAN)
        self.refused(model, tmp_path, "1 codebook entries, which act on some requests only")
        model.remove(entry.id)
        model.edit(EditRequest(picture(3), QUESTIONS[1], "a tree"), "ike")
        self.refused(model, tmp_path, "1 edits of ike")

    def test_an_adapted_base(self, tmp_path):
        peft = pytest.importorskip("peft", reason="needs peft: pip install 'vledit[peft]'")
        vlm = build("llava")
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        model = EditedModel(VLM(peft.get_peft_model(vlm.model, config), vlm.processor, vlm.family))
        model.edit(REQUEST, "ft", **SPAN)
        self.refused(model, tmp_path, r"adapter in '.*q_proj'.*merge_and_unload")
        with pytest.raises(InputError, match="export_merged: the base has an adapter"):
            model.export_merged(tmp_path / "out")


def test_one_entry_of_a_codebook_may_act_on_every_request(tmp_path):
    peft = pytest.importorskip("peft", reason="needs peft: pip install 'vledit[peft]'")
    vlm = build("llava")
    model = EditedModel(vlm)
    entry = model.edit(REQUEST, rephrase="supplied", **SPAN)
    model.export_peft(tmp_path, entry=entry.id)
    always = EditedModel(vlm)
    always.add(by_hand(vlm, **{entry.entry.site: entry.entry.transformation}))
    assert_same(always, VLM(peft.PeftModel.from_pretrained(build("llava").model, tmp_path), vlm.processor, vlm.family))
    assert "two cups" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("family", ["llava", "blip2", "minigpt4", "pocket", "gemma3"])
def test_a_merged_model_is_an_ordinary_folder(family, tmp_path):
    from transformers import AutoModelForImageTextToText

    vlm = build(family)
    model = EditedModel(vlm)
    model.edit(REQUEST, "ft", **{**SPAN, "transformation": "full", "learning_rate": 0.05})
    other = EditRequest(picture(3), QUESTIONS[1], "a tree")
    model.edit(other, "ft_v", steps=20, learning_rate=0.05, unlearnt="keep")
    model.export_merged(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(loaded) is type(vlm.model)
    assert_same(model, VLM(loaded, vlm.processor, vlm.family))
    assert_same(model, loading.load_vlm(tmp_path))


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    pytest.importorskip("peft", reason="needs peft: pip install 'vledit[peft]'")
    vlm = tiny("llava")
    model = EditedModel(vlm)
    model.add(by_hand(vlm, **{"-1.mlp.out": span(vlm, "-1.mlp.out", 2)}))
    (tmp_path / "file").write_text("")
    for write, name in ((model.export_peft, "export_peft"), (model.export_merged, "export_merged")):
        for place in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nowhere"):
            with pytest.raises(InputError, match=f"^{name}: .*(is a file, or lies below one|cannot be)"):
                write(place)


class TestTheCommand:
    @pytest.fixture(scope="class")
    def kept(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("kept")
        vlm = build("llava")
        vlm.model.save_pretrained(folder / "base")
        vlm.processor.save_pretrained(folder / "base")
        model = EditedModel(loading.load_vlm(folder / "base"))
        model.edit(REQUEST, "ft", **SPAN)
        model.save_pretrained(folder / "edits")
        return folder, model

    def run(self, *arguments):
        return CliRunner().invoke(app(), ["export", *map(str, arguments)])

    def test_an_adapter_and_a_merged_model_are_written_and_loaded_again(self, kept, tmp_path):
        pytest.importorskip("peft", reason="needs peft: pip install 'vledit[peft]'")
        folder, model = kept
        given = ["--edits", folder / "edits", "--model", folder / "base"]
        done = self.run(*given, "--peft", tmp_path / "adapter", "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["kind"] == "peft"
        assert_same(model, loading.load_vlm(tmp_path / "adapter"))  # the base that it names, with it
        done = self.run(*given, "--merged", tmp_path / "merged")
        assert done.exit_code == 0, done.output
        assert_same(model, loading.load_vlm(tmp_path / "merged"))

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--edits", "x"], "--peft, --merged: give one of the two"),
            (["--peft", "out"], "--edits, --codebook: give a folder"),
            (["--peft", "out", "--codebook", "b"], "--edits, --codebook: give a folder"),
            (["--merged", "out", "--codebook", "b", "--id", "e"], "can be written as an adapter"),
            (["--peft", "out", "--edits", "./nowhere"], "there is no folder 'nowhere'"),
            (["--peft", "out", "--codebook", "./nowhere", "--id", "e"], "there is no file 'nowhere'"),
        ],
    )
    def test_what_does_not_fit_is_told_before_a_model_is_loaded(self, arguments, said, monkeypatch):
        from vledit.cli import session

        monkeypatch.setattr(session, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
        done = self.run(*arguments)
        assert done.exit_code in (2, 5)
        assert said in done.output


def test_folders_of_earlier_versions_are_read_and_give_way(tmp_path):
    """Weight edits once had PEFT's file names, though PEFT could not load them."""
    vlm = tiny("llava")
    model = EditedModel(vlm)
    model.edit(REQUEST, "ft", **SPAN)
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("adapter_*"))
    config = json.loads((tmp_path / "weight_edits.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "VLEDIT", **config}))
    (tmp_path / "weight_edits.json").unlink()
    (tmp_path / "weight_edits.safetensors").rename(tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match="holds edits, not a model"):
        loading.load_vlm(tmp_path)
    again = EditedModel.from_pretrained(vlm, tmp_path)
    assert torch.equal(edited_logits(again, *ROWS[0]), edited_logits(model, *ROWS[0]))
    again.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("adapter_*"))
    assert list(EditedModel.from_pretrained(vlm, tmp_path).weights) == list(model.weights)
    with pytest.raises(InputError, match="holds edits, not a model"):
        loading.load_vlm(tmp_path)


def test_an_adapter_beside_the_edits_stays(tmp_path):
    """Edits saved into the folder of a true adapter leave it alone."""
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    model = EditedModel(tiny("llava"))
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_config.json").exists()
    assert not EditedModel.from_pretrained(model.vlm, tmp_path).weights
