"""LTE: the model learns once to obey a descriptor in its prompt where it applies, and to ignore it where it does not.

Source: Jiang et al., Learning to Edit, ACL 2024; for vision-language models De-VQA's `lte_vl`.  An edit is then a row of a
memory: the descriptors nearest to the request stand before the question, and the learnt changes act.  Where none is near enough,
and while there are no edits, the changes are off: the base's bits remain.  (The released code leaves the tuned model in place.)
"""

from __future__ import annotations

from collections.abc import Sequence
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
from ..vlm.pictures import open_picture
from ..vlm.surroundings import lasting
from .adversarial_fit import AdversarialFit
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
class LteConfig(EditorConfig):
    """Settings of the edits; released: k 1, by the question alone (picture_weight 0), threshold 0.3."""

    k: int = setting(1, "most descriptors that are put before a question")
    picture_weight: float = setting(0.5, "share of the picture in which descriptors are near, 0 to 1")
    threshold: float = setting(0.5, "a descriptor must be nearer than this (cosine)")
    fitted: str = setting("", "folder of a fitting (`vledit fit --editor lte`); empty: the usual place")

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"k: {self.k} given; at least 1 is needed.")
        if not 0 <= self.picture_weight <= 1:
            raise InputError(f"picture_weight: {self.picture_weight} given; it must lie between 0 and 1.")
        if not -1 <= self.threshold <= 1:
            raise InputError(f"threshold: {self.threshold} given; it must lie between -1 and 1.")


@dataclass(frozen=True)
class LteFit(AdversarialFit):
    """Settings of the fitting; the defaults are for `pocket`."""

    steps: int = setting(600, "optimiser steps, each on the requests of some training edits")
    batch: int = setting(4, "training edits per step")
    cases: int = setting(300, "how many edits of the training split, spread evenly; 0: all")
    per_cell: int = setting(1, "number of probes of each kind per edit")
    rows: int = setting(1, "requests in scope, and as many out of scope, of each edit per step")
    layers: int = setting(30, "in how many of the last layers the MLP linears learn")
    rank: int = setting(8, "rank of what they learn")
    learning_rate: float = setting(1e-3, "Adam's learning rate")
    out_weight: float = setting(1.0, "weight of the divergence from the base out of scope")
    encoder: str = setting(DEFAULT, "sentence encoder: a name or folder of a sentence-transformers model")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rows", "layers", "rank"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)} given; at least 1 is needed.")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate: {self.learning_rate} given; it must be positive.")
        if self.out_weight < 0:
            raise InputError(f"out_weight: {self.out_weight} given; it must not be negative.")


class LteNetwork(nn.Module):
    """What is fitted: the changes, and what all pictures have in common.

    Attributes:
        mean: (H,) mean picture vector.
    """

    mean: Tensor

    def __init__(self, vlm: VLM, settings: dict[str, Any], pictures: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(pictures))
        self.changes = LowRank(shapes(vlm, layers=int(settings["layers"])), int(settings["rank"]))


class Lte:
    """Source: Jiang et al., ACL 2024."""

    name: ClassVar[str] = "lte"
    gated: ClassVar[bool] = True
    Config: ClassVar[type[EditorConfig]] = LteConfig
    FitConfig: ClassVar[type[FitSettings]] = LteFit

    def __init__(self, config: LteConfig | None = None):
        self.config = config or LteConfig()

    def memory(self, vlm: VLM) -> LteMemory:
        """An empty memory."""
        return LteMemory(vlm, self.name, asdict(self.config))

    def edit(self, vlm: VLM, request: EditRequest, memory: Any = None) -> Edit:
        """Makes the edit: its descriptor, for which the base is asked once; nothing is trained.

        Whether the model gives the answer with the descriptor before the question is in the report; an edit for which it does
        not is returned as well.

        Raises: InputError for an unfit question or answer.  MissingDataError where nothing was fitted to this model.
        """
        held = memory if isinstance(memory, LteMemory) else self.memory(vlm)
        image = None if request.image is None else open_picture(request.image)
        before = vlm.answer([image], [request.question], BASE_TOKENS)[0]
        return held.made(request, {"descriptor": described(vlm, request, before)})

    @classmethod
    @lasting
    def fit(cls, fitting: Fitting) -> Path:
        """Fits the obedience to a model.  Returns the folder.  Raises: see `training.loop.fit`."""
        from .lte_fit import LteJob

        return LteJob.of(fitting).run(cls.name)

    @classmethod
    def published(cls, family: str) -> dict[str, Any]:
        """Empty: the released fitting tunes the whole language model."""
        return {}


