"""LiveEdit: a fitted generator makes low-rank experts of an edit; visual features filter them, textual ones weigh them.

Source: Chen et al., Lifelong Knowledge Editing for Vision Language Models with Low-Rank Mixture-of-Experts, CVPR 2025, Sec. 3.
Departures from the released code, each for a defect of it: features are read from the prompt alone; a prompt without a picture
has a learned token in its place, so that facts without one can be edited; what is chosen in the prompt's pass is kept for the
whole answer; rows of a batch do not touch one another.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.case import EditRequest
from ..errors import InputError
from ..vlm.acting import Read, layers_acting
from ..vlm.base import VLM, Encoded, Trunk
from ..vlm.surroundings import lasting
from .adversarial_fit import AdversarialFit
from .base import Edit, EditorConfig, Payload, setting
from .effect import Effect, decided
from .fitted_memory import FittedMemory
from .fitting import margins
from .making import opened, reported
from .training.settings import FitSettings

if TYPE_CHECKING:
    from .training.fitting import Fitting

DEPTH = 2 / 3
"""21 of 32 layers in the paper."""


@dataclass(frozen=True)
class LiveEditConfig(EditorConfig):
    """Settings of the edits."""

    fitted: str = setting("", "folder of a fitting (`vledit fit --editor liveedit`); empty: the usual place")


@dataclass(frozen=True)
class LiveEditFit(AdversarialFit):
    """Settings of the fitting; the defaults are for `pocket`, those of the paper are in `LiveEdit.published`."""

    steps: int = setting(800, "optimiser steps, each on the requests of some training edits and the routing among them")
    batch: int = setting(6, "training edits per step")
    cases: int = setting(300, "how many edits of the training split, spread evenly; 0: all")
    per_cell: int = setting(1, "number of probes of each kind per edit")
    layer: int = setting(-1, "decoder layer after which experts act; -1: two thirds of the way up")
    width: int = setting(256, "length of the feature vectors")
    heads: int = setting(4, "attention heads")
    queries: int = setting(4, "learned queries of each extractor")
    rank: int = setting(4, "neurons of an expert")
    learning_rate: float = setting(5e-4, "Adam's learning rate")
    routing: int = setting(32, "edits that the routing terms compare in a step of their own")
    routing_steps: int = setting(
        4, "steps on the routing terms alone before each step that runs the model; 0: they are part of that step"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.routing_steps < 0:
            raise InputError(f"routing_steps: {self.routing_steps} given; it must not be negative.")
        for name in ("width", "heads", "queries", "rank", "routing"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)} given; at least 1 is needed.")
        if self.width % self.heads:
            raise InputError(f"heads: {self.heads} given; it must divide width, {self.width}.")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate: {self.learning_rate} given; it must be positive.")


class Features(NamedTuple):
    """φ, ψ and φ of the sentinel, each (queries, width), of one prompt."""

    phi: Tensor
    psi: Tensor
    sentinel: Tensor


class Extractor(nn.Module):
    """Learned queries look at the question; what they find looks at the picture (φ); others look at the question alone (ψ)."""

    def __init__(self, hidden: int, width: int, heads: int, queries: int):
        super().__init__()
        self.norm, self.project = nn.LayerNorm(hidden), nn.Linear(hidden, width)
        self.asks = nn.Parameter(torch.randn(2, queries, width))
        self.asked, self.looked, self.told = (nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(3))

    def forward(self, question: Tensor, visual: Tensor, pseudo: Tensor) -> Features:
        """(n_q, H), (n_v, H) or no rows, (n_s, H) → the features."""
        words, seen, none = (self.project(self.norm(one))[None] for one in (question, visual, pseudo))
        matters = self.asks[:1] + self.asked(self.asks[:1], words, words)[0]
        psi = self.told(self.asks[1:], words, words)[0]
        phi, sentinel = (self.looked(matters, one, one)[0] for one in (seen, none))
        return Features(phi[0], psi[0], sentinel[0])

    def many(self, questions: Sequence[Tensor], visuals: Sequence[Tensor], pseudo: Tensor) -> Features:
        """As `forward` for each of several prompts, in one pass: each feature (N, queries, width).  For training."""
        (words, no_words), (seen, not_seen) = (self._padded(some) for some in (questions, visuals))
        count = len(questions)
        none = self.project(self.norm(pseudo))[None].expand(count, -1, -1)
        first, last = (self.asks[n : n + 1].expand(count, -1, -1) for n in (0, 1))
        matters = first + self.asked(first, words, words, key_padding_mask=no_words)[0]
        psi = self.told(last, words, words, key_padding_mask=no_words)[0]
        phi = self.looked(matters, seen, seen, key_padding_mask=not_seen)[0]
        return Features(phi, psi, self.looked(matters, none, none)[0])

    def _padded(self, some: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(N, T, width) and (N, T) bool, true where there is nothing."""
        rows = nn.utils.rnn.pad_sequence(list(some), batch_first=True)
        lengths = torch.tensor([len(one) for one in some], device=rows.device)
        return self.project(self.norm(rows)), torch.arange(rows.shape[1], device=rows.device) >= lengths[:, None]


