"""Training rows of editors that answer with an edit cited in the prompt: the frozen part of the model run once per case."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.case import EditCase, Probe
from ..errors import InputError
from ..vlm.base import VLM, Trunk
from ..vlm.pictures import open_picture
from .effect import Insert
from .mend import hidden_with
from .training.losses import answer_loss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..codebook import Transformation


@dataclass(frozen=True)
class Row:
    """A probe with what stands in its prompt and what it shall say.

    Args:
        term: the loss that it counts in.
    """

    probe: Probe
    insert: Insert
    answer: str
    term: str


class CitedCases:
    """Rows of training cases by number, with the trunk below the lowest changed layer.

    Args:
        rows_of: a case's rows; asked once per case, and a function of the case alone.
        memory_gb: most that trunks take in memory; those used longest ago are run again when they are needed, to the same
            bits, as a case's rows are one batch.
    """

    def __init__(
        self,
        vlm: VLM,
        cases: Sequence[EditCase],
        layer: int,
        rows_of: Callable[[int], list[Row]],
        memory_gb: float,
    ):
        self.vlm, self.cases, self.layer = vlm, cases, layer
        self._rows_of, self._budget = rows_of, int(memory_gb * 1e9)
        self._rows: dict[int, list[Row]] = {}
        self._trunks: OrderedDict[int, Trunk | None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.cases)

    def rows(self, number: int) -> list[Row]:
        """The rows of a case whose answers can be forced."""
        if number not in self._rows:
            self._rows[number] = [row for row in self._rows_of(number) if self._fits(row)]
        return self._rows[number]

    def losses(
        self, number: int, acting: Mapping[str, Transformation], draw: random.Random, per_term: int
    ) -> dict[str, Tensor]:
        """Term → mean negative log-likelihood of its rows' answers, in nats per token, where the changes act.

        Args:
            per_term: of each term at most so many rows, which are drawn.
        """
        trunk = self._trunk(number)
        if trunk is None:
            return {}
        terms: dict[str, list[int]] = {}
        for place, row in enumerate(self.rows(number)):
            terms.setdefault(row.term, []).append(place)
        drawn = {term: draw.sample(places, min(per_term, len(places))) for term, places in terms.items()}
        order = sorted(place for places in drawn.values() for place in places)
        trunk = trunk.select(order)
        encoded = trunk.encoded
        hidden = hidden_with(self.vlm, trunk, acting)
        logits = self.vlm.after_projection(self.vlm.anatomy.lm_head(hidden)).float()
        found = {}
        for term, places in drawn.items():
            wanted = torch.tensor([order.index(place) for place in places], device=logits.device)
            at = torch.isin(encoded.target_rows, wanted)
            found[term] = answer_loss(logits[at], encoded.targets[at])
        return found

    def _fits(self, row: Row) -> bool:
        try:
            question = row.insert.question(row.probe.question)
            self.vlm.answer_tokens(question, row.answer, row.probe.image is not None)
        except InputError:  # an empty answer, or a prompt longer than the model reads
            return False
        return True

    def _trunk(self, number: int) -> Trunk | None:
        if number not in self._trunks:
            rows = self.rows(number)
            self._trunks[number] = self._run(rows) if rows else None
            used = sum(map(_nbytes, self._trunks.values()))
            while used > self._budget and len(self._trunks) > 1:
                used -= _nbytes(self._trunks.popitem(last=False)[1])
        self._trunks.move_to_end(number)
        return self._trunks[number]

    def _run(self, rows: list[Row]) -> Trunk:
        images = [opened(row.probe.image) for row in rows]
        questions = [row.insert.question(row.probe.question) for row in rows]
        return self.vlm.trunk(self.vlm.encode(images, questions, [row.answer for row in rows]), self.layer)


def opened(image: Any) -> Any:
    """The picture, opened; None where there is none."""
    return None if image is None else open_picture(image)


def _nbytes(trunk: Trunk | None) -> int:
    if trunk is None:
        return 0
    held = {id(one): one.nbytes for one in [trunk.hidden, *trunk.encoded.model_inputs.values()]}
    for call in trunk.calls:
        for value in call.inputs.values():
            for tensor in value if isinstance(value, list | tuple) else [value]:
                if isinstance(tensor, Tensor):
                    held[id(tensor)] = tensor.nbytes
    return sum(held.values())
