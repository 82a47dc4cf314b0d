"""RECIPE: an edit becomes a few embeddings before the question, made by a fitted encoder; a learned sentinel says when to use it.

Source: Chen et al., Lifelong Knowledge Editing via Continuous Prompt Learning, EMNLP 2024, Sec. 4; for vision-language models
LiveEdit's version, which De-VQA ran.  Departures from that, each for a defect of it: the picture stays in the input; question
and statement are read together with their pictures; the query is the question, never question and answer.  And one for the
sentence encoder, which is a frozen one here: its vector does not say of which tokens an unseen answer consists, so the embeddings
begin as the model's own of these, and what is learnt is added.  And one for few training edits: both heads begin alike, as one
random projection, so that a query's score begins as the likeness of its question and picture to those of the edit; from unlike
heads a few hundred edits teach that likeness for these edits alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..data.case import EditRequest
from ..errors import InputError
from ..retrieval import DEFAULT
from ..vlm.base import VLM
from ..vlm.measures import embedding_table
from ..vlm.surroundings import lasting
from .adversarial_fit import AdversarialFit
from .base import Edit, EditorConfig, setting
from .effect import Effect, Insert, decided
from .features import centred
from .fitted_memory import FittedMemory
from .memory import Kept
from .training.settings import FitSettings

if TYPE_CHECKING:
    from .training.fitting import Fitting


@dataclass(frozen=True)
class RecipeConfig(EditorConfig):
    """Settings of the edits."""

    fitted: str = setting("", "folder of a fitting (`vledit fit --editor recipe`); empty: the usual place")


@dataclass(frozen=True)
class RecipeFit(AdversarialFit):
    """Settings of the fitting; the defaults are for `pocket`, those of the paper are in `Recipe.published`."""

    steps: int = setting(600, "optimiser steps, each on the requests of some training edits")
    batch: int = setting(4, "training edits per step")
    cases: int = setting(300, "how many edits of the training split, spread evenly; 0: all")
    per_cell: int = setting(1, "number of probes of each kind per edit")
    tokens: int = setting(6, "embeddings that an edit becomes")
    width: int = setting(256, "length of the vectors that are compared")
    contrast: int = setting(32, "edits that the contrast terms compare per step")
    contrast_steps: int = setting(
        8, "steps on the contrast terms alone before each step that runs the model; 0: they are part of that step"
    )
    wordings: int = setting(4, "rewordings of a question, and other questions about its picture, in the contrast terms")
    learning_rate: float = setting(1e-3, "Adam's learning rate")
    encoder: str = setting(DEFAULT, "sentence encoder: a name or folder of a sentence-transformers model")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tokens", "width", "contrast", "wordings"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)} given; at least 1 is needed.")
        if self.contrast_steps < 0:
            raise InputError(f"contrast_steps: {self.contrast_steps} given; it must not be negative.")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate: {self.learning_rate} given; it must be positive.")


ALIKE = 0.7
"""Standard deviation of the weights of the projection that both heads begin as: its scores tell the edits of a batch apart."""


class Head(nn.Module):
    """r = x + ReLU(W₂ x), x = W₁ [text; picture; whether there is one]."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.first, self.second = nn.Linear(inputs, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) → (N, width), in use each row by itself, so that its bits do not depend on the batch."""
        if torch.is_grad_enabled():
            first = self.first(x)
            return first + self.second(first).relu()
        found = []
        for row in x:
            first = self.first(row[None])
            found.append(first + self.second(first).relu())
        return torch.cat(found)


