"""IKE: the fact, and demonstrations of how to use it, are put before the question; no parameter is changed.

Source: Zheng et al., Can We Edit Factual Knowledge by In-Context Learning?, EMNLP 2023; for vision-language models Cheng et al.
(MMEdit), EMNLP 2023, and BalancEdit, App. E.  The picture stays where the family puts it; demonstrations are text.  With several
edits the nearest one is cited, by question and picture of the request, never by a reference answer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from ..data.case import EditCase, EditRequest
from ..errors import InputError
from ..retrieval import DEFAULT, Encoder, encoder
from ..vlm.base import VLM
from ..vlm.pictures import picture_key
from ..vlm.surroundings import lasting
from .answering import forced_with
from .base import Edit, EditorConfig, Payload, setting
from .demonstrations import new_fact
from .effect import Effect, Insert, decided
from .features import visual_mean
from .fitting import margins
from .making import opened, reported
from .memory import Memory
from .training import artefact
from .training.settings import FitSettings

if TYPE_CHECKING:
    from .training.fitting import Fitting

KINDS = ("copy", "update", "retain")
"""Demonstrations of an edit: asked as it was taught, asked in other words, and something else that keeps its answer."""
PUBLISHED: dict[str, dict[str, Any]] = {
    "blip2": {"demonstrations": 32},
    "minigpt4": {"demonstrations": 32},
    "llava": {"demonstrations": 32},
    "qwen2_vl": {"demonstrations": 0},
    "qwen3_vl": {"demonstrations": 0},
    "llava_onevision": {"demonstrations": 0},
}
"""Family → how many demonstrations EasyEdit takes."""


@dataclass(frozen=True)
class IkeConfig(EditorConfig):
    """Settings of in-context editing."""

    demonstrations: int = setting(
        0, "how many demonstrations stand before the fact; above 0 needs `vledit fit --editor ike`"
    )
    fitted: str = setting("", "folder of the demonstrations (`vledit fit --editor ike`); empty: the usual place")
    encoder: str = setting(DEFAULT, "sentence encoder that finds demonstrations, and the edit to cite")
    picture_weight: float = setting(
        1.0, "weight of the pictures' cosine similarity relative to that of the questions, if both have a picture"
    )
    gate: float | None = setting(
        None, "smallest mean cosine similarity at which an edit is cited; none: always cite, as published"
    )
    longest: int = setting(2500, "most characters before the question; the farthest demonstrations are left out whole")

    def __post_init__(self) -> None:
        for name in ("demonstrations", "picture_weight"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name}: {getattr(self, name)} given; it must not be negative.")
        if self.longest < 1:
            raise InputError(f"longest: {self.longest} given; at least 1 is needed.")


@dataclass(frozen=True)
class IkeFit(FitSettings):
    """Settings of collecting demonstrations: three of each training case."""

    steps: int = setting(1, "there is nothing to train; `cases` says how many cases demonstrations are made of")
    encoder: str = setting(DEFAULT, "sentence encoder that finds demonstrations")


class Ike:
    """Source: Zheng et al., EMNLP 2023."""

    name: ClassVar[str] = "ike"
    gated: ClassVar[bool] = False
    Config: ClassVar[type[EditorConfig]] = IkeConfig
    FitConfig: ClassVar[type[IkeFit]] = IkeFit

    def __init__(self, config: IkeConfig | None = None):
        self.config = config or IkeConfig()

    @classmethod
    def published(cls, family: str) -> Mapping[str, Any]:
        """The released settings for a model family; empty where none were released."""
        return PUBLISHED.get(family, {})

    def memory(self, vlm: VLM) -> IkeMemory:
        return IkeMemory(vlm, self.name, asdict(self.config))

    def edit(self, vlm: VLM, request: EditRequest, memory: IkeMemory | None = None) -> Edit:
        """Writes the prefix.  Whether the model follows it is in the report; an edit that it does not is returned as well."""
        began = time.perf_counter()
        config = self.config
        request = opened(request)
        image = request.image
        vlm.answer_tokens(request.question, request.answer, image is not None)
        found = self._demonstrations(vlm, request)
        before = prefix(found, request.question, request.answer, config.longest)
        effect = Effect(decided("", ""), insert=Insert(before=before))
        logits, encoded = forced_with(vlm, [effect], [image], [request.question], [request.answer])
        lead = float(margins(logits.float(), encoded.targets).min())
        loss = float(F.cross_entropy(logits.float(), encoded.targets))
        tensors = {"text": torch.from_numpy(encoder(config.encoder).encode([request.question])[0].copy())}
        if image is not None:
            tensors["picture"] = picture_vector(vlm, image)
        payload = Payload(tensors, {"before": before})
        nbytes = payload.nbytes + len(before.encode())
        return reported(self.name, request, began, 0, loss, lead, nbytes, payload=payload)

    def _demonstrations(self, vlm: VLM, request: EditRequest) -> list[str]:
        """The nearest demonstrations to the fact, nearest first (EasyEdit's order), none of them about the edit itself."""
        if not self.config.demonstrations:
            return []
        found = artefact.find(self.name, vlm, self.config.fitted)
        texts: list[dict[str, str]] = list(found.about["demonstrations"])
        vectors = found.tensors["vectors"].cpu().numpy()
        fact = encoder(self.config.encoder).encode([f"{request.question} {request.answer}"])[0]
        order = np.argsort(-(vectors @ fact), kind="stable")
        own = (request.question, request.answer)
        chosen = [texts[i]["text"] for i in order if (texts[i]["question"], texts[i]["answer"]) != own]
        return chosen[: self.config.demonstrations]

    @classmethod
    @lasting
    def fit(cls, fitting: Fitting) -> Path:
        """Collects demonstrations from training cases.  Returns the folder."""
        found: list[dict[str, str]] = []
        for case in fitting.cases:
            found += demonstrations_of(fitting.vlm, case)
        if not found:
            raise InputError("cases: there is none to make demonstrations of.")
        name = getattr(fitting.settings, "encoder", DEFAULT)
        vectors = encoder(name).encode([one["fact"] for one in found])
        about = {"data": dict(fitting.data), "demonstrations": found, "steps": len(found), "seconds": 0.0}
        tensors = {"vectors": torch.from_numpy(vectors.copy())}
        artefact.write(fitting.folder, cls.name, fitting.vlm, asdict(fitting.settings), tensors, about)
        return fitting.folder


class IkeMemory(Memory):
    """Prefixes, and which of them a request gets."""

    when: ClassVar[str] = "request"

    def request_effects(self, images: Sequence[Any], questions: Sequence[str]) -> list[Effect | None]:
        active = self.active()
        scores = nearness(
            self.vlm,
            [one.payload.tensors for one in active],
            images,
            questions,
            encoder(self.settings.get("encoder", DEFAULT)),
            self.settings.get("picture_weight", 1.0),
        )
        gate = self.settings.get("gate")
        found: list[Effect | None] = []
        for row in scores:
            number = int(np.flatnonzero(row == row.max())[-1])  # of equally near edits the newest
            id, score = active[number].edit.id, float(row[number])
            if gate is not None and score < gate:
                text = f"The base answers. The nearest edit is '{id}', but its similarity {score:.3f} is below {gate}."
                found.append(Effect(decided(None, text, id)))
            else:
                insert = Insert(before=str(active[number].payload.meta["before"]))
                found.append(Effect(decided(id, f"Edit '{id}' is cited, with similarity {score:.3f}."), insert=insert))
        return found


def prefix(demonstrations: Sequence[str], question: str, answer: str, longest: int = 2500) -> str:
    """What stands before the question: demonstrations, then the new fact; demonstrations are dropped whole, the last first."""
    fact = new_fact(question, answer)
    chosen = list(demonstrations)
    while chosen and len("\n\n".join([*chosen, fact])) > longest:
        chosen.pop()
    return "\n\n".join([*chosen, fact])


def demonstrations_of(vlm: VLM, case: EditCase) -> list[dict[str, str]]:
    """Up to three demonstrations of a training case, as `KINDS`."""
    request = case.request
    fact = new_fact(request.question, request.answer)
    asked = {"copy": (request.question, request.answer)}
    wordings = [*request.rephrases, *(probe.question for probe in case.generality.get("text", ()))]
    if wordings:
        asked["update"] = (wordings[0], request.answer)
    others = [probe for cell, probes in sorted(case.locality.items()) for probe in probes if probe.image is None]
    if others:
        asked["retain"] = (others[0].question, vlm.answer([None], [others[0].question], 16)[0])
    return [
        {
            "kind": kind,
            "text": f"{fact}{question} {answer}",
            "fact": f"{request.question} {request.answer}",
            "question": request.question,
            "answer": request.answer,
        }
        for kind, (question, answer) in asked.items()
    ]


def nearness(
    vlm: VLM,
    edits: Sequence[Mapping[str, torch.Tensor]],
    images: Sequence[Any],
    questions: Sequence[str],
    texts: Encoder,
    picture_weight: float = 1.0,
) -> np.ndarray:
    """(B, N) float64: how near each request is to each edit, from -1 to 1.

    The weighted mean of the cosine of the questions and that of the pictures; where one side has a picture and the other has none
    the pictures count as 0.

    Args:
        edits: "text" (D,) and, where there is a picture, "picture" (H,), both of length 1.
    """
    asked = texts.encode(list(questions)).astype(np.float64)
    held = np.stack([edit["text"].cpu().numpy() for edit in edits]).astype(np.float64)
    # each pair by itself: a product of matrices would round a row by what stands beside it
    words = np.stack([(held * row).sum(1) for row in asked])
    weights = np.zeros_like(words)
    pictures = np.zeros_like(words)
    for row, image in enumerate(images):
        one = image[0] if isinstance(image, list | tuple) and image else image or None
        own = None if one is None else picture_vector(vlm, one).cpu().numpy().astype(np.float64)
        for number, edit in enumerate(edits):
            if own is None and "picture" not in edit:
                continue
            weights[row, number] = picture_weight
            if own is not None and "picture" in edit:
                pictures[row, number] = float((own * edit["picture"].cpu().numpy()).sum())
    return (words + weights * pictures) / (1 + weights)


KEPT = 512
"""Pictures whose vectors are kept per model."""


QUESTION = "What is this?"
"""The question under which a picture is looked at: some models look at a picture with the question in mind."""


def picture_vector(vlm: VLM, image: Any) -> torch.Tensor:
    """(H,) float32 on the CPU, of length 1: the mean of the picture's visual tokens as they enter the language model."""
    kept = vlm.__dict__.setdefault("_picture_vectors", {})
    key = picture_key(image)
    if key not in kept:
        hidden = visual_mean(vlm, [image], QUESTION)
        while len(kept) >= KEPT:
            kept.pop(next(iter(kept)))
        kept[key] = hidden / hidden.norm().clamp(min=1e-12)
    return kept[key]
