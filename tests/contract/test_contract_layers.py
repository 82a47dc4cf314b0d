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


def _lora(form: str, target: str | list[str] = "all-linear") -> VLM:
    peft = pytest.importorskip("peft", reason="needs peft: pip install 'vledit[peft]'")
    vlm = build("llava")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, target_modules=target, init_lora_weights=False)
    put_in = peft.get_peft_model if form == "PeftModel" else lambda m, c: peft.inject_adapter_in_model(c, m)
    return VLM(put_in(vlm.model, config), vlm.processor, vlm.family)


def _bitsandbytes(kind: str, folder) -> VLM:
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'vledit[quantization]'")
    vlm = build("minigpt4", **WIDTHS)
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return loading.load_vlm(folder, quantization=kind)


def _torchao(config: str) -> VLM:
    reason = "needs torchao: pip install 'vledit[torchao]'"
    quantization = pytest.importorskip("torchao.quantization", reason=reason)
    vlm = build("llava", **WIDTHS)
    linears = lambda module, name: isinstance(module, nn.Linear)  # noqa: E731
    quantization.quantize_(vlm.model, getattr(quantization, config)(), filter_fn=linears)
    return VLM(vlm.model, vlm.processor, vlm.family)


def _hqq() -> VLM:
    """Half-quadratic quantization to 4 bits: packed numbers in `W_q`, scales in a dictionary, no `weight`."""
    hqq = pytest.importorskip("hqq.core.quantize", reason="needs hqq: pip install 'vledit[hqq]'")
    config = hqq.BaseQuantizeConfig(nbits=4, group_size=64, axis=1)
    return _with_linears(lambda one: hqq.HQQLinear(one, config, compute_dtype=torch.float32, device="cpu"))


def _compressed(scheme: str) -> VLM:
    """A checkpoint as llm-compressor writes it (FP8; GPTQ and AWQ as `W4A16`), which compressed-tensors packs and unpacks."""
    reason = "needs compressed-tensors: pip install 'vledit[compressed]'"
    quantization = pytest.importorskip("compressed_tensors.quantization", reason=reason)
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization.utils import calculate_qparams

    vlm = build("llava", **WIDTHS)
    preset = quantization.preset_name_to_scheme(scheme, ["Linear"])
    if preset.weights.group_size:
        preset.weights.group_size = 32
    config = quantization.QuantizationConfig(
        config_groups={"linears": preset}, ignore=["lm_head", "re:.*(vision|projector).*"]
    )
    quantization.apply_quantization_config(vlm.model, config, run_compressed=False)
    for module in vlm.model.modules():
        if getattr(module, "quantization_scheme", None) is None:
            continue
        weight, of = module.weight.detach(), module.quantization_scheme.weights
        groups = weight.reshape(len(weight), -1, of.group_size or weight.shape[1])
        scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), of)
        module.weight_scale.data.copy_(scale)
        module.weight_zero_point.data.copy_(zero)
    ModelCompressor.from_pretrained_model(vlm.model).compress_model(vlm.model)
    return VLM(vlm.model, vlm.processor, vlm.family)


def _float8(monkeypatch) -> VLM:
    """transformers' own class of FP8 linears with scales by blocks; its kernel, which needs a GPU, in plain torch."""
    from transformers.integrations import finegrained_fp8

    def kernel(x, weight, scales, block_size, bias, *_):
        wide = scales.repeat_interleave(block_size[0], 0).repeat_interleave(block_size[1], 1)
        return nn.functional.linear(x, (weight.float() * wide).to(x.dtype), bias)

    monkeypatch.setattr(finegrained_fp8, "fp8_linear", kernel)

    def packed(linear: nn.Linear) -> nn.Module:
        out, inputs = linear.weight.shape
        made = finegrained_fp8.FP8Linear(inputs, out, (32, 32))
        blocks = linear.weight.detach().reshape(out // 32, 32, inputs // 32, 32)
        made.weight_scale_inv.data = scales = blocks.abs().amax((1, 3)) / 448
        made.weight.data = (blocks / scales[:, None, :, None]).reshape(out, inputs).to(torch.float8_e4m3fn)
        return made

    return _with_linears(packed)


def _parallel() -> VLM:
    """torch's tensor parallelism: columns of what comes first, rows of what comes last, in a group of one process."""
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    if not distributed.is_initialized():
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    vlm = build("llava", **WIDTHS)
    columns = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"]
    plan = {name: ColwiseParallel() for name in columns}
    plan |= {name: RowwiseParallel() for name in ("self_attn.o_proj", "mlp.down_proj")}
    for layer in vlm.layers:
        parallelize_module(layer, mesh, plan)
    return VLM(vlm.model, vlm.processor, vlm.family)


def _dynamic() -> VLM:
    """torch's own: every linear's weight is a method, and none passes a gradient."""
    vlm = build("llava")
    model = torch.ao.quantization.quantize_dynamic(vlm.model, {nn.Linear}, dtype=torch.qint8)
    return VLM(model, vlm.processor, vlm.family)


def _with_linears(replaced) -> VLM:
    """A tiny LLaVA whose decoder layers have something in the place of each linear."""
    vlm = build("llava", **WIDTHS)
    for layer in vlm.layers:
        for name, module in list(layer.named_modules()):
            if isinstance(module, nn.Linear):
                owner, _, own = name.rpartition(".")
                setattr(layer.get_submodule(owner), own, replaced(module))
    return VLM(vlm.model, vlm.processor, vlm.family)


ROWS = {
    "lora, PeftModel": lambda folder, patch: _lora("PeftModel"),
    "lora, injected": lambda folder, patch: _lora("injected"),
    "lora, attention only": lambda folder, patch: _lora("PeftModel", ["q_proj", "v_proj"]),
    "8bit": lambda folder, patch: _bitsandbytes("8bit", folder),
    "4bit": lambda folder, patch: _bitsandbytes("4bit", folder),
    "torchao int8": lambda folder, patch: _torchao("Int8WeightOnlyConfig"),
    "torchao float8": lambda folder, patch: _torchao("Float8WeightOnlyConfig"),
    "hqq": lambda folder, patch: _hqq(),
    "compressed-tensors FP8": lambda folder, patch: _compressed("FP8_DYNAMIC"),
    "compressed-tensors W4A16": lambda folder, patch: _compressed("W4A16"),
    "float8 by blocks": lambda folder, patch: _float8(patch),
    "dynamic int8": lambda folder, patch: _dynamic(),
    "packed in buffers": lambda folder, patch: _with_linears(PackedLinear),
    "tensor parallel": lambda folder, patch: _parallel(),
}
SITES = ("", "-1.mlp")
METHODS = ("balancedit-full", "balancedit-span", "ft")


@pytest.fixture(scope="module", params=ROWS)
def vlm(request, tmp_path_factory):
    if request.param == "tensor parallel" and not request.config.getoption("--whole", default=False):
        pytest.skip("slow, and held by `test_tensor_parallel` too: run by `make contract`")
    with pytest.MonkeyPatch.context() as patch:
        yield ROWS[request.param](tmp_path_factory.mktemp("model"), patch)


def bits(vlm: VLM) -> dict[str, torch.Tensor]:
    """Every number that the model holds."""
    held = [*vlm.model.named_parameters(), *vlm.model.named_buffers()]
    return {name: plain(tensor.detach()).clone() for name, tensor in held}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("role", SITES)
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
            InputError, match=r"merge: the weight at site .* cannot be had: (its layer is a|its weight is|it is spread)"
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

    vlm = _with_linears(PackedLinear)
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