class RecipeNetwork(nn.Module):
    """What is fitted: heads for statements and for queries, the sentinel, and what makes embeddings of a statement.

    Attributes:
        mean: (H,) what all pictures have in common; it is taken off.
    """

    mean: Tensor

    def __init__(self, texts: int, pictures: int, embedding: int, scale: float, tokens: int, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(pictures))
        self.register_buffer("scale", torch.tensor(scale))
        inputs = texts + pictures + 1
        self.statement, self.query = Head(inputs, width), Head(inputs, width)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, tokens * embedding)
        self.sentinel = nn.Parameter(torch.randn(inputs) / inputs**0.5)
        self._begin_alike()
        self.words = nn.Linear(embedding, embedding)
        nn.init.eye_(self.words.weight)
        nn.init.zeros_(self.words.bias)
        self.tokens, self.width = tokens, width

    @torch.no_grad()
    def _begin_alike(self) -> None:
        nn.init.normal_(self.query.first.weight, std=ALIKE)
        for part in (self.query.first, self.query.second):
            nn.init.zeros_(part.bias)
        self.query.second.weight.mul_(0.1)
        self.statement.load_state_dict(self.query.state_dict())
        self.sentinel[-1] = 2.0  # "there is a picture": about as like to every request as its own edit is
        self.outer.weight.mul_(0.02)  # so that the embeddings begin as the words

    def seen(self, texts: Tensor, pictures: Tensor) -> Tensor:
        """(N, D), (N, H) → (N, inputs)."""
        there = (pictures.abs().sum(1, keepdim=True) > 0).to(texts)
        return torch.cat([texts, centred(pictures, self.mean), there], 1)

    def statements(self, texts: Tensor, pictures: Tensor) -> Tensor:
        """r_k: (N, width), of "question answer" and the edit's picture."""
        return self.statement(self.seen(texts, pictures))

    def queries(self, texts: Tensor, pictures: Tensor) -> Tensor:
        """r_q: (N, width), of question and picture of a request."""
        return self.query(self.seen(texts, pictures))

    def theta(self) -> Tensor:
        """Θ: (width,), the sentinel as statements are read."""
        return self.statement(self.sentinel[None])[0]

    def prompts(self, statements: Tensor, words: Tensor) -> Tensor:
        """P: (N, width) and the answers' own embeddings (N, tokens, E) → (N, tokens, E): W₄ (r + ReLU(W₃ r)), as large as the
        model's own embeddings are, and a linear map of the words."""
        made = self.outer(statements + self.inner(statements).relu())
        return (self.scale * made).reshape(len(statements), self.tokens, -1) + self.words(words)


def answer_words(vlm: VLM, request: EditRequest, tokens: int) -> Tensor:
    """(tokens, E) float32: the model's own embeddings of the answer's first tokens, its end left out, then zeros."""
    ids = vlm.answer_tokens(request.question, request.answer, request.image is not None)[:-1][:tokens]
    table = embedding_table(vlm.model)
    found = torch.zeros(tokens, table.shape[1], dtype=torch.float32, device=vlm.device)
    found[: len(ids)] = table[torch.tensor(ids, dtype=torch.long, device=table.device)].to(found)
    return found


def scores(queries: Tensor, statements: Tensor) -> Tensor:
    """(N, width), (E, width) → (N, E): r_q·r_k / √width; each pair by itself."""
    return (queries[:, None] * statements[None]).sum(-1) / queries.shape[1] ** 0.5


def retrieved(query: Tensor, statements: Tensor, theta: Tensor) -> tuple[int | None, int, float, float]:
    """Which statement a query asks for, or None where none exceeds the sentinel; the best one (of equal ones the newest), its
    score, and the sentinel's."""
    found = scores(query[None], torch.cat([statements, theta[None]]))[0].tolist()
    best = max(range(len(found) - 1), key=lambda i: (found[i], i))
    return (best if found[best] > found[-1] else None), best, found[best], found[-1]


