"""Changes of low rank at several sites, trained once and switched on for some requests (LoRA).

Source: Hu et al., LoRA, ICLR 2022.  They are never merged: where they do not act, the base's bits remain.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..codebook import SpanTransformation


class LowRank(nn.Module):
    """At each site a matrix that reads (r, in), random at the start, and one that writes (out, r), zero at the start.

    Args:
        shapes: site → (in, out).
        strength: what the product is multiplied by (LoRA's α / r).
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]], rank: int, strength: float = 2.0):
        super().__init__()
        self.sites, self.strength = list(shapes), strength
        self.reads = nn.ParameterList([torch.randn(rank, inputs) / inputs**0.5 for inputs, _ in shapes.values()])
        self.writes = nn.ParameterList([torch.zeros(out, rank) for _, out in shapes.values()])

    def changes(self) -> dict[str, SpanTransformation]:
        """Site → the change; gradients flow into both matrices."""
        pairs = zip(self.sites, self.writes, self.reads, strict=True)
        return {site: SpanTransformation(self.strength * write, read) for site, write, read in pairs}

    def fixed(self) -> dict[str, SpanTransformation]:
        """Site → the change, without gradients: always the same objects' values, for use after the training."""
        with torch.no_grad():
            return {
                site: SpanTransformation(*map(_plain, one.tensors().values())) for site, one in self.changes().items()
            }


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()
