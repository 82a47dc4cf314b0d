"""MEND's hypernetwork: maps the factors of an edit's gradient to the factors of the change.

Source: Mitchell et al., Fast Model Editing at Scale, ICLR 2022, Sec. 3 (Eq. 1–3); code eric-mitchell/mend.  It differs from
that code in three points: α is kept positive by a softplus and the change is subtracted (the code adds it, so it first ascends
the loss and has to learn the sign); statistics are kept per edited layer, in buffers that are saved; and the standard deviation
of a coordinate is bounded from below relative to the others, not by 1e-7, which is as large as some gradients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError

BLOCKS = 2
SMALLEST = 1e-3
"""A coordinate's spread counts as at least this share of the spreads' root mean square."""


class Statistics(nn.Module):
    """Running mean and spread of every coordinate of the vectors (N, d) that are shown to it (Welford; Chan et al., 1979)."""

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("squares", torch.zeros(dim))

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Takes in vectors (N, d)."""
        if not len(rows):
            return
        rows = rows.to(self.mean)
        mean, total = rows.mean(0), self.count + len(rows)
        shift = mean - self.mean
        self.squares += (rows - mean).pow(2).sum(0) + shift.pow(2) * (self.count * len(rows) / total)
        self.mean += shift * (len(rows) / total)
        self.count += len(rows)

    def spread(self) -> Tensor:
        """(d,) standard deviations, those of coordinates that hardly move bounded from below.  Raises: InputError."""
        if self.count < 2:
            raise InputError("mend: the statistics have seen fewer than two vectors; the fitting was not started.")
        spread = (self.squares / (self.count - 1)).sqrt()
        return spread.clamp(min=float(SMALLEST * spread.pow(2).mean().sqrt()))

    def forward(self, rows: Tensor) -> Tensor:
        """(N, d) → each coordinate minus its mean, over its spread."""
        return (rows.to(self.mean) - self.mean) / self.spread()


class Block(nn.Module):
    """z ← z + ReLU(s ⊙ (U V z + b) + o); s and o are those of the edited layer.  With U, b and o zero it is the identity."""

    def __init__(self, dim: int, rank: int, layers: int):
        super().__init__()
        self.U = nn.Parameter(torch.zeros(dim, rank))
        self.V = nn.Parameter(torch.randn(rank, dim) / math.sqrt(dim))
        self.b = nn.Parameter(torch.zeros(dim))
        self.s = nn.Parameter(torch.ones(layers, dim))
        self.o = nn.Parameter(torch.zeros(layers, dim))

    def forward(self, z: Tensor, layer: int) -> Tensor:
        """(N, d) → (N, d)."""
        inner = self.s[layer] * (z @ self.V.T @ self.U.T + self.b) + self.o[layer]
        # clamp passes the gradient on at 0, where all of it is at the start; relu does not, and U would never learn
        return z + inner.clamp(min=0)


class Shared(nn.Module):
    """g for all edited layers of one shape: [u; δ] → [u'; δ'], standardised vectors to vectors."""

    def __init__(self, inputs: int, outputs: int, rank: int, layers: int):
        super().__init__()
        self.inputs = inputs
        self.blocks = nn.ModuleList(Block(inputs + outputs, rank, layers) for _ in range(BLOCKS))

    def forward(self, u: Tensor, delta: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """(T, in), (T, out) → the same shapes."""
        z = torch.cat([u, delta], 1)
        for block in self.blocks:
            z = block(z, layer)
        return z[:, : self.inputs], z[:, self.inputs :]


class MendNetwork(nn.Module):
    """g, α and the statistics for a set of edited linear layers.

    Args:
        shapes: site → (in, out) of its linear layer. Sites of one shape share g, each with scales and shifts of its own.
        rank: of U and V.
        alpha: what α is at the start, at every site.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]], rank: int, alpha: float = 1e-4):
        super().__init__()
        self.sites = list(shapes)
        groups: dict[tuple[int, int], list[str]] = {}
        for site, shape in shapes.items():
            groups.setdefault(shape, []).append(site)
        self._place = {
            site: (_name(shape), number) for shape, some in groups.items() for number, site in enumerate(some)
        }
        self.shared = nn.ModuleDict({_name(shape): Shared(*shape, rank, len(some)) for shape, some in groups.items()})
        self.seen = nn.ModuleList(nn.ModuleList(Statistics(dim) for dim in shapes[site]) for site in self.sites)
        self.raw_alpha = nn.Parameter(torch.full((len(self.sites),), math.log(math.expm1(alpha))))

    def alpha(self, site: str) -> Tensor:
        """The positive step size of a site."""
        return F.softplus(self.raw_alpha[self.sites.index(site)])

    def note(self, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Takes an edit's factors into the statistics."""
        for site in self.sites:
            for statistics, rows in zip(self._statistics(site), factors[site], strict=True):
                statistics.update(rows)

    def _statistics(self, site: str) -> tuple[Statistics, Statistics]:
        of_u, of_delta = cast("nn.ModuleList", self.seen[self.sites.index(site)])
        return cast("Statistics", of_u), cast("Statistics", of_delta)

    def forward(self, site: str, u: Tensor, delta: Tensor, sizes_alone: bool = False) -> tuple[Tensor, Tensor]:
        """An edit's factors at a site, (T, in) and (T, out) → (u', −α δ'): the change of the weights is Σ −α δ' u'ᵀ.

        Args:
            sizes_alone: no gradient flows into g, only into α.
        """
        name, layer = self._place[site]
        of_u, of_delta = self._statistics(site)
        u, delta = self.shared[name](of_u(u), of_delta(delta), layer)
        if sizes_alone:
            u, delta = u.detach(), delta.detach()
        return u, -self.alpha(site) * delta


def _name(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"