class Recipe:
    """Source: Chen et al., EMNLP 2024."""

    name: ClassVar[str] = "recipe"
    gated: ClassVar[bool] = True
    Config: ClassVar[type[EditorConfig]] = RecipeConfig
    FitConfig: ClassVar[type[FitSettings]] = RecipeFit

    def __init__(self, config: RecipeConfig | None = None):
        self.config = config or RecipeConfig()

    def memory(self, vlm: VLM) -> RecipeMemory:
        """An empty memory."""
        return RecipeMemory(vlm, self.name, asdict(self.config))

    def edit(self, vlm: VLM, request: EditRequest, memory: Any = None) -> Edit:
        """Makes the edit: a row of the memory; nothing is trained.

        Whether the model gives the answer with the embeddings in its prompt is in the report; an edit for which it does not is
        returned as well.

        Raises: InputError for an unfit question or answer.  MissingDataError where nothing was fitted to this model.
        """
        held = memory if isinstance(memory, RecipeMemory) else self.memory(vlm)
        return held.made(request)

    @classmethod
    @lasting
    def fit(cls, fitting: Fitting) -> Path:
        """Fits heads, sentinel and prompt encoder.  Returns the folder.  Raises: see `training.loop.fit`."""
        from .recipe_fit import RecipeJob

        return RecipeJob.of(fitting).run(cls.name)

    @classmethod
    def published(cls, family: str) -> dict[str, Any]:
        """The released settings of the fitting, the same for each of its backbones; empty for others."""
        known = family in ("blip2", "minigpt4", "llava")
        return {"tokens": 3, "learning_rate": 1e-5, "batch": 8, "width": 4096} if known else {}


class RecipeMemory(FittedMemory):
    """The edits of `recipe`, and what is fitted."""

    def opened(self) -> None:
        self.network = network_of(self.vlm, dict(self.part.settings), dict(self.part.tensors))
        self._rows: Tensor | None = None

    def changed(self) -> None:
        super().changed()
        self._rows = None

    def decide(self, questions: Tensor, pictures: Tensor) -> list[tuple[Kept | None, Effect]]:
        edits = self.active()
        if self._rows is None:
            self._rows = torch.cat([self._statement(one) for one in edits])
        theta = self.network.theta()
        found = []
        for query in self.network.queries(questions, pictures):
            number, best, score, sentinel = retrieved(query, self._rows, theta)
            id = edits[best].edit.id
            if number is None:
                text = f"its score {score:.3f} is not above the sentinel's, {sentinel:.3f}."
                text = f"The base answers. The nearest edit is '{id}', but {text}"
                found.append((None, Effect(decided(None, text, id, distance=sentinel - score, radius=0.0))))
            else:
                text = (
                    f"Edit '{id}' stands in the prompt: its score {score:.3f} is above the sentinel's, {sentinel:.3f}."
                )
                found.append((edits[best], Effect(decided(id, text, id, distance=sentinel - score, radius=0.0))))
        return found

    def _statement(self, one: Kept) -> Tensor:
        """(1, width) r_k; the fact's text is part of the edit."""
        if "statement" not in one.cache:
            request = one.edit.request
            text = self.features.questions([f"{request.question} {request.answer}"])
            with torch.inference_mode(False), torch.no_grad():
                one.cache["statement"] = self.network.statements(text, one.payload.tensors["picture"][None].cpu())
        return one.cache["statement"]

    def effect_of(self, one: Kept, effect: Effect, image: Any, question: str) -> Effect:
        if "soft" not in one.cache:
            with torch.inference_mode(False), torch.no_grad():
                words = answer_words(self.vlm, one.edit.request, self.network.tokens)[None].cpu()
                one.cache["soft"] = self.network.prompts(self._statement(one), words)[0].to(self.vlm.device)
        return Effect(effect.decision, insert=Insert(soft=one.cache["soft"]))


def network_of(vlm: VLM, settings: dict[str, Any], tensors: dict[str, Tensor]) -> RecipeNetwork:
    """A network that was kept, on the CPU."""
    pictures = len(tensors["mean"])
    texts = len(tensors["sentinel"]) - pictures - 1
    embedding = tensors["outer.weight"].shape[0] // int(settings["tokens"])
    made = RecipeNetwork(texts, pictures, embedding, 1.0, int(settings["tokens"]), int(settings["width"]))
    made.load_state_dict(tensors)
    return made.cpu().float().eval().requires_grad_(False)


def fresh_network(vlm: VLM, settings: dict[str, Any], texts: int, pictures: int) -> RecipeNetwork:
    """One to be fitted: its embeddings begin as large as the model's own."""
    table = embedding_table(vlm.model)
    scale = float(table[: min(len(table), 4096)].float().std())
    return RecipeNetwork(texts, pictures, table.shape[1], scale, int(settings["tokens"]), int(settings["width"]))
