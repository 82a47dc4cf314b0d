"""Low-rank adapters (LoRA, Hu et al. 2021) on the language model's linear layers, for training only.

What is shipped are the factors; assembling the model adds them to the base weights once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoRALinear(nn.Module):
    """y = W x + (scale · B A) x with W frozen; A, B in float32, computed in W's dtype."""

    def __init__(self, base: nn.Linear, rank: int, scale: float):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.empty(rank, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = scale
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        dtype = self.base.weight.dtype
        low = F.linear(x, self.a.to(dtype))
        return F.linear(x, self.base.weight, self.base.bias) + F.linear(low, (self.b * self.scale).to(dtype))


def add_lora(decoder: nn.Module, rank: int, scale: float) -> dict[str, LoRALinear]:
    """Wraps every target linear of every decoder layer in place; returns them by "<layer>.<module>"."""
    wrapped: dict[str, LoRALinear] = {}
    for index, layer in enumerate(decoder.layers):  # type: ignore[arg-type]
        for block in (layer.self_attn, layer.mlp):
            for name in TARGETS:
                if hasattr(block, name):
                    adapter = LoRALinear(getattr(block, name), rank, scale)
                    setattr(block, name, adapter)
                    wrapped[f"{index}.{name}"] = adapter
    return wrapped


def merged_weight(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """W + scale · B A, summed in float64 so that every machine rounds to the same bits; dtype of `weight`."""
    return (weight.double() + scale * (b.double() @ a.double())).to(weight.dtype)
