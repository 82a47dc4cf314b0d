"""A short name for a loaded model, so that a codebook knows whether it was made for it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES = 64
"""Values read of every parameter; all of the parameter where it has no more."""

_VOLATILE = {
    "transformers_version",
    "dtype",
    "torch_dtype",
    "architectures",
    "use_cache",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "attn_implementation",
    "quantization_config",
    "id2label",
    "label2id",
}
"""Settings that say how a model is run or was saved, not what it computes."""


def fingerprint(model: nn.Module) -> str:
    """Hex digest (32 characters) of class, configuration, parameter names and shapes, and a sample of every parameter.

    Adapters count: their weights are parameters like others, and how strongly which of them act is digested, too.  So do
    packed layers, whose weights are no parameters.

    The samples are rounded to bfloat16, so that weights published in bfloat16 or float32 give the same name in
    whichever of the two they are loaded.  (Loading float32 weights in float16 rounds twice, which may give another.)
    """
    digest = hashlib.sha256(type(model).__name__.encode())
    digest.update(json.dumps(_settings(model), sort_keys=True, default=str).encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}:{tuple(parameter.shape)}".encode())
        digest.update(_sample(_in_memory(model, name, parameter)))
    for name, module in sorted(model.named_modules()):
        for part, tensor in _packed(module):
            digest.update(f"{name}.{part}:{tuple(tensor.shape)}".encode())
            digest.update(_sample(tensor))
        if (acting := _adapters(module)) is not None:
            digest.update(f"{name}:{json.dumps(acting, sort_keys=True, default=str)}".encode())
    return digest.hexdigest()[:32]


def _in_memory(model: nn.Module, name: str, parameter: Tensor) -> Tensor:
    """The parameter's values; a device map may have moved them out of memory, accelerate's hook knows where to."""
    if not parameter.is_meta:
        return parameter
    path, _, own = name.rpartition(".")
    hook: Any = getattr(model.get_submodule(path), "_hf_hook", None)
    return hook.weights_map[own]


def _settings(model: Any) -> Any:
    """The configuration's departures from its class's defaults: new settings of a new transformers do not show."""
    config = getattr(model, "config", None)
    return _steady(config.to_diff_dict()) if config is not None else None


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _steady(v) for k, v in value.items() if k not in _VOLATILE and not str(k).startswith("_")}
    if isinstance(value, list | tuple):
        return [_steady(v) for v in value]
    return value


def _packed(module: Any) -> list[tuple[str, Tensor]]:
    """The weights of a layer that holds no parameters: given by a method (dynamic int8), or packed in buffers (GPTQ, AWQ)."""
    if not isinstance(getattr(module, "in_features", None), int) or next(module.parameters(), None) is not None:
        return []
    weight: Any = getattr(module, "weight", None)
    if callable(weight):
        given: Any = weight()
        return [("weight", given)]
    return sorted(module.named_buffers(recurse=False))


def _adapters(module: Any) -> Any:
    """Of a layer with adapters (PEFT): which of them act, and how strongly; None for other layers."""
    scaling, active = getattr(module, "scaling", None), getattr(module, "active_adapters", None)
    if not isinstance(scaling, dict) or not isinstance(active, list | tuple):
        return None
    merged = list(getattr(module, "merged_adapters", ()))
    return {"active": {name: scaling.get(name) for name in active}, "off": module.disable_adapters, "merged": merged}


def plain(tensor: Any) -> Tensor:
    """The values of a tensor of any kind: those of a quantised one or of one that is spread over devices, put together."""
    if hasattr(tensor, "full_tensor"):  # DTensor: the parts of all ranks
        return tensor.full_tensor()
    if getattr(tensor, "is_quantized", False) or hasattr(tensor, "__tensor_flatten__"):
        return tensor.dequantize()
    return tensor


def _sample(parameter: Tensor) -> bytes:
    flat = plain(parameter.detach()).reshape(-1)
    count = min(SAMPLES, flat.numel())
    index = torch.arange(count, device=flat.device) * flat.numel() // max(count, 1)
    rounded = flat[index].to(torch.bfloat16).cpu().view(torch.int16)
    return rounded.numpy().tobytes()
