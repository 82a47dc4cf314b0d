"""The rows of the contract: a new family joins with its tiny model, a new editor with one line here.

Everything that costs time is made once per (family, editor) and shared; nothing that is shared is changed by a test.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch

from tests.vlm.models import FAMILIES, QUESTIONS, picture, tiny
from vledit.data.case import EditRequest
from vledit.editors.base import Edit
from vledit.editors.edited_model import EditedModel
from vledit.editors.registry import editor
from vledit.vlm import VLM

from .fitted import fitted

REQUEST = EditRequest(picture(1), QUESTIONS[0], "two cups", ("What is shown in this picture?",))
UNRELATED = (picture(9), QUESTIONS[2])
WITHOUT_PICTURE = EditRequest(None, QUESTIONS[2], "tea", ("Who has made this?",))
ROWS = [(REQUEST.image, REQUEST.question), UNRELATED, (None, QUESTIONS[1])]
"""A mixed batch: the edited request, another picture, no picture; prompts of different lengths."""

LONG = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
"""Answers that go on past the edit's own end, so that a decision which is not kept would show."""


@dataclass(frozen=True)
class EditorRow:
    """An editor with settings that teach a tiny random model a few tokens in a moment."""

    name: str
    editor: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    fitting: Mapping[str, Any] = field(default_factory=dict)
    """Settings of its fitting (see `fitted`), for an editor that is fitted first."""
    without_picture: str = ""
    """Why a question without a picture cannot be edited; empty where it can."""
    scope_is_learnt: str = ""
    """Of what the scope is learnt in each edit, so that a model with random weights may not tell a request that is unlike it."""
    scope_is_fitted: str = ""
    """What the scope was fitted to beforehand, so that an edit that is unlike it may not be found."""

    def method(self, vlm: VLM | None = None) -> Any:
        """The editor; one that is fitted first is fitted to `vlm`, in which it then can edit (in half precision, too)."""
        folder = {}
        if self.fitting and vlm is not None:
            settings = {**self.fitting, **OF_MODELS.get((vlm.name, self.name), {})}
            folder = {"fitted": fitted(vlm, self.editor, REQUEST, settings)}
        return editor(self.editor, **self.settings, **folder)


_FIT = {"steps": 200, "margin": 1.0, "common_directions": 4}
_FULL = {**_FIT, "transformation": "full", "learning_rate": 0.05}
_SPAN = {**_FIT, "transformation": "span", "learning_rate": 1.0}
_SCOPE = {"rephrase": "supplied", "alpha": 1.0}  # the narrowest radius: a random model's prompts lie close together
_HYPERNETWORK = {
    "steps": 40,
    "save_every": 100,
    "warm_up": 1,
    "rank": 4,
    "alpha": 1e-3,
    "learning_rate": 1e-2,
    "alpha_rate": 0.3,
    "edit_weight": 1.0,
    "locality": "text",
}
_SMALL_LIVEEDIT = {
    "steps": 80,
    "routing_steps": 0,
    "save_every": 100,
    "width": 32,
    "heads": 2,
    "queries": 2,
    "rank": 16,
    "learning_rate": 0.006,
}
_ONE = "one edit, which has a picture"
OF_MODELS = {("tiny-mistral3", "liveedit"): {"seed": 1}}
"""Settings of a fitting for one tiny model: with seed 0 its expert's hidden units are all silent, and the edit is nothing."""
_SMALL_RECIPE = {"steps": 30, "save_every": 100, "width": 24, "learning_rate": 0.01, "contrast_steps": 2}
_NEURONS = {
    "steps": 40,
    "learning_rate": 0.03,
    "activation_weight": 0.1,
    "memory_weight": 0.03,  # a random model's prompts lie close together: neurons that must be silent on others learn nothing
    "unlearnt": "keep",
}
EDITORS = {
    row.name: row
    for row in (
        EditorRow("balancedit-full", "balancedit", {**_FULL, **_SCOPE}),
        EditorRow("balancedit-span", "balancedit", {**_SPAN, **_SCOPE}),
        EditorRow("ft", "ft", _FULL),
        EditorRow(
            "ft_v",
            "ft_v",
            {"steps": 20, "learning_rate": 0.05, "unlearnt": "keep"},
            without_picture="the vision side sees nothing of a question without a picture",
        ),
        EditorRow("grace", "grace", {"site": "-1.mlp", "steps": 30, "radius": 0.1, "unlearnt": "keep"}),
        EditorRow("hice", "hice", {"gate": "edit", "demonstrations": 0}, {"features": 60}),
        EditorRow("ike", "ike"),
        EditorRow("lte", "lte", {"threshold": 0.9}, {"steps": 2, "layers": 1, "rank": 2, "learning_rate": 0.1}),
        EditorRow("liveedit", "liveedit", {}, _SMALL_LIVEEDIT, scope_is_fitted=_ONE),
        EditorRow("mend", "mend", fitting=_HYPERNETWORK),
        EditorRow("mend_adv", "mend_adv", fitting={**_HYPERNETWORK, "adversarial": "RI,CI"}),
        EditorRow("recipe", "recipe", {}, _SMALL_RECIPE, scope_is_fitted=_ONE),
        EditorRow(
            "lemoe",
            "lemoe",
            {"steps": 60, "learning_rate": 0.02, "rank": 4, "projector": 4, "unlearnt": "keep"},
            scope_is_learnt="the edit's own prompts and everyday ones",
        ),
        EditorRow(
            "serac", "serac", {"threshold": 0.9}, {"steps": 20, "layers": 1, "rank": 2, "width": 8, "scope_rate": 0.02}
        ),
        EditorRow("t_patcher", "t_patcher", _NEURONS),
    )
}
LEFT_OUT: dict[tuple[str, str], str] = {}
"""Cells (family, editor) that are known to fail, and why."""
CELLS = [(family, name) for family in FAMILIES for name in EDITORS if (family, name) not in LEFT_OUT]


