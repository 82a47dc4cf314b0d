"""`Tree`: prompts with a common beginning and the answers to each, laid out in one row of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .picture_inputs import PictureInputs
from .prompts import Prompt


@dataclass
class Tree:
    """Prompts with one picture (or one prompt without), laid out in a row.

    Attributes:
        ids, parents: per column its token, and the column before it on the way to the root (-1: none).
        depths: per column how many tokens are before it on that way.
        prompts: per prompt its columns; suffixes: (prompt, number of the answer) → columns of the answer but for its last token,
            behind which nothing comes.
    """

    pictures: PictureInputs
    ids: list[int]
    visual: list[bool]
    parents: list[int]
    depths: list[int]
    prompts: dict[int, list[int]]
    suffixes: dict[tuple[int, int], list[int]]

    @classmethod
    def of(cls, pictures: PictureInputs, prompts: dict[int, Prompt], suffixes: dict[int, list[list[int]]]) -> Tree:
        """The tree of some prompts, by number, and of the answers behind each."""
        shared = common([prompt.ids for prompt in prompts.values()])
        first = next(iter(prompts.values()))
        tree = cls(pictures, first.ids[:shared], first.visual[:shared], [], [], {}, {})
        tree.parents, tree.depths = list(range(-1, shared - 1)), list(range(shared))
        for number, prompt in prompts.items():
            own = tree._grow(shared - 1, prompt.ids[shared:], prompt.visual[shared:])
            tree.prompts[number] = [*range(shared), *own]
            for k, answer in enumerate(suffixes[number]):
                inner = answer[:-1]
                tree.suffixes[number, k] = tree._grow(tree.prompts[number][-1], inner, [False] * len(inner))
        return tree

    def _grow(self, parent: int, ids: Sequence[int], visual: Sequence[bool]) -> list[int]:
        start = len(self.ids)
        columns = list(range(start, start + len(ids)))
        depth = self.depths[parent] if parent >= 0 else -1
        self.ids += ids
        self.visual += visual
        self.parents += [parent, *columns[:-1]] if columns else []
        self.depths += range(depth + 1, depth + 1 + len(ids))
        return columns

    def __len__(self) -> int:
        return len(self.ids)

    def sees(self) -> Tensor:
        """(T, T) bool: which column sees which."""
        seen = torch.eye(len(self), dtype=torch.bool, device="cpu")
        for column, parent in enumerate(self.parents):
            if parent >= 0:
                seen[column] |= seen[parent]
        return seen


def common(rows: Sequence[Sequence[int]]) -> int:
    """How many leading tokens are those of all rows."""
    shortest = min(rows, key=len)
    for place, token in enumerate(shortest):
        if any(row[place] != token for row in rows):
            return place
    return len(shortest)
