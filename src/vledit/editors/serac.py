"""SERAC: a memory of edits, a scope classifier that says which one a request is about, and a counterfactual model.

Source: Mitchell et al., Memory-Based Model Editing at Scale, ICML 2022, Eq. 1 to 4; for vision-language models Cheng et al.
(MMEdit), EMNLP 2023.  The scope classifier sees question and picture, and never an answer; the counterfactual model is the base
with changes of low rank of its own, which reads the cited edit before the question.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..codebook import SpanTransformation
from ..data.case import EditRequest
from ..errors import InputError
from ..retrieval import DEFAULT
from ..vlm.base import VLM
from ..vlm.surroundings import lasting
from .base import Edit, EditorConfig, setting
from .effect import Effect, Insert, decided
from .features import centred
from .fitted_memory import FittedMemory
from .low_rank import LowRank
from .memory import Kept
from .mend import shapes
from .training.settings import FitSettings

if TYPE_CHECKING:
    from .training.fitting import Fitting


@dataclass(frozen=True)
class SeracConfig(EditorConfig):
    """Settings of the edits."""

    threshold: float = setting(0.5, "scope score above which the counterfactual model answers, 0 to 1")
    fitted: str = setting("", "folder of a fitting (`vledit fit --editor serac`); empty: the usual place")

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise InputError(f"threshold: {self.threshold} given; it must be at least 0 and below 1.")


@dataclass(frozen=True)
class SeracFit(FitSettings):
    """Settings of the fitting; the defaults are for `pocket`."""

    steps: int = setting(600, "optimiser steps, each on the requests of some training edits")
    batch: int = setting(4, "training edits per step for the counterfactual model")
    cases: int = setting(300, "how many edits of the training split, spread evenly; 0: all")
    per_cell: int = setting(1, "number of probes of each kind per edit")
    rows: int = setting(1, "in-scope requests of each edit per step for the counterfactual model")
    layers: int = setting(
        30, "number of layers, counted from the last, whose MLP linears the counterfactual model changes"
    )
    rank: int = setting(8, "rank of these changes")
    learning_rate: float = setting(1e-3, "Adam's learning rate for the counterfactual model")
    scope_rate: float = setting(1e-3, "Adam's learning rate for the scope classifier")
    scope_cases: int = setting(16, "edits per step for the scope classifier")
    width: int = setting(128, "length of the vectors that the scope classifier compares")
    encoder: str = setting(DEFAULT, "sentence encoder: a name or folder of a sentence-transformers model")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rows", "layers", "rank", "scope_cases", "width"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)} given; at least 1 is needed.")
        for name in ("learning_rate", "scope_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}: {getattr(self, name)} given; it must be positive.")


class Scope(nn.Module):
    """Question and picture → a vector; two requests are in each other's scope where their vectors are near.

    Attributes:
        mean: (H,) what all pictures have in common; it is taken off.
    """

    mean: Tensor

    def __init__(self, texts: int, pictures: int, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(pictures))
        self.inner = nn.Linear(texts + pictures + 1, 2 * width)
        self.outer = nn.Linear(2 * width, width)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, questions: Tensor, pictures: Tensor) -> Tensor:
        """(N, D), (N, H) → (N, width), in use each row by itself, so that its bits do not depend on the batch."""
        there = (pictures.abs().sum(1, keepdim=True) > 0).to(questions)
        x = torch.cat([questions, centred(pictures, self.mean), there], 1)
        if torch.is_grad_enabled():
            return self.outer(self.inner(x).relu())
        return torch.cat([self.outer(self.inner(row[None]).relu()) for row in x])

    def scores(self, edits: Tensor, requests: Tensor) -> Tensor:
        """(E, width), (N, width) → (N, E): β = exp(−s ‖E(z) − E(x)‖²), 1 for equal vectors."""
        return self.from_squares((requests[:, None] - edits[None]).square().sum(-1))

    def from_squares(self, squares: Tensor) -> Tensor:
        """Squared distances → β."""
        return torch.exp(-self.log_scale.exp() * squares)


class SeracNetwork(nn.Module):
    """What is fitted: the scope classifier, and the counterfactual model's changes."""

    def __init__(self, vlm: VLM, settings: dict[str, Any], texts: int, pictures: int):
        super().__init__()
        self.scope = Scope(texts, pictures, int(settings["width"]))
        self.counterfactual = LowRank(shapes(vlm, layers=int(settings["layers"])), int(settings["rank"]))


