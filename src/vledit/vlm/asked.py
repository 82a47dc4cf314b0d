"""Finds the question in the token ids of a prompt, by the family's own template.

An ordinary call of a Hugging Face model contains only ids; edits whose key is read at the question's tokens have to find them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InputError

if TYPE_CHECKING:
    from .base import VLM
    from .prompts import Prompt


@dataclass(frozen=True)
class Asked:
    """A question in a prompt.

    Args:
        question: its text.
        mask: (T,) bool, the tokens that overlap it.
    """

    question: str
    mask: Tensor


def asked(vlm: VLM, ids: Tensor, prompt: Tensor) -> Asked:
    """The question of one row, found by writing the prompt anew and comparing its text tokens.

    Args:
        ids: (T,), one row.
        prompt: (T,) bool, less padding.

    Raises:
        InputError: the prompt is not written as the family writes it.
    """
    places = prompt.nonzero().flatten()
    row = [int(ids[place]) for place in places]
    last = max((i for i, token in enumerate(row) if token == vlm.image_token_id), default=-1)
    before, after = vlm.family.pieces(vlm.usual_placeholders if last >= 0 else ())
    before = before.split(vlm.family.image_token)[-1]
    tail = vlm.tokenizer.decode(row[last + 1 :], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    start, end = tail.find(before) + len(before), tail.rfind(after) if after else len(tail)
    question = tail[start:end].strip() if before in tail and start <= end else ""
    again = _written(vlm, question, last >= 0)
    inside = [] if again is None else [place for place, one in enumerate(again.question) if one]
    if again is not None and inside and row[inside[0] - len(again.ids) :] == again.ids[inside[0] :]:
        mask = torch.zeros_like(prompt)
        mask[places[[place - len(again.ids) for place in inside]]] = True
        return Asked(question, mask)
    raise InputError(
        f"attached: an edit here decides by the question, which cannot be found in the prompt {tail!r}. Write it as "
        f"{vlm.family.title} does, {before + '…' + after!r} behind the picture, or use EditedModel.answers."
    )


def _written(vlm: VLM, question: str, with_image: bool) -> Prompt | None:
    """The question's prompt as the family writes it; None for what is no question."""
    try:
        return vlm.prompt(question, with_image)
    except InputError:
        return None
