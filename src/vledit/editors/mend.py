"""MEND: a hypernetwork turns the gradient of an edit's answer into the edit; always on.

Source: Mitchell et al., Fast Model Editing at Scale, ICLR 2022; for vision-language models Cheng et al. (MMEdit), EMNLP 2023,
and BalancEdit, App. E.  An edit costs one pass forward and back through the last layers.  It is kept as its factors, T vectors
per edited layer, one for each token that the gradient comes from; no matrix of a layer's shape is formed.  Each edit is
made on the base, and edits add up, as the paper's batches of edits do: any of them can be removed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import nn

from ..codebook import SpanTransformation
from ..data.case import EditRequest
from ..errors import InputError
from ..vlm.base import VLM, Trunk, transformed
from ..vlm.places import is_gated, roles
from ..vlm.site import BLOCK
from ..vlm.surroundings import lasting
from .base import Edit, EditorConfig, setting
from .fitting import margins
from .gradient_factors import Factors, gradient_factors
from .making import opened, reported
from .mend_network import MendNetwork
from .training import artefact
from .training.losses import answer_loss
from .training.settings import FitSettings

if TYPE_CHECKING:
    from ..codebook import Transformation
    from .training.fitting import Fitting

LAYERS = 3
"""The last layers, whose MLPs are edited where no sites are named (EasyEdit, VLKEB and De-VQA do so on every backbone)."""


@dataclass(frozen=True)
class MendConfig(EditorConfig):
    """Settings of an edit."""

    fitted: str = setting("", "folder of a fitting (`vledit fit --editor mend`); empty: the usual place")
    scale: float = setting(1.0, "factor on the learnt step sizes")

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise InputError(f"scale: {self.scale} given; it must be positive.")


@dataclass(frozen=True)
class MendFit(FitSettings):
    """Settings of the fitting; the defaults are for `pocket`, those of the papers are in `PUBLISHED`."""

    steps: int = setting(1500, "optimiser steps, each on one fresh edit of the base")
    sites: str = setting(
        "", "edited layers, e.g. '-1.mlp.up,-1.mlp.out'; empty: all MLP linears of the last three layers"
    )
    rank: int = setting(64, "rank of the hypernetwork's matrices")
    learning_rate: float = setting(1e-4, "Adam's learning rate for the hypernetwork")
    alpha_rate: float = setting(1e-2, "Adam's learning rate for the step sizes (before the softplus)")
    alpha: float = setting(1e-4, "step size of every edited layer at the start")
    edit_weight: float = setting(0.1, "weight of the answer's loss on rephrases, and on other pictures")
    locality_weight: float = setting(1.0, "weight of the divergence from the base out of scope")
    locality: str = setting("text,random_image", "out-of-scope cells that are trained on, one probe of each per step")
    clip: float = setting(100.0, "maximum norm of the gradient")
    warm_up: int = setting(20, "number of edits whose gradients initialise the statistics before the first step")
    per_cell: int = setting(1, "number of probes of each kind per edit")
    as_released: bool = setting(
        False, "compute the change without gradient, as one released fork does: then only the step sizes are trained"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rank", "warm_up"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)} given; at least 1 is needed.")
        for name in ("learning_rate", "alpha_rate", "alpha", "clip"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}: {getattr(self, name)} given; it must be positive.")

    def plan(self) -> list[Term]:
        """What a step asks after its edit."""
        found = [Term(cell, self.edit_weight) for cell in ("generality/text", "generality/image")]
        names = [name.strip() for name in self.locality.split(",") if name.strip()]
        return found + [Term(f"locality/{name}", self.locality_weight) for name in names]


class Term(NamedTuple):
    """One probe of a cell, drawn at each step: in scope the new answer's loss, out of scope the divergence from the base.

    Args:
        forced: what the probe is forced to say; see `TrainingCase.frozen`.
    """

    cell: str
    weight: float
    forced: str = "own"

    @property
    def in_scope(self) -> bool:
        return self.cell.startswith("generality/")


_EASYEDIT: dict[str, Any] = {
    "rank": 1920,
    "learning_rate": 1e-6,
    "alpha_rate": 1e-4,
    "alpha": 1e-4,
    "edit_weight": 0.1,
    "locality_weight": 1.0,
    "clip": 100.0,
    "batch": 2,
}
"""zjunlp/EasyEdit and VLKEB, hparams/TRAINING/MEND (their step sizes are not behind a softplus; batch: their accumulation)."""

_IN_OUT = "-3.mlp.up,-3.mlp.out,-2.mlp.up,-2.mlp.out,-1.mlp.up,-1.mlp.out"
PUBLISHED: dict[str, dict[str, Any]] = {
    "blip2": {**_EASYEDIT, "steps": 50_000, "sites": _IN_OUT},
    "minigpt4": {**_EASYEDIT, "steps": 30_000, "sites": _IN_OUT},
    "qwen2_vl": {**_EASYEDIT, "steps": 50_000, "sites": _IN_OUT},
}
"""Family → settings of the fitting as released: BLIP-2 fc1, fc2; MiniGPT-4, Qwen2-VL up, down; of the last three layers."""


class Mend:
    """Source: Mitchell et al., ICLR 2022."""

    name: ClassVar[str] = "mend"
    gated: ClassVar[bool] = False
    adds_up: ClassVar[bool] = True
    Config: ClassVar[type[EditorConfig]] = MendConfig
    FitConfig: ClassVar[type[MendFit]] = MendFit

    def __init__(self, config: MendConfig | None = None):
        self.config = config or MendConfig()
        self._networks: dict[tuple[str, str], MendNetwork] = {}

    def edit(self, vlm: VLM, request: EditRequest, memory: Any = None) -> Edit:
        """Makes the edit in one pass forward and back.

        Where the base gives the answer already, the change is of rank 0: the gradient would be next to zero, but it is
        standardised before it is used, and something would be changed for nothing.  Whether the answer was learnt is in the
        report; an edit that was not is returned as well, so that it counts as what it is when editors are compared.
        """
        began = time.perf_counter()
        network = self.network(vlm)
        request = opened(request)
        image = request.image
        trunk = vlm.trunk(vlm.encode([image], [request.question], [request.answer]), lowest(vlm, network.sites))
        found = gradient_factors(vlm, trunk, network.sites)
        with torch.no_grad():
            made = no_change(vlm, network.sites) if found.margin > 0 else changes(network, found, self.config.scale)
            loss, margin = answered(vlm, trunk, made)
        nbytes = sum(change.nbytes for change in made.values())
        return reported(self.name, request, began, int(found.margin <= 0), loss, margin, nbytes, weights=made)

    def network(self, vlm: VLM) -> MendNetwork:
        """The fitted hypernetwork for a model, read once.  Raises: see `artefact.find`."""
        key = (vlm.fingerprint, str(vlm.device))
        if key not in self._networks:
            found = artefact.find(self.name, vlm, self.config.fitted)
            network = MendNetwork(shapes(vlm, found.settings["sites"]), found.settings["rank"]).to(vlm.device)
            network.load_state_dict(dict(found.tensors))
            self._networks[key] = network.eval().requires_grad_(False)
        return self._networks[key]

    @classmethod
    @lasting
    def fit(cls, fitting: Fitting) -> Path:
        """Fits the hypernetwork to a model.  Returns the folder.  Raises: see `training.loop.fit`."""
        from .mend_fit import MendJob

        return MendJob.of(fitting).run(cls.name)

    @classmethod
    def published(cls, family: str) -> Mapping[str, Any]:
        """The released settings of the fitting for a model family; empty where none were released."""
        return PUBLISHED.get(family, {})


def shapes(vlm: VLM, sites: str = "", layers: int = LAYERS) -> dict[str, tuple[int, int]]:
    """Site → (in, out) of what is edited, lowest layer first.

    Args:
        sites: separated by commas; empty: all MLP linears of the last `layers` layers.

    Raises: InputError for sites that the model does not have.
    """
    if sites:
        chosen = [vlm.resolve_site(text) for text in sites.split(",")]
    else:
        last = range(max(vlm.n_layers - layers, 0), vlm.n_layers)
        chosen = [vlm.resolve_site(f"{layer}.{role}") for layer in last for role in _linears(vlm.layers[layer])]
    return {str(site): (vlm.site_shape(site)[1], vlm.site_shape(site)[0]) for site in sorted(set(chosen))}


def _linears(layer: nn.Module) -> list[str]:
    """The roles of an MLP's linears, each linear once; where it has none (experts), the whole block, to which is added."""
    there = [role for role in ("mlp.in", "mlp.up", "mlp.out") if role in roles(layer)]
    if {"mlp.in", "mlp.up"} <= set(there) and not is_gated(layer):
        there.remove("mlp.in")
    return there or [BLOCK]


