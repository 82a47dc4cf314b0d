"""8-bit and 4-bit bases, on the CPU where bitsandbytes is installed; the edited site is left as it is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest
import torch

import vledit
from tests.vlm.models import ANSWERS, QUESTIONS, build, picture
from vledit import EditRequest, loading, quantization
from vledit.errors import MissingDataError, ModelMismatchError, UnknownNameError
from vledit.vlm import registry
from vledit.vlm.fingerprint import fingerprint

KINDS = {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny MiniGPT-4 with layers of several blocks of 4-bit numbers."""
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'vledit[quantization]'")
    folder = tmp_path_factory.mktemp("model")
    vlm = build("minigpt4", hidden_size=64, intermediate_size=128)
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
class TestQuantised:
    def test_all_but_the_edited_site_and_the_vocabulary_is_packed(self, folder, kind):
        vlm = loading.load_vlm(folder, quantization=kind)
        site = vlm.site_module(vlm.default_site)
        assert type(site) is type(vlm.anatomy.lm_head) is torch.nn.Linear
        assert site.weight.dtype is torch.float32
        original = loading.load_vlm(folder)
        assert torch.equal(site.weight, original.site_module(vlm.default_site).weight)
        rest = [m for layer in vlm.layers for m in layer.modules() if isinstance(m, torch.nn.Linear) and m is not site]
        assert {type(module).__name__ for module in rest} == {KINDS[kind]}
        assert len(rest) == 3 * 7 - 1

    def test_packed_layers_compute_nearly_what_they_did(self, folder, kind):
        """By layer: after several layers of a random model, 4-bit errors add up to much."""
        vlm, original = loading.load_vlm(folder, quantization=kind), loading.load_vlm(folder)
        pairs = [(a, b) for a, b in zip(vlm.layers.modules(), original.layers.modules(), strict=True)]
        errors = []
        for packed, plain in pairs:
            if type(packed).__name__ == KINDS[kind]:
                x = torch.randn(40, packed.in_features, generator=torch.Generator().manual_seed(0))
                with torch.no_grad():
                    expected = plain(x)
                    errors.append(float((packed(x) - expected).norm() / expected.norm()))
        assert len(errors) == 3 * 7 - 1
        assert 1e-4 < max(errors) < {"8bit": 0.03, "4bit": 0.15}[kind]

    def test_an_edit_fires_is_saved_and_undone(self, folder, kind, tmp_path):
        model = vledit.load(folder, quantization=kind)
        request = EditRequest(picture(0), QUESTIONS[0], ANSWERS[0], rephrases=("What can be seen?",))
        settings = {"rephrase": "supplied", "steps": 200, "learning_rate": 0.05}
        before = model.answer(picture(0), QUESTIONS[0]).text
        made = model.edit(request, **settings)
        assert model.answer(picture(0), QUESTIONS[0]).text == ANSWERS[0] != before
        model.save_pretrained(tmp_path)
        again = type(model).from_pretrained(loading.load_vlm(folder, quantization=kind), tmp_path)
        assert again.answer(picture(0), QUESTIONS[0]).text == ANSWERS[0]
        with pytest.raises(ModelMismatchError):
            type(model).from_pretrained(loading.load_vlm(folder), tmp_path)
        model.remove(made.id)
        assert model.answer(picture(0), QUESTIONS[0]).text == before

    def test_the_model_is_the_same_after_it_was_used(self, folder, kind):
        vlm = loading.load_vlm(folder, quantization=kind)
        vlm.answer([picture(0)], QUESTIONS[:1], 4)
        assert fingerprint(vlm.model) == vlm.fingerprint == loading.load_vlm(folder, quantization=kind).fingerprint

    def test_the_gradient_through_packed_layers_is_that_of_their_weights(self, folder, kind):
        """Also after they were used without gradient, when 4-bit layers would repack themselves."""
        vlm = loading.load_vlm(folder, quantization=kind)
        vlm.answer([picture(0)], QUESTIONS[:1], 4)
        layer = vlm.layers[-1].mlp.down_proj
        x = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with torch.enable_grad():
            layer(x).sum().backward()
        columns = layer(torch.eye(layer.in_features)).sum(1)  # the sum over outputs of what each input gives
        assert x.grad is not None
        torch.testing.assert_close(x.grad, columns.expand_as(x), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("family", ["blip2", "minigpt4", "pocket"])
def test_what_is_kept(saved, family):
    folder, vlm = saved(family)
    _, config, found = loading.read_config(str(folder))
    kept = quantization.kept_modules(found, config)
    modules = {vlm.model.get_submodule(path) for path in kept}
    assert modules == {vlm.site_module(vlm.default_site), vlm.anatomy.lm_head}


def test_unknown_kinds():
    with pytest.raises(UnknownNameError, match="Did you mean '4bit'"):
        loading.load_vlm("pocket", quantization="4bits")


@pytest.mark.parametrize("installed", [None, "0.45.0"])
def test_without_the_package_the_error_says_what_to_install(monkeypatch, installed):
    def version(name: str) -> str:
        if installed is None:
            raise PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(quantization, "version", version)
    with pytest.raises(MissingDataError, match=r"pip install 'vledit\[quantization\]'"):
        loading.load_vlm("pocket", quantization="8bit")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; there is none")
@pytest.mark.parametrize("kind", KINDS)
def test_on_cuda(folder, kind):
    vlm = loading.load_vlm(folder, "cuda", "fp16", quantization=kind)
    assert vlm.device.type == "cuda"
    assert vlm.answer([picture(0)], QUESTIONS[:1], 4)


def test_every_family_names_a_site_that_can_be_kept():
    assert all(registry.family(name).default_site for name in registry.family_names())