class Serac:
    """Source: Mitchell et al., ICML 2022."""

    name: ClassVar[str] = "serac"
    gated: ClassVar[bool] = True
    Config: ClassVar[type[EditorConfig]] = SeracConfig
    FitConfig: ClassVar[type[FitSettings]] = SeracFit

    def __init__(self, config: SeracConfig | None = None):
        self.config = config or SeracConfig()

    def memory(self, vlm: VLM) -> SeracMemory:
        """An empty memory."""
        return SeracMemory(vlm, self.name, asdict(self.config))

    def edit(self, vlm: VLM, request: EditRequest, memory: Any = None) -> Edit:
        """Makes the edit: a row of the memory; nothing is trained.

        Whether the counterfactual model gives the answer is in the report; an edit for which it does not is returned as well.

        Raises: InputError for an unfit question or answer.  MissingDataError where nothing was fitted to this model.
        """
        held = memory if isinstance(memory, SeracMemory) else self.memory(vlm)
        return held.made(request)

    @classmethod
    @lasting
    def fit(cls, fitting: Fitting) -> Path:
        """Fits scope classifier and counterfactual model.  Returns the folder.  Raises: see `training.loop.fit`."""
        from .serac_fit import SeracJob

        return SeracJob.of(fitting).run(cls.name)

    @classmethod
    def published(cls, family: str) -> dict[str, Any]:
        """Empty: the released fittings have other classifiers and counterfactual models, whose settings say nothing here."""
        return {}


class SeracMemory(FittedMemory):
    """The edits of `serac`, and what is fitted."""

    def opened(self) -> None:
        tensors, settings = self.part.tensors, dict(self.part.settings)
        pictures = len(tensors["scope.mean"])
        texts = tensors["scope.inner.weight"].shape[1] - pictures - 1
        network = SeracNetwork(self.vlm, settings, texts, pictures)
        network.load_state_dict(dict(tensors))
        self.scope = network.scope.cpu().float().eval().requires_grad_(False)
        low_rank = network.counterfactual.to(self.vlm.device).requires_grad_(False)
        self.changes: dict[str, SpanTransformation] = low_rank.fixed()
        self._vectors: Tensor | None = None

    def changed(self) -> None:
        super().changed()
        self._vectors = None

    def decide(self, questions: Tensor, pictures: Tensor) -> list[tuple[Kept | None, Effect]]:
        edits, (texts, views) = self.active(), self.keys()
        keys = self._vectors = self.scope(texts, views) if self._vectors is None else self._vectors
        scores = self.scope.scores(keys, self.scope(questions, pictures))
        # a question without a picture can only be about an edit without one, and the other way round
        alike = (pictures.abs().sum(1) > 0)[:, None] == (views.abs().sum(1) > 0)[None]
        scores = torch.where(alike, scores, torch.zeros(()))
        return [self._decision(edits, row) for row in scores]

    def _decision(self, edits: list[Kept], scores: Tensor) -> tuple[Kept | None, Effect]:
        best = len(scores) - 1 - int(scores.flip(0).argmax())  # of equal ones the newest
        one, score, threshold = edits[best], float(scores[best]), float(self.settings["threshold"])
        id, fires = one.edit.id, score > threshold
        reason = f"the request is in the scope of edit '{id}' by {score:.3f}"
        said = f"The counterfactual model answers: {reason}." if fires else f"The base answers: {reason} alone."
        effect = Effect(decided(id if fires else None, said, id, distance=1 - score, radius=1 - threshold))
        return (one if fires else None), effect

    def effect_of(self, one: Kept, effect: Effect, image: Any, question: str) -> Effect:
        return Effect(effect.decision, self.changes, cited(one.edit.request.question, one.edit.request.answer))


def cited(question: str, answer: str) -> Insert:
    """What the counterfactual model reads before the question."""
    return Insert(before=f"{question} {answer}\n")
