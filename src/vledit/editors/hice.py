"""HICE: in-context editing behind a learned gate.

Source: Ma et al., ComprehendEdit, AAAI 2025 (HICE); the gate is RanPAC's (McDonnell et al., NeurIPS 2023).  Where the gate says
that a request is in scope, demonstrations and the new fact stand before the question; elsewhere the base is asked.  No weight
of the model changes.

The gate sees the question alone (`gate="paper"`), or the pair of request and edit, question and picture (`gate="edit"`).  It
never sees an answer; the released code showed it the probe's reference answer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..data.case import EditRequest
from ..errors import InputError
from ..retrieval import DEFAULT
from ..vlm.base import VLM
from ..vlm.surroundings import lasting
from .base import Edit, EditorConfig, setting
from .demonstrations import chosen_for, new_fact, prompt_with
from .effect import Effect, decided
from .features import centred
from .fitted_memory import FittedMemory
from .memory import Kept
from .random_features import lifted, random_matrix
from .training.settings import FitSettings

if TYPE_CHECKING:
    from .training.fitting import Fitting

GATES = ("paper", "edit")


@dataclass(frozen=True)
class HiceConfig(EditorConfig):
    """Settings of the edits; the paper has 16 demonstrations, for which `pocket` is too small."""

    gate: str = setting(
        "paper",
        "'paper': decide by the question alone; 'edit': by comparing request and edit, including their pictures",
    )
    demonstrations: int = setting(4, "number of demonstrations before the new fact; 0: none")
    max_characters: int = setting(
        2500, "longest prompt in characters; beyond it whole demonstrations are left out, the least similar first"
    )
    hard: float = setting(
        0.9,
        "gate 'paper': a question at least this similar (cosine) to one that the gate got wrong is "
        "out of scope; 1: off",
    )
    margin: float = setting(
        0.0,
        "the gate opens where its score for in scope is higher than that for out of scope by more than this (0: as published); "
        "below 0 it opens more often",
    )
    picture_weight: float = setting(0.5, "gate 'paper': weight of the picture in the choice of the cited edit, 0 to 1")
    fitted: str = setting("", "folder of a fitting (`vledit fit --editor hice`); empty: the usual place")

    def __post_init__(self) -> None:
        if self.gate not in GATES:
            raise InputError(f"gate: '{self.gate}' given; it is one of {', '.join(GATES)}.")
        for name in ("demonstrations", "max_characters"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: {getattr(self, name)} given; it must not be negative.")
        if not -2 <= self.margin <= 2:
            raise InputError(f"margin: {self.margin} given; it must lie between -2 and 2.")
        for name in ("hard", "picture_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: {getattr(self, name)} given; it must lie between 0 and 1.")


@dataclass(frozen=True)
class HiceFit(FitSettings):
    """Settings of the fitting, which is in closed form and takes no steps; the paper has 10,000 random features."""

    steps: int = setting(1, "not used: the gate is computed in closed form")
    cases: int = setting(150, "how many edits of the training split, spread evenly; 0: all")
    features: int = setting(2000, "random features of the gate")
    share: float = setting(
        0.05, "share of the training edits, chosen to be diverse, from which demonstrations are taken"
    )
    encoder: str = setting(DEFAULT, "sentence encoder: a name or folder of a sentence-transformers model")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features < 1:
            raise InputError(f"features: {self.features} given; at least 1 is needed.")
        if not 0 < self.share <= 1:
            raise InputError(f"share: {self.share} given; it must be more than 0 and at most 1.")


class Hice:
    """Source: Ma et al., AAAI 2025."""

    name: ClassVar[str] = "hice"
    gated: ClassVar[bool] = True
    Config: ClassVar[type[EditorConfig]] = HiceConfig
    FitConfig: ClassVar[type[FitSettings]] = HiceFit

    def __init__(self, config: HiceConfig | None = None):
        self.config = config or HiceConfig()

    def memory(self, vlm: VLM) -> HiceMemory:
        """An empty memory."""
        return HiceMemory(vlm, self.name, asdict(self.config))

    def edit(self, vlm: VLM, request: EditRequest, memory: Any = None) -> Edit:
        """Makes the edit: its vectors and its demonstrations; nothing is trained.

        Whether the model gives the answer with the fact before it is in the report; an edit for which it does not is returned
        as well.

        Raises: InputError for an unfit question or answer.  MissingDataError where nothing was fitted to this model.
        """
        held = memory if isinstance(memory, HiceMemory) else self.memory(vlm)
        return held.made(request, {"demonstrations": held.demonstrations(request)})

    @classmethod
    @lasting
    def fit(cls, fitting: Fitting) -> Path:
        """Fits both gates to a model.  Returns the folder.  Raises: InputError where one class has no requests."""
        from .hice_fit import fit

        return fit(fitting, cls.name)

    @classmethod
    def published(cls, family: str) -> dict[str, Any]:
        """The released settings of the fitting, for every family."""
        return {"features": 10_000, "share": 0.05, "cases": 0}


class HiceMemory(FittedMemory):
    """The edits of `hice`, and its gate."""

    def opened(self) -> None:
        self._matrices: dict[str, np.ndarray] = {}

    def demonstrations(self, request: EditRequest) -> list[str]:
        """The demonstrations of an edit, nearest first; none of the same fact."""
        count = int(self.settings["demonstrations"])
        if not count:
            return []
        fact = new_fact(request.question, request.answer)
        vector = self.features.questions([f"{request.question} {request.answer}"])[0].numpy()
        vectors = self.part.tensors["demonstrations"].cpu().float().numpy()
        texts = self.part.about["demonstrations"]
        found = [text for number in chosen_for(vector, vectors, len(texts)) for text in texts[number]]
        return [text for text in found if not text.startswith(fact)][:count]

    def decide(self, questions: Tensor, pictures: Tensor) -> list[tuple[Kept | None, Effect]]:
        edits, (texts, views) = self.active(), self.keys()
        mean = self.part.tensors["picture_mean"].cpu().float()
        pictures, views = centred(pictures, mean), centred(views, mean)
        decide = self._by_question if self.settings["gate"] == "paper" else self._by_pair
        return [decide(edits, *row, texts, views) for row in zip(questions, pictures, strict=True)]

    def _by_question(
        self, edits: list[Kept], question: Tensor, picture: Tensor, texts: Tensor, views: Tensor
    ) -> tuple[Kept | None, Effect]:
        share = float(self.settings["picture_weight"])
        similar = (1 - share) * texts @ question + share * views @ picture
        one = edits[_newest_best(similar)]
        out, into = self.scores("paper", question.numpy())
        reason = f"the gate gives the question {into:.3f} for in scope and {out:.3f} for out of scope"
        fires = into - out > self.margin
        hard = self.part.tensors["hard"].cpu().float()
        if fires and len(hard) and (near := float((hard @ question).max())) > float(self.settings["hard"]):
            fires, reason = False, f"the question is as near as {near:.3f} to one that the gate once got wrong"
        return self._decision(one, fires, reason, out - into)

    def _by_pair(
        self, edits: list[Kept], question: Tensor, picture: Tensor, texts: Tensor, views: Tensor
    ) -> tuple[Kept | None, Effect]:
        found = [
            self.scores("edit", pair(question, picture, text, view).numpy())
            for text, view in zip(texts, views, strict=True)
        ]
        leads = torch.tensor([into - out for out, into in found])
        best = _newest_best(leads)
        out, into = found[best]
        reason = f"the gate gives this request and the edit {into:.3f} for in scope and {out:.3f} for out of scope"
        return self._decision(edits[best], into - out > self.margin, reason, out - into)

    @property
    def margin(self) -> float:
        """By how much in scope must lead; edits that an older version saved have no such setting, which is 0."""
        return float(self.settings.get("margin", 0.0))

    def _decision(self, one: Kept, fires: bool, reason: str, distance: float) -> tuple[Kept | None, Effect]:
        id = one.edit.id
        said = f"Edit '{id}' is cited: {reason}." if fires else f"The base answers: {reason}."
        effect = Effect(decided(id if fires else None, said, id, distance=distance, radius=0.0 - self.margin))
        return (one if fires else None), effect

    def scores(self, gate: str, x: np.ndarray) -> tuple[float, float]:
        """What the gate gives for out of scope and for in scope."""
        if gate not in self._matrices:
            settings = self.part.settings
            self._matrices[gate] = random_matrix(len(x), int(settings["features"]), int(settings["seed"]))
        weights = self.part.tensors[gate].cpu().double().numpy()
        out, into = (lifted(x[None], self._matrices[gate]) @ weights)[0]
        return float(out), float(into)

    def effect_of(self, one: Kept, effect: Effect, image: Any, question: str) -> Effect:
        request, shown = one.edit.request, one.payload.meta["demonstrations"]
        fact = new_fact(request.question, request.answer)
        insert = prompt_with(self.vlm, shown, fact, question, image, int(self.settings["max_characters"]))
        return Effect(effect.decision, insert=insert)


def pair(question: Tensor, picture: Tensor, text: Tensor, view: Tensor) -> Tensor:
    """(2D + 2H + 1,): how a request and an edit compare; pictures without what all of them have in common."""
    parts = [question * text, (question - text).abs(), picture * view, (picture - view).abs(), torch.ones(1)]
    return torch.cat(parts)


def _newest_best(values: Tensor) -> int:
    """The number of the largest value; of equal ones the last, which is the newest edit's."""
    return len(values) - 1 - int(values.flip(0).argmax())
