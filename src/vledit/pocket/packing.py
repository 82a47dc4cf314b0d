"""Several questions about one picture in one row of the training batch.

The picture's prefix is run once; each question-answer pair sees the prefix and itself, never its neighbours, and has the
position numbers that it would have alone.  So a packed row gives the same loss as its pairs one by one, at less than half
the cost: 32 visual tokens are most of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .configuration import IMAGE_TOKEN, IMAGE_TOKEN_ID

PROMPT_START, PROMPT_END, ANSWER_END = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"
IGNORED = -100


@dataclass
class Row:
    """A picture (or none) and what is asked about it: pairs of (question, answer, kind)."""

    picture: np.ndarray | None  # (3, S, S) float16, scaled as the image processor does
    pairs: list[tuple[str, str, str]]
    concept: int = -1  # index among the concepts, for the auxiliary classifier
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Packed:
    """A batch of rows. B rows of T tokens; P rows have a picture."""

    tokens: np.ndarray  # (B, T) int64
    positions: np.ndarray  # (B, T) int64
    segments: np.ndarray  # (B, T) int64: 0 prefix, 1.. pairs, -1 padding
    targets: np.ndarray  # (B, T) int64: the next token where it belongs to an answer, else IGNORED
    pictures: np.ndarray  # (P, 3, S, S) float16
    concepts: np.ndarray  # (P,) int64
    kinds: list[list[str]]  # per row, the kind of each pair that found room


class Packer:
    """Turns rows into arrays; a compiled model wants one shape, so each stage of training has one length."""

    def __init__(self, tokenizer: object, length: int = 120, visual_tokens: int = 32):
        self.tokenizer, self.length, self.visual_tokens = tokenizer, length, visual_tokens
        self._ids: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        if text not in self._ids:
            self._ids[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
        return self._ids[text]

    def pack(self, rows: list[Row], length: int | None = None) -> Packed:
        """The rows as arrays of `length` tokens (the packer's own where None); pairs that find no room are left out."""
        length = self.length if length is None else length
        shape = (len(rows), length)
        tokens, positions = np.full(shape, 2, np.int64), np.zeros(shape, np.int64)
        segments, targets = np.full(shape, -1, np.int64), np.full(shape, IGNORED, np.int64)
        kinds = []
        for i, row in enumerate(rows):
            prefix = list(self.ids(PROMPT_START))
            prefix += [IMAGE_TOKEN_ID] * self.visual_tokens if row.picture is not None else []
            at = len(prefix)
            tokens[i, :at], positions[i, :at], segments[i, :at] = prefix, np.arange(at), 0
            kinds.append([])
            for question, answer, kind in row.pairs:
                asked = self.ids(question + PROMPT_END)
                said = self.ids(answer + ANSWER_END)
                size = len(asked) + len(said)
                if at + size > length:
                    continue
                tokens[i, at : at + size] = asked + said
                positions[i, at : at + size] = np.arange(len(prefix), len(prefix) + size)
                kinds[i].append(kind)
                segments[i, at : at + size] = len(kinds[i])
                start = at + len(asked) - 1
                targets[i, start : start + len(said)] = said
                at += size
        pictured = [row for row in rows if row.picture is not None]
        shown = [r.picture for r in pictured if r.picture is not None]
        pictures = np.stack(shown) if shown else np.zeros((0, 3, 1, 1), np.float16)
        return Packed(tokens, positions, segments, targets, pictures, np.array([r.concept for r in pictured]), kinds)


def attention_mask(segments: np.ndarray) -> np.ndarray:
    """(B, T) segments → (B, 1, T, T) bool: who sees whom. Padding sees itself, so that no row of the softmax is empty."""
    causal = np.tril(np.ones((segments.shape[1],) * 2, bool))
    query, key = segments[:, :, None], segments[:, None, :]
    seen = ((key == 0) | (key == query)) & (query >= 0) & (key >= 0) & causal
    seen |= np.eye(segments.shape[1], dtype=bool)
    return seen[:, None]


__all__ = ["IGNORED", "IMAGE_TOKEN", "Packed", "Packer", "Row", "attention_mask"]
