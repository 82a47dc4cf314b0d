"""A lane answers one batch at a time; several lanes over the same weights answer several batches at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from ..editors.edited_model import EditedModel
from ..editors.talking import converse, row_of
from ..errors import InputError
from ..vlm.conversation import Turn, encode_conversations
from ..vlm.spoken import Spoken, spoken
from ..vlm.twin import twin
from .asks import Ask, Reply
from .fixed import Fixed

if TYPE_CHECKING:
    from ..codebook import Codebook
    from ..vlm.base import VLM

SMALL = 1_000_000_000
"""Parameters up to which a model gets several lanes by itself.  A larger one is bound by reading its weights: lanes do so
several times, a larger batch does so once."""
MOST = 8
"""Lanes that are opened by themselves."""


def usual_lanes(vlm: VLM, fixed: Fixed) -> int:
    """How many lanes a model gets where nobody says: one for each processor core that torch may use, for a small model."""
    if no_lanes(vlm, fixed) or sum(one.numel() for one in vlm.model.parameters()) > SMALL:
        return 1
    return min(MOST, torch.get_num_threads())


def no_lanes(vlm: VLM, fixed: Fixed) -> str:
    """Why there can be only one lane; "" where there can be more."""
    if vlm.device.type != "cpu":
        return f"the model computes on {vlm.device.type}, where one batch takes the whole device"
    if fixed.memories:
        return f"'{fixed.folder}' holds edits of {', '.join(fixed.memories)}, which answer one batch at a time"
    return ""


def open_lanes(vlm: VLM, fixed: Fixed, lanes: int, book: Codebook) -> list[Lane]:
    """So many lanes; a single one runs `vlm` itself.

    Args:
        lanes: 0 lets `usual_lanes` decide.
        book: the edits that act; all lanes look them up in this one codebook.
    Raises: InputError where there can be only one.
    """
    lanes = lanes or usual_lanes(vlm, fixed)
    if lanes == 1:
        return [Lane(vlm, fixed, book, 1)]
    if why := no_lanes(vlm, fixed):
        raise InputError(f"--workers: {lanes} given, but {why}. Leave it out, or give 1.")
    return [Lane(twin(vlm), fixed, book, lanes) for _ in range(lanes)]


class Lane:
    """A model object that answers one batch at a time.

    Whoever changes the codebook holds `vlm.lock` of every lane.

    Args:
        vlm: the lane's own.
        of: how many lanes there are; where several run at once each takes its part of torch's threads.
    """

    def __init__(self, vlm: VLM, fixed: Fixed, book: Codebook, of: int):
        self.vlm, self.fixed, self._of = vlm, fixed, of
        self._threads = torch.get_num_threads()
        self._base = EditedModel(vlm)
        self.show(book)

    def show(self, book: Codebook) -> None:
        """Lets these edits act."""
        self._edited = self.fixed.model(self.vlm, book)

    def answer(self, asks: Sequence[Ask], revision: Callable[[], int], beside: int = 1) -> list[Reply]:
        """Answers asks of one kind together (`Ask.kind`).

        Args:
            revision: gives the number of the edits that act, which holds while the lane's model is locked.
            beside: how many lanes run at this time, this one counted.
        """
        if self._of > 1:  # holds for the calling thread alone
            torch.set_num_threads(max(1, self._threads // beside))
        first = asks[0]
        if first.edited and self.fixed.apart:
            return [self._answer_apart(ask, revision) for ask in asks]
        most = max(ask.most for ask in asks)
        images = [row_of(ask.turns[-1].images) for ask in asks]
        questions = [ask.turns[-1].question for ask in asks]
        sent = [""] * len(asks)

        def heard(said: Spoken) -> None:
            for row, ask in enumerate(asks):
                if ask.on_text is not None and len(said.rows[row]) <= ask.most:
                    text = said.settled(row)
                    if len(text) > len(sent[row]):
                        sent[row] = text
                        ask.on_text(text)

        listens = any(ask.on_text is not None for ask in asks)
        with self.vlm.lock, spoken(self.vlm, len(asks), heard if listens else None) as said:
            at, model = revision(), self._edited if first.edited else self._base
            if not first.conversation:
                answers = model.answers(images, questions, most)
                texts, decisions = [answer.text for answer in answers], [answer.decision for answer in answers]
                counts = [self._prompt_tokens(ask.turns[-1]) for ask in asks]
            else:
                encoded = encode_conversations(self.vlm, [ask.turns for ask in asks])
                whole = first.whole_scope
                effects = model.effects_of(encoded, questions) if whole else model.effects(images, questions)
                decisions = [effect.decision for effect in effects]
                with model.acting(encoded, effects):
                    texts = self.vlm.answer_encoded(encoded, most)
                counts = encoded.attention_mask.sum(1).tolist()
        replies = []
        for row, ask in enumerate(asks):
            count = len(said.rows[row])
            cut = count > ask.most or (count == ask.most and not said.ended[row])
            text = said.text(row, ask.most) if count > ask.most else texts[row]
            decision = decisions[row] if ask.edited else None
            finish = "length" if cut else "stop"
            replies.append(Reply(text, finish, int(counts[row]), min(count, ask.most), decision, at))
        return replies

    def _answer_apart(self, ask: Ask, revision: Callable[[], int]) -> Reply:
        """The answer where an edit may change the prompt, or let another model answer."""
        last, sent = ask.turns[-1], [""]

        def heard(said: Spoken) -> None:
            text = said.settled(0)
            if ask.on_text is not None and len(text) > len(sent[0]):
                sent[0] = text
                ask.on_text(text)

        with self.vlm.lock, spoken(self.vlm, 1, heard) as said:
            look_up = "conversation" if ask.whole_scope else "last"
            answer = converse(self._edited, ask.turns, ask.most, look_up)
            at = revision()
        count = len(said.rows[0]) or self._tokens_of(answer.text)  # another model is not listened to
        finish = "length" if count >= ask.most and not said.ended[0] else "stop"
        return Reply(answer.text, finish, self._prompt_tokens(last), count, answer.decision, at)

    def _tokens_of(self, text: str) -> int:
        return len(self.vlm._prompter.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _prompt_tokens(self, turn: Turn) -> int:
        """Tokens of a prompt of one turn; every picture counted as large as one of the model's own input size."""
        one = len(self.vlm.prompt(turn.question, bool(turn.images)).ids)
        if len(turn.images) < 2:
            return one
        return one + (len(turn.images) - 1) * (one - len(self.vlm.prompt(turn.question, False).ids))
