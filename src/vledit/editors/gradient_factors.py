"""The gradient of an edit's loss at linear layers, as factors: never as a matrix of the layer's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..codebook import Transformation
from ..vlm.base import VLM, Site, Trunk, transformed
from ..vlm.hooks import site_changed
from .fitting import margins

HALF_SCALE = 2.0**12
"""What the loss is multiplied by in float16, whose smallest numbers are larger than some gradients; divided out again."""


@dataclass(frozen=True)
class Factors:
    """An edit's gradient.

    Args:
        of: site → (u (T, in), δ (T, out)) float32: the weights' gradient is Σ_T δ uᵀ. T: tokens whose δ is not zero.
        loss: of the answer, in nats per token.
        margin: smallest lead of an answer token over its strongest rival, in logits; positive: the model says this already.
    """

    of: Mapping[str, tuple[Tensor, Tensor]]
    loss: float
    margin: float


def gradient_factors(
    vlm: VLM, trunk: Trunk, sites: Sequence[str], start: Mapping[str, Transformation] | None = None
) -> Factors:
    """Runs the layers above a trunk and back once.

    Args:
        trunk: of prompts with answers, at or below the lowest of the sites.
        start: site → what earlier edits do there; the gradient is that of the model with them.
    """
    encoded = trunk.encoded
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(site: str, x: Tensor, y: Tensor) -> Tensor:
        # what is added is zero, and its gradient is that of the layer's output
        zero = torch.zeros_like(y, requires_grad=True)
        seen[site] = (x.detach(), zero)
        return y + zero

    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for site in sites:
            stack.enter_context(site_changed(vlm, Site.parse(site), lambda x, y, site=site: watch(site, x, y)))
        for site, change in (start or {}).items():
            stack.enter_context(transformed(vlm, vlm.resolve_site(site), change))
        logits = vlm.head(trunk, positions=encoded.predict_mask).float()
        loss = F.cross_entropy(logits, encoded.targets)
        scale = HALF_SCALE if vlm.dtype == torch.float16 else 1.0
        gradients = torch.autograd.grad(loss * scale, [seen[site][1] for site in sites])
    found = {}
    for site, gradient in zip(sites, gradients, strict=True):
        u, delta = seen[site][0].flatten(0, -2).float(), gradient.flatten(0, -2).float() / scale
        kept = (delta != 0).any(1)
        found[site] = (u[kept], delta[kept])
    return Factors(found, float(loss.detach()), float(margins(logits.detach(), encoded.targets).min()))
