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

import torch

from tests.vlm.models import FAMILIES, QUESTIONS, picture, tiny
from vledit.data.case import EditRequest
from vledit.editors.base import Edit
from vledit.editors.edited_model import EditedModel
from vledit.editors.fitting import as_full
from vledit.editors.registry import editor
from vledit.vlm import VLM

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

    def method(self) -> Any:
        return editor(self.editor, **self.settings)


_FIT = {"steps": 200, "margin": 1.0, "common_directions": 4}
_FULL = {**_FIT, "transformation": "full", "learning_rate": 0.05}
_SPAN = {**_FIT, "transformation": "span", "learning_rate": 1.0}
_SCOPE = {"rephrase": "supplied", "alpha": 1.0}  # the narrowest radius: a random model's prompts lie close together
EDITORS = {
    row.name: row
    for row in (
        EditorRow("balancedit-full", "balancedit", {**_FULL, **_SCOPE}),
        EditorRow("balancedit-span", "balancedit", {**_SPAN, **_SCOPE}),
        EditorRow("ft", "ft", _FULL),
    )
}
CELLS = [(family, name) for family in FAMILIES for name in EDITORS]


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
        return self.edit.entry is not None

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
    return Made(vlm, row, row.method().edit(vlm, REQUEST), before, far, answer, digest, hooked)


@cache
def changed_weights(family: str, name: str) -> EditedModel:
    """The slow reference: a copy of the base whose weights really are those that the edit stands for."""
    one = made(family, name)
    vlm = copied(one.vlm)
    changes = one.edit.weights or {one.edit.entry.site: one.edit.entry.transformation}  # type: ignore[union-attr]
    with torch.no_grad():
        for site, change in changes.items():
            vlm.site_module(site).weight.add_(as_full(change).weight_delta)
    return EditedModel(vlm)


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
    return VLM(copy.deepcopy(vlm.model).to(dtype or vlm.dtype), vlm.processor, vlm.family, vlm.name)


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