class LiveEditNetwork(nn.Module):
    """What is fitted: one extractor for edits, one for requests, the generator, the sentinel's pseudo visual tokens.

    Attributes:
        size: root mean square of what leaves the site; what experts write is measured in it.
    """

    size: Tensor

    def __init__(self, hidden: int, settings: Mapping[str, Any]):
        super().__init__()
        width, heads, queries, rank = (int(settings[name]) for name in ("width", "heads", "queries", "rank"))
        self.of_edit, self.of_request = (Extractor(hidden, width, heads, queries) for _ in range(2))
        self.sentinel = nn.Parameter(torch.randn(queries, hidden))
        self.blind = nn.Parameter(torch.randn(1, hidden))
        self.norm, self.project = nn.LayerNorm(hidden), nn.Linear(hidden, width)
        self.rows = nn.Parameter(torch.randn(2, rank, width))
        self.attend = nn.ModuleList([nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(2)])
        self.out = nn.ModuleList([nn.Linear(width, hidden) for _ in range(2)])
        self.register_buffer("size", torch.ones(()))
        self.scale = 1 / (5 * rank**0.5)
        self.width = width

    def features(self, extractor: Extractor, tokens: Tensor, question: Tensor, visual: Tensor) -> Features:
        """tokens (T, H) of one row with its masks (T,) → its features; without a picture those of the learned token."""
        tokens = tokens.float()
        seen = tokens[visual] if bool(visual.any()) else self.blind
        return extractor(tokens[question], seen, self.sentinel)

    def expert(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(T, H) of an edit's prompt and answer → U and V, (rank, H) each."""
        given = self.project(self.norm(tokens.float()))[None]
        made = [
            out(rows[None] + attend(rows[None], given, given)[0])[0]
            for rows, attend, out in zip(self.rows, self.attend, self.out, strict=True)
        ]
        return made[0] * self.scale, made[1] * (self.scale * self.size)


def affinity(mine: Tensor, theirs: Tensor) -> Tensor:
    """(q, d), (..., q, d) → (...): mean over the queries of ⟨·, ·⟩ / √d."""
    return (mine * theirs).sum(-1).mean(-1) / mine.shape[-1] ** 0.5


def fused(scores: Sequence[float], texts: Sequence[float], sentinel: float) -> dict[int, float]:
    """Expert → its weight: of those whose visual score exceeds the sentinel's, softmax(σ)·sigmoid(σ) of their textual scores."""
    kept = [number for number, score in enumerate(scores) if score > sentinel]
    if not kept:
        return {}
    sigma = torch.tensor([texts[number] for number in kept], dtype=torch.float64)
    return dict(zip(kept, (sigma.softmax(0) * sigma.sigmoid()).tolist(), strict=True))


class Experts:
    """h ← h + Σ w relu(LN(h) Uᵀ) V at every token."""

    def __init__(self, parts: Sequence[tuple[float | Tensor, Tensor, Tensor]]):
        self.reads = torch.cat([read for _, read, _ in parts])
        self.writes = torch.cat([weight * write for weight, _, write in parts])

    def apply(self, x: Tensor, y: Tensor) -> Tensor:
        h = y.to(self.reads.dtype)
        return (h + F.layer_norm(h, h.shape[-1:]).matmul(self.reads.T).relu() @ self.writes).to(y.dtype)


class LiveEdit:
    """Source: Chen et al., CVPR 2025."""

    name: ClassVar[str] = "liveedit"
    gated: ClassVar[bool] = True
    Config: ClassVar[type[EditorConfig]] = LiveEditConfig
    FitConfig: ClassVar[type[FitSettings]] = LiveEditFit

    def __init__(self, config: LiveEditConfig | None = None):
        self.config = config or LiveEditConfig()

    def memory(self, vlm: VLM) -> LiveEditMemory:
        """An empty memory."""
        return LiveEditMemory(vlm, self.name, asdict(self.config))

    def edit(self, vlm: VLM, request: EditRequest, memory: Any = None) -> Edit:
        """Makes the edit in one pass; nothing is trained.  Whether the model gives the answer with the expert is in the report.

        Raises: InputError for an unfit question or answer.  MissingDataError where nothing was fitted to this model.
        """
        began = time.perf_counter()
        held = memory if isinstance(memory, LiveEditMemory) else self.memory(vlm)
        network, site = held.fitted_network()
        request = opened(request)
        image = request.image
        trunk = vlm.trunk(vlm.encode([image], [request.question], [request.answer]), vlm.resolve_site(site).layer)
        with torch.inference_mode(False), torch.no_grad():
            encoded, tokens = trunk.encoded, vlm.site_output(trunk, site)[0]
            features, (read, write) = edit_of(network, tokens, encoded)
            asked = network.features(network.of_request, tokens, encoded.question_mask[0], encoded.visual_mask[0])
            own = Experts([(float(affinity(asked.psi, features.psi).sigmoid()), read, write)])
            loss, lead = answered(vlm, trunk, site, own)
        tensors = {"phi": features.phi, "psi": features.psi, "read": read, "write": write}
        meta = {"site": site, "settings": dict(held.settings)}
        payload = Payload({name: one.detach().clone() for name, one in tensors.items()}, meta)
        return reported(self.name, request, began, 0, loss, lead, payload.nbytes, payload=payload)

    @classmethod
    @lasting
    def fit(cls, fitting: Fitting) -> Path:
        """Fits extractors, generator and sentinel.  Returns the folder.  Raises: see `training.loop.fit`."""
        from .liveedit_fit import LiveEditJob

        return LiveEditJob.of(fitting).run(cls.name)

    @classmethod
    def published(cls, family: str) -> dict[str, Any]:
        """The released settings of the fitting; empty for other families."""
        known = family in ("blip2", "minigpt4", "llava")
        found = {"layer": 21, "width": 1024, "heads": 8, "queries": 4, "rank": 4, "learning_rate": 1e-4, "batch": 8}
        return found if known else {}


def edit_of(
    network: LiveEditNetwork, tokens: Tensor, encoded: Encoded, row: int = 0
) -> tuple[Features, tuple[Tensor, Tensor]]:
    """An edit's features, of its prompt, and its expert, of prompt and answer; tokens (T, H), of that row of the batch."""
    question, visual, answer = (mask[row] for mask in (encoded.question_mask, encoded.visual_mask, encoded.answer_mask))
    return network.features(network.of_edit, tokens, question, visual), network.expert(
        tokens[visual | question | answer]
    )


def answered(vlm: VLM, trunk: Trunk, site: str, acting: Any) -> tuple[float, float]:
    """Loss and margin of the trunk's answers where this acts on all rows."""
    encoded = trunk.encoded
    with layers_acting(vlm, [{site: acting}] * len(trunk), encoded):
        logits = vlm.head(trunk, positions=encoded.predict_mask).float()
    return float(F.cross_entropy(logits, encoded.targets)), float(margins(logits, encoded.targets).min())


class LiveEditMemory(FittedMemory):
    """Experts with their features, and what is fitted."""

    when: ClassVar[str] = "prefill"

    def opened(self) -> None:
        tensors, settings = dict(self.part.tensors), dict(self.part.settings)
        network = LiveEditNetwork(tensors["sentinel"].shape[1], settings)
        network.load_state_dict(tensors)
        self.network = network.float().to(self.vlm.device).eval().requires_grad_(False)
        self.site = site_of(self.vlm, int(settings["layer"]))

    def fitted_network(self) -> tuple[LiveEditNetwork, str]:
        """What is fitted, and the site.  Raises: see `artefact.find`."""
        assert self.part.editor == self.editor
        return self.network, self.site

    def reads(self) -> tuple[Read, ...]:
        return (Read(self.fitted_network()[1], self._seen, output=True, name="features"),)

    def points(self) -> tuple[str, ...]:
        return (self.fitted_network()[1],)

    def _seen(self, x: Tensor, encoded: Encoded) -> Tensor:
        """(B, 3, queries, width): φ, ψ and the sentinel's φ of each row."""
        network, _ = self.fitted_network()
        rows = zip(x, encoded.question_mask, encoded.visual_mask, strict=True)
        return torch.stack([torch.stack(network.features(network.of_request, *row)) for row in rows])

    def prefill_effects(self, seen: Mapping[tuple[str, bool, str], Tensor], rows: int) -> list[Effect | None]:
        site = self.fitted_network()[1]
        return [self._effect(Features(*row), site) for row in seen[site, True, "features"]]

    def _effect(self, asked: Features, site: str) -> Effect:
        active = self.active()
        tensors = [{n: t.to(self.vlm.device) for n, t in one.payload.tensors.items()} for one in active]
        visual = [float(affinity(asked.phi, one["phi"])) for one in tensors]
        texts = [float(affinity(asked.psi, one["psi"])) for one in tensors]
        sentinel = float(affinity(asked.phi, asked.sentinel))
        weights = fused(visual, texts, sentinel)
        best = max(weights or range(len(active)), key=lambda i: (weights.get(i, visual[i]), i))
        id = active[best].edit.id
        text = f"visual score {visual[best]:.3f}, the sentinel's {sentinel:.3f}"
        more = {"distance": sentinel - visual[best], "radius": 0.0, "site": site}
        if not weights:
            return Effect(
                decided(None, f"The base answers. The nearest expert is that of edit '{id}': {text}.", id, **more)
            )
        said = f"The expert of edit '{id}' weighs most, {weights[best]:.3f}, of {len(weights)} that pass: {text}."
        parts = [(weight, tensors[i]["read"], tensors[i]["write"]) for i, weight in weights.items()]
        return Effect(decided(id, said, id, **more), {site: Experts(parts)})


def site_of(vlm: VLM, layer: int) -> str:
    """What leaves the layer, or the one two thirds up."""
    return str(vlm.resolve_site(f"{int(vlm.n_layers * DEPTH) if layer == -1 else layer}.layer"))