@dataclass(frozen=True)
class Made:
    """One edit of one tiny model, and what the model said before it."""

    vlm: VLM
    row: EditorRow
    edit: Edit
    before: torch.Tensor
    unrelated_before: torch.Tensor
    unrelated_answer: str
    weights: str
    hooks: int

    @property
    def gated(self) -> bool:
        """Whether the edit leaves requests that it is not for to the base."""
        return self.row.method().gated

    @property
    def always(self) -> bool:
        """Whether it is a change of weights, which no decision comes before."""
        return self.edit.weights is not None

    @property
    def soft(self) -> torch.Tensor | None:
        """The embeddings that the edit puts before its question; None where it puts none."""
        if self.edit.payload is None:
            return None
        (effect,) = self.model().effects([REQUEST.image], [REQUEST.question])
        return None if effect.insert is None else effect.insert.soft

    def read(self, question: str) -> str:
        """The question as the model reads it."""
        return str(self.edit.payload.meta.get("before", "") if self.edit.payload else "") + question

    def learnt(self) -> None:
        """Skips the rest of a test where a model with random weights did not learn the answer by this method."""
        if not self.edit.report.trained:
            pytest.skip("does not apply: by this method a model with random weights does not learn the answer")

    def model(self) -> EditedModel:
        """A model of its own with the edit on it."""
        model = EditedModel(self.vlm)
        model.add(self.edit)
        return model


@cache
def made(family: str, name: str) -> Made:
    """The edit of a cell; the base is asked before it is made."""
    vlm, row = tiny(family), EDITORS[name]
    base = EditedModel(vlm)
    before, far, answer = logits(base, *ROWS[0]), logits(base, *UNRELATED), base.answer(*UNRELATED, 6).text
    digest, hooked = weights_digest(vlm), hooks(vlm)
    return Made(vlm, row, row.method(vlm).edit(vlm, REQUEST), before, far, answer, digest, hooked)


@cache
def base_says(family: str, rows: tuple[int, ...], settings: tuple[tuple[str, Any], ...]) -> list[list[int]]:
    """The base's tokens for some of `ROWS`, which all editors are held against."""
    return asked(EditedModel(tiny(family)), [ROWS[row] for row in rows], **LONG, **dict(settings)).tolist()


@cache
def assistant(family: str) -> VLM:
    """Proposes what the base would say, so that an edited model has to refuse some and takes the rest."""
    return copied(tiny(family))


@cache
def half(family: str) -> VLM:
    """The tiny model in bfloat16."""
    return copied(tiny(family), torch.bfloat16)


def copied(vlm: VLM, dtype: torch.dtype | None = None) -> VLM:
    """A model of its own with the same weights."""
    model = copy.deepcopy(vlm.model).to(dtype or vlm.dtype)
    for name, buffer in vlm.model.named_buffers():
        if buffer.is_complex():  # Llama 4's rotations, of which `to` leaves the real part
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, buffer.clone())
    return VLM(model, vlm.processor, vlm.family, vlm.name)


def logits(model: EditedModel, image: object, question: str, tokens: int = 3) -> torch.Tensor:
    """(tokens, V): the logits of the first tokens of the greedy answer, ends of answers passed over."""
    settings = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
    out = model.generate([image], [question], **settings, return_dict_in_generate=True, output_logits=True)
    return torch.cat(out.logits)


def weights_digest(vlm: VLM) -> str:
    """SHA-256 over every bit of the model's weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vlm.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def hooks(vlm: VLM) -> int:
    """How many hooks there are on all modules of the model; transformers puts some there for good at a first request."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in vlm.model.modules())


def asked(model: EditedModel, rows: list[tuple[Any, str]] = ROWS, **settings: Any) -> Any:
    """`generate` on several requests."""
    return model.generate([image for image, _ in rows], [question for _, question in rows], **settings)
