"""The tokens of greedy answers as they are generated, row by row, while somebody else calls `generate`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from .base import VLM


class Spoken:
    """What has been said so far.

    Attributes:
        rows: per row the tokens of the answer, its end not among them.
        ended: per row, whether an end token has come.
    """

    def __init__(self, vlm: VLM, batch: int):
        self._prompter = vlm._prompter
        self.rows: list[list[int]] = [[] for _ in range(batch)]
        self.ended = [False] * batch

    def hear(self, tokens: list[int]) -> None:
        """Takes in one more token of every row; what comes after a row's end is padding."""
        for row, token in enumerate(tokens):
            if self.ended[row]:
                continue
            if token in self._prompter.end_ids:
                self.ended[row] = True
            else:
                self.rows[row].append(token)
                end = self._prompter.family.end_of_answer
                self.ended[row] = bool(end) and end in self._prompter.tokenizer.decode(self.rows[row])

    def text(self, row: int, most: int | None = None) -> str:
        """The answer's text, of at most `most` tokens, as `VLM.answer` gives it."""
        return self._prompter.text(self.rows[row][:most])

    def settled(self, row: int) -> str:
        """The part of the answer's text that later tokens cannot change any more."""
        text = self.text(row).rstrip("�")
        if self.ended[row]:
            return text
        end = self._prompter.family.end_of_answer or ""
        for length in range(len(end) - 1, 0, -1):
            if text.endswith(end[:length]):
                return text[:-length].rstrip()
        return text


@contextmanager
def spoken(vlm: VLM, batch: int, heard: Callable[[Spoken], Any] | None = None) -> Iterator[Spoken]:
    """Within the block, what this thread lets the model generate greedily for `batch` rows is noted token by token.

    The vocabulary projection is listened to: the likeliest token of a row's last position is the one that greedy decoding
    takes.  Nothing is changed.

    Args:
        heard: called after every step.
    """
    said, me = Spoken(vlm, batch), threading.get_ident()

    def listen(_module: nn.Module, _args: tuple, logits: Tensor) -> None:
        if threading.get_ident() != me or logits.ndim != 3 or len(logits) != batch:
            return
        said.hear(logits[:, -1].float().argmax(-1).tolist())
        if heard is not None:
            heard(said)

    handle = vlm.anatomy.lm_head.register_forward_hook(listen)
    try:
        yield said
    finally:
        handle.remove()
