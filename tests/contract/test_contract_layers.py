"""Bases whose linears are adapted or packed: edits fire, are undone bit for bit, and are the same when saved and loaded."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from tests.vlm.models import build
from vledit import loading
from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError
from vledit.vlm import VLM
from vledit.vlm.fingerprint import plain

from .rows import EDITORS, REQUEST, UNRELATED, hooks, logits

WIDTHS = {"hidden_size": 64, "intermediate_size": 128}


class PackedLinear(nn.Module):
    """A linear as GPTQ's and AWQ's kernels are: packed numbers in buffers, no `weight`, no gradient."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        scales = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("scales", scales)
        self.register_buffer("qweight", (linear.weight.detach() / scales).round().to(torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return nn.functional.linear(x, self.qweight.to(x.dtype) * self.scales.to(x.dtype), self.bias)


def _lora(form: str) -> VLM:
    peft = pytest.importorskip("peft", reason="needs peft: pip install 'vledit[peft]'")
    vlm = build("llava")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    put_in = peft.get_peft_model if form == "PeftModel" else lambda m, c: peft.inject_adapter_in_model(c, m)
    return VLM(put_in(vlm.model, config), vlm.processor, vlm.family)


def _bitsandbytes(kind: str, folder) -> VLM:
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'vledit[quantization]'")
    vlm = build("minigpt4", **WIDTHS)
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return loading.load_vlm(folder, quantization=kind)


def _torchao() -> VLM:
    reason = "needs torchao: pip install 'vledit[torchao]'"
    quantization = pytest.importorskip("torchao.quantization", reason=reason)
    vlm = build("llava", **WIDTHS)
    linears = lambda module, name: isinstance(module, nn.Linear)  # noqa: E731
    quantization.quantize_(vlm.model, quantization.Int8WeightOnlyConfig(), filter_fn=linears)
    return VLM(vlm.model, vlm.processor, vlm.family)


def _dynamic() -> VLM:
    """torch's own: every linear's weight is a method, and none passes a gradient."""
    vlm = build("llava")
    model = torch.ao.quantization.quantize_dynamic(vlm.model, {nn.Linear}, dtype=torch.qint8)
    return VLM(model, vlm.processor, vlm.family)


def _packed() -> VLM:
    vlm = build("llava")
    for layer in vlm.layers:
        for name, module in list(layer.named_modules()):
            if isinstance(module, nn.Linear):
                owner, _, own = name.rpartition(".")
                setattr(layer.get_submodule(owner), own, PackedLinear(module))
    return VLM(vlm.model, vlm.processor, vlm.family)


ROWS = {
    "lora, PeftModel": lambda folder: _lora("PeftModel"),
    "lora, injected": lambda folder: _lora("injected"),
    "8bit": lambda folder: _bitsandbytes("8bit", folder),
    "4bit": lambda folder: _bitsandbytes("4bit", folder),
    "torchao int8": lambda folder: _torchao(),
    "dynamic int8": lambda folder: _dynamic(),
    "packed in buffers": lambda folder: _packed(),
}
METHODS = ("balancedit-full", "balancedit-span", "ft")


@pytest.fixture(scope="module", params=ROWS)
def vlm(request, tmp_path_factory):
    return ROWS[request.param](tmp_path_factory.mktemp("model"))


def bits(vlm: VLM) -> dict[str, torch.Tensor]:
    """Every number that the model holds."""
    held = [*vlm.model.named_parameters(), *vlm.model.named_buffers()]
    return {name: plain(tensor.detach()).clone() for name, tensor in held}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("role", ["", "-1.mlp"])
def test_an_edit_fires_is_undone_and_kept(vlm, method, role, tmp_path):
    model = EditedModel(vlm)
    before, far, hooked, held = logits(model, *_asked()), logits(model, *UNRELATED), hooks(vlm), bits(vlm)
    row = EDITORS[method]
    settings = {**row.settings, "site": role} if role else row.settings
    edit = model.edit(REQUEST, row.editor, **settings)
    answer = model.answer(*_asked())
    assert answer.text == REQUEST.answer
    edited = logits(model, *_asked())
    assert not torch.equal(edited, before)
    if edit.entry is not None:
        assert answer.decision.fired
        assert torch.equal(logits(model, *UNRELATED), far)
    model.save_pretrained(tmp_path)
    again = EditedModel.from_pretrained(vlm, tmp_path)
    assert torch.equal(logits(again, *_asked()), edited)
    assert torch.equal(logits(again, *UNRELATED), logits(model, *UNRELATED))
    again.codebook.close()
    model.remove(edit.id)
    assert torch.equal(logits(model, *_asked()), before)
    assert torch.equal(logits(model, *UNRELATED), far)
    assert hooks(vlm) == hooked
    after = bits(vlm)
    assert after.keys() == held.keys()
    assert all(torch.equal(after[name], held[name]) for name in held)


def test_merging_says_why_not(vlm):
    """Where the site's own weight is there, the edit is merged; else the error says what the layer is."""
    model = EditedModel(vlm)
    row = EDITORS["ft"]
    model.edit(REQUEST, "ft", **row.settings)
    site = vlm.site_module(vlm.default_site)
    if type(site) is nn.Linear and type(site.weight) is nn.Parameter:
        merged = VLM(model.merge(), vlm.processor, vlm.family)
        assert merged.answer([REQUEST.image], [REQUEST.question]) == [REQUEST.answer]
    else:
        with pytest.raises(
            InputError, match=r"merge: the weight at site .* cannot be had: (its layer is a|its weight is)"
        ):
            model.merge()


def _asked():
    return REQUEST.image, REQUEST.question


@cache
def _inputs(width: int) -> torch.Tensor:
    return torch.randn(5, width, generator=torch.Generator().manual_seed(0))


def test_the_gradient_through_packed_linears_is_that_of_the_plain_ones():
    """Of every linear of a decoder layer, against the weights that the packed numbers stand for."""
    from vledit.vlm.gradients import passing_gradients

    vlm = _packed()
    packed = [m for m in vlm.layers[-1].modules() if isinstance(m, PackedLinear)]
    assert len(packed) == 7
    for module in packed:
        x = _inputs(module.in_features).clone().requires_grad_()
        with passing_gradients(vlm, vlm.n_layers - 1):
            y = module(x)
        assert torch.equal(y, module.forward(x))
        y.square().sum().backward()
        weight = module.qweight.float() * module.scales
        reference = x.detach().clone().requires_grad_()
        nn.functional.linear(reference, weight, module.bias).square().sum().backward()
        torch.testing.assert_close(x.grad, reference.grad, rtol=1e-4, atol=1e-4)
    assert not any(module._forward_hooks for module in packed)
