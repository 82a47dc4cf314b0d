"""What hooks and tails ask of a model, so that they need not know `VLM`, which is built on them."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from .encoded import Encoded, Trunk
from .places import Place
from .site import Site


class Layered(Protocol):
    """A model whose decoder layers can be run one by one; `VLM` says what each of these does."""

    lock: Any
    anatomy: Any

    @property
    def layers(self) -> nn.ModuleList: ...

    @property
    def n_layers(self) -> int: ...

    def resolve_site(self, site: Site | str) -> Site: ...

    def site_place(self, site: Site | str) -> Place: ...

    def trunk(self, encoded: Encoded, layer: int) -> Trunk: ...

    def raise_trunk(self, trunk: Trunk, layer: int) -> Trunk: ...

    def run_layers(self, trunk: Trunk, hidden: Tensor, start: int, stop: int | None = None) -> Tensor: ...

    def after_projection(self, logits: Tensor) -> Tensor: ...
