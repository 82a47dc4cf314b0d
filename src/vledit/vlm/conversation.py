"""Conversations of several turns, each written with the family's own template for a question.

A conversation of one turn is the prompt that `VLM.encode` makes, token for token.  Earlier turns come before the last one,
with their answers and the end token of an answer.  The pictures of all turns are read together, as one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError
from .encoded import Encoded
from .families import IMAGE_MARK, QUESTION_MARK
from .picture_inputs import PictureInputs
from .prompts import Prompt

if TYPE_CHECKING:
    from .base import VLM


@dataclass(frozen=True)
class Turn:
    """A question with its pictures and, but for the last turn, the answer that was given.

    Args:
        question: without template.
        images: pictures (anything `open_picture` takes).
        answer: None for the last turn.
        preface: text that stands before the question in the same turn (a system message); not part of the question.
    """

    question: str
    images: tuple[object, ...] = ()
    answer: str | None = None
    preface: str = ""


def encode_conversations(vlm: VLM, conversations: Sequence[Sequence[Turn]]) -> Encoded:
    """A batch of conversations, one per row, ready to be answered.

    Raises:
        InputError: no turn, an answer missing in an earlier turn or given in the last one, an unfit text, or a prompt that
            is too long for the model.
        PictureError: an unreadable picture.
    """
    rows = [_row(vlm, list(turns)) for turns in conversations]
    return vlm.assemble([prompt for prompt, _ in rows], [[]] * len(rows), [pictures for _, pictures in rows])


def _row(vlm: VLM, turns: list[Turn]) -> tuple[Prompt, PictureInputs]:
    if not turns or turns[-1].answer is not None or any(turn.answer is None for turn in turns[:-1]):
        raise InputError("turns: every turn but the last one needs an answer, and the last one must have none.")
    prompter, family = vlm._prompter, vlm.family
    questions = [prompter._clean("question", turn.question) for turn in turns]
    images = [image for turn in turns for image in turn.images]
    pictures = vlm.read_pictures(images, questions[-1])
    waiting = list(pictures.placeholders)
    text, start = "", 0
    for turn, question in zip(turns, questions, strict=True):
        own, waiting = waiting[: len(turn.images)], waiting[len(turn.images) :]
        before, after = family.pieces(own)
        before = _without_opening(vlm, before) if text else before
        if turn.preface:
            before += prompter._clean("system message", turn.preface) + "\n\n"
        start = len(text) + len(before)
        text += before + question + after
        if turn.answer is not None:
            text += family.answer_prefix + prompter._clean("answer", turn.answer) + _end_of_turn(vlm)
    tokens = prompter._tokenise(text, return_offsets_mapping=True)
    expected = sum(one.count(family.image_token) for one in pictures.placeholders)
    leading = expected if family.image_first else 0
    ids = [vlm.image_token_id] * leading + list(tokens["input_ids"])
    end = start + len(questions[-1])
    asked = [max(a, start) < min(b, end) for a, b in tokens["offset_mapping"]]
    visual = [token == vlm.image_token_id for token in ids]
    if sum(visual) != expected:
        raise InputError(
            f"the prompt holds {sum(visual)} image placeholders instead of {expected}: tokenizer and template "
            f"of family '{family.name}' do not fit."
        )
    if prompter.max_prompt_tokens is not None and len(ids) > prompter.max_prompt_tokens:
        raise InputError(
            f"messages are too long: their prompt has {len(ids)} tokens, the model takes {prompter.max_prompt_tokens}. "
            "Leave out earlier messages, or give smaller or fewer pictures."
        )
    return Prompt(text, ids, visual, [False] * leading + asked, leading), pictures


def _end_of_turn(vlm: VLM) -> str:
    """What stands between an answer and the next question: the answer's end, and the blank that the template puts there."""
    family = vlm.family
    template = family.text_prompt.replace(IMAGE_MARK, "")
    if family.end_of_answer:
        return "" if template.startswith(family.end_of_answer) else family.end_of_answer
    end = vlm.tokenizer.decode([vlm._prompter.end_ids[0]])
    _, found, behind = template.partition(QUESTION_MARK)[2].partition(end)
    blank = behind[: len(behind) - len(behind.lstrip())] if found else ""
    return end + blank


def _without_opening(vlm: VLM, before: str) -> str:
    """What stands before a later turn's question: without the start of a text and without the template's system message,
    which belong to the first turn alone."""
    end = vlm.tokenizer.decode([vlm._prompter.end_ids[0]])
    start = vlm.tokenizer.bos_token
    before = before.rpartition(end)[2].lstrip() if end in before else before
    return before.removeprefix(start) if start and vlm.family.text_prompt.count(start) == 1 else before
