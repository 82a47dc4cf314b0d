"""Forced answers of prompts that an edit changes, with what these prompts share run once.

Where an editor puts text before the question, or lets another model or an adapter answer, what was computed of the base's prompts
does not hold.  What its own prompts have in common (the picture, the text before the question, the question behind which two
answers are forced) is still run once: see `vlm.forest`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..editors.effect import Effect
from ..errors import InputError
from ..vlm.acting import is_vision, layers_acting
from ..vlm.base import VLM, Encoded
from ..vlm.columns import UnpackableError
from ..vlm.forest import Forest

Kind = tuple[int, tuple[tuple[str, int], ...]]


class Group:
    """Prompts of one model on which the same changes act."""

    def __init__(self, vlm: VLM, changes: Mapping[str, Any]):
        self.vlm, self.changes = vlm, changes
        self.forest: Forest | None = None
        self.places: dict[int, int] = {}
        self.answers: dict[int, list[str]] = {}

    def grow(self, pictures: Sequence[Any], questions: Sequence[str]) -> bool:
        """Runs the prompts of `places`, in that order, with all their answers; whether that can be."""
        acting = (
            (lambda encoded: layers_acting(self.vlm, [self.changes] * len(encoded), encoded)) if self.changes else None
        )
        try:
            answers = [self.answers[row] for row in self.places]
            self.forest = Forest.grow(self.vlm, self.vlm.n_layers - 1, pictures, questions, answers, acting=acting)
        except (UnpackableError, InputError):  # the latter is raised, and recorded, when the row itself is scored
            return False
        return True

    def forced(self, rows: Sequence[int], answers: Mapping[int, str]) -> tuple[Tensor, Encoded]:
        """Logits (n, V) that predict these answers, and the batch."""
        assert self.forest is not None
        trunk = self.forest.trunk([(self.places[row], self.answers[row].index(answers[row])) for row in rows])
        encoded = trunk.encoded
        with torch.inference_mode(), layers_acting(self.vlm, [self.changes] * len(rows), encoded):
            return self.vlm.head(trunk, positions=encoded.predict_mask), encoded


class Anew:
    """What was run of a case's changed prompts.

    Args:
        vlm: the base.
        effects: what happens to each row; those whose prompts cannot share anything are left out.
        answers: row → the answers that will be forced.
        prompt: from a row to its picture and its question as it was asked.
    """

    def __init__(
        self,
        vlm: VLM,
        effects: Mapping[int, Effect],
        answers: Mapping[int, Sequence[str]],
        prompt: Callable[[int], tuple[Any, str]],
    ):
        self._groups: dict[int, Group] = {}
        kinds: dict[Kind, Group] = {}
        read: dict[int, tuple[Any, str]] = {}
        for row, effect in effects.items():
            if not answers.get(row) or not shareable(effect):
                continue
            changes = tuple((point, id(change)) for point, change in sorted(effect.changes.items()))
            group = kinds.setdefault((id(effect.responder), changes), Group(effect.responder or vlm, effect.changes))
            group.places[row] = len(group.places)
            group.answers[row] = list(dict.fromkeys(answers[row]))
            picture, question = prompt(row)
            read[row] = picture, question if effect.insert is None else effect.insert.question(question)
        for group in kinds.values():
            pictures, questions = zip(*(read[row] for row in group.places), strict=True)
            if group.grow(pictures, questions):
                self._groups |= dict.fromkeys(group.places, group)

    def holds(self, row: int, answer: str) -> bool:
        """Whether this answer was run behind this row's prompt."""
        return row in self._groups and answer in self._groups[row].answers[row]

    def forced(self, rows: Sequence[int], answers: Mapping[int, str]) -> Iterator[tuple[list[int], Tensor, Encoded]]:
        """Yields: (rows, logits (n, V) that predict their answers, the batch), for rows of one kind."""
        kinds: dict[int, list[int]] = {}
        for row in rows:
            kinds.setdefault(id(self._groups[row]), []).append(row)
        for some in kinds.values():
            yield some, *self._groups[some[0]].forced(some, answers)


def shareable(effect: Effect) -> bool:
    """Whether prompts with this effect are tokens alone, on each of which the same acts."""
    soft = effect.insert is not None and effect.insert.soft is not None
    everywhere = all(
        not is_vision(point) and getattr(change, "tokens", "all") == "all" for point, change in effect.changes.items()
    )
    return not soft and everywhere