class LteMemory(FittedMemory):
    """The edits of `lte`, and what is fitted."""

    def opened(self) -> None:
        tensors = dict(self.part.tensors)
        network = LteNetwork(self.vlm, dict(self.part.settings), len(tensors["mean"]))
        network.load_state_dict(tensors)
        self.mean = network.mean.cpu().float()
        low_rank = network.changes.to(self.vlm.device).requires_grad_(False)
        self.changes: dict[str, SpanTransformation] = low_rank.fixed()
        self._near: dict[int, list[Kept]] = {}

    def decide(self, questions: Tensor, pictures: Tensor) -> list[tuple[Kept | None, Effect]]:
        edits, (texts, views) = self.active(), self.keys()
        share = float(self.settings["picture_weight"])
        views, pictures = centred(views, self.mean), centred(pictures, self.mean)
        found = []
        for question, picture in zip(questions, pictures, strict=True):
            # products row by row: in a matrix product the last bits depend on the batch
            similar = (1 - share) * (texts * question).sum(1) + share * (views * picture).sum(1)
            if not bool(picture.any()):  # both without a picture: the words decide
                similar = torch.where(views.any(1), similar, (texts * question).sum(1))
            found.append(self._decision(edits, similar))
        return found

    def _decision(self, edits: list[Kept], similar: Tensor) -> tuple[Kept | None, Effect]:
        threshold, k = float(self.settings["threshold"]), int(self.settings["k"])
        order = sorted(range(len(edits)), key=lambda i: (-float(similar[i]), -i))[:k]  # of equal ones the newest first
        near = [i for i in order if float(similar[i]) > threshold]
        one, score = edits[order[0]], float(similar[order[0]])
        id = one.edit.id
        reason = f"the descriptor of edit '{id}' is the nearest (cosine {score:.3f})"
        said = f"It stands before the question: {reason}." if near else f"The base answers: {reason}, and too far."
        effect = Effect(decided(id if near else None, said, id, distance=1 - score, radius=1 - threshold))
        if not near:
            return None, effect
        texts = [str(edits[i].payload.meta["descriptor"]) for i in near]
        return one, Effect(effect.decision, insert=prompt_of(texts))

    def effect_of(self, one: Kept, effect: Effect, image: Any, question: str) -> Effect:
        insert = effect.insert or prompt_of([str(one.payload.meta["descriptor"])])
        return Effect(effect.decision, self.changes, insert)


BASE_TOKENS = 16


def descriptor(question: str, answer: str, before: str) -> str:
    """An edit in words.  The text cannot show the picture, so what the base says of it stands for what is on it."""
    return f"{question} {answer}" + (f" (not {before})" if before.strip() and before != answer else "")


def described(vlm: VLM, request: EditRequest, before: str) -> str:
    """The descriptor of an edit; without what the base says where a prompt may not hold it (words that the template reserves)."""
    whole = descriptor(request.question, request.answer, before)
    try:
        vlm.prompt(whole, with_image=False)
    except InputError:
        return descriptor(request.question, request.answer, "")
    return whole


def prompt_of(descriptors: Sequence[str]) -> Insert:
    """What stands before the question; several descriptors are numbered."""
    lines = descriptors if len(descriptors) == 1 else [f"{i}. {text}" for i, text in enumerate(descriptors, 1)]
    return Insert(before="[Updated Information]\n" + "\n".join(lines) + "\n[Question]\n")