def lowest(vlm: VLM, sites: list[str]) -> int:
    """The lowest decoder layer of the sites."""
    return min(vlm.resolve_site(site).layer for site in sites)


def changes(
    network: MendNetwork, found: Factors, scale: float = 1.0, sizes_alone: bool = False
) -> dict[str, SpanTransformation]:
    """Site → the change that an edit's gradient becomes; gradients flow into the network (`sizes_alone`: into α alone)."""
    made = {}
    for site, (u, delta) in found.of.items():
        inputs, directions = network(site, u, delta, sizes_alone)
        # laid out as they will be when they are read from a file: with another layout products differ in the last bits
        made[site] = SpanTransformation((directions * scale).T.contiguous(), inputs.contiguous())
    return made


def no_change(vlm: VLM, sites: list[str]) -> dict[str, SpanTransformation]:
    """Site → a change of rank 0."""
    made = {}
    for site in sites:
        out, inputs = vlm.site_shape(site)
        zeros = (
            torch.zeros(out, 0, dtype=torch.float32, device=vlm.device),
            torch.zeros(0, inputs, dtype=torch.float32, device=vlm.device),
        )
        made[site] = SpanTransformation(*zeros)
    return made


def hidden_with(vlm: VLM, trunk: Trunk, acting: Mapping[str, Transformation]) -> torch.Tensor:
    """(n, H): what enters the vocabulary projection to predict the trunk's answers, where these changes act on all rows;
    gradients flow into them."""
    with ExitStack() as stack:
        for site, change in acting.items():
            stack.enter_context(transformed(vlm, vlm.resolve_site(site), change))
        hidden = vlm.run_layers(trunk, trunk.hidden, trunk.layer)
        return vlm.anatomy.finish(hidden[trunk.encoded.predict_mask])


def answered(vlm: VLM, trunk: Trunk, acting: Mapping[str, Transformation]) -> tuple[float, float]:
    """Loss and margin of the trunk's answers where these changes act."""
    logits = vlm.after_projection(vlm.anatomy.lm_head(hidden_with(vlm, trunk, acting))).float()
    targets = trunk.encoded.targets
    return float(answer_loss(logits, targets)), float(margins(logits, targets).min())
