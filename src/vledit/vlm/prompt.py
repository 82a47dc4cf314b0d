"""`Prompt`: one tokenised prompt, with the place of every part known."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """One tokenised prompt.

    Attributes:
        text: what the tokenizer read (without the placeholders of `image_first` families).
        ids: token ids, placeholders and start token included.
        visual: for every token, whether it stands for a piece of the picture.
        question: for every token, whether it overlaps the question's text.
        n_leading: placeholders put before the tokenised text.
        n_soft, soft_at: how many tokens there are that have no word, and where they begin.
    """

    text: str
    ids: list[int]
    visual: list[bool]
    question: list[bool]
    n_leading: int
    n_soft: int = 0
    soft_at: int = 0

    def with_soft(self, count: int, filler: int) -> Prompt:
        """The prompt with `count` tokens of the id `filler` before the question, for embeddings that have no word."""
        at = self.question.index(True)
        put = lambda values, value: [*values[:at], *[value] * count, *values[at:]]  # noqa: E731
        ids, visual, question = put(self.ids, filler), put(self.visual, False), put(self.question, False)
        return Prompt(self.text, ids, visual, question, self.n_leading, count, at)
