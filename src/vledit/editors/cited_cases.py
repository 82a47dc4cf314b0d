"""Training rows of editors that answer with an edit cited in the prompt, in batches across cases."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.case import EditCase, Probe
from ..vlm.base import VLM, Trunk
from ..vlm.pictures import open_picture
from .effect import Insert
from .mend import hidden_with
from .training.cases import base_log_probs
from .training.losses import answer_loss, kl_from_base
from .training.requests import Forced, Requests

if TYPE_CHECKING:
    from ..codebook import Transformation


@dataclass(frozen=True)
class Row:
    """A probe with what stands in its prompt and what it is forced to say.

    Args:
        term: the loss that it counts in.
        kept: whether the base's distribution, with nothing in the prompt, is wanted there, and not the answer itself.
    """

    probe: Probe
    insert: Insert
    answer: str
    term: str
    kept: bool = False

    @property
    def forced(self) -> Forced:
        """The request with what stands in its prompt."""
        return Forced(self.probe.image, self.insert.question(self.probe.question), self.answer)

    @property
    def plain(self) -> Forced:
        """The request as the base is asked it."""
        return Forced(self.probe.image, self.probe.question, self.answer)


class CitedCases:
    """Rows of training cases by number.

    Args:
        layer: lowest decoder layer that is changed; what lies below is run without gradient.
        rows_of: a case's rows; asked once per case, and a function of the case alone.
        memory_gb: see `Requests`.
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
        self._rows_of, self._requests = rows_of, Requests(vlm, memory_gb)
        self._rows: dict[int, list[Row]] = {}

    def __len__(self) -> int:
        return len(self.cases)

    def rows(self, number: int) -> list[Row]:
        """The rows of a case whose answers can be forced."""
        if number not in self._rows:
            fits = self._requests.fits
            self._rows[number] = [row for row in self._rows_of(number) if fits(row.forced) and fits(row.plain)]
        return self._rows[number]

    def losses(
        self, numbers: Sequence[int], acting: Mapping[str, Transformation], draw: random.Random, per_term: int
    ) -> dict[str, Tensor]:
        """Term → its loss where the changes act, in nats per token: the mean negative log-likelihood of the answers of its rows,
        or the mean divergence of the base from it.

        Args:
            per_term: of each term and case at most so many rows, which are drawn.
        """
        rows: list[Row] = []
        for number in numbers:
            terms: dict[str, list[Row]] = {}
            for row in self.rows(number):
                terms.setdefault(row.term, []).append(row)
            for some in terms.values():
                rows += draw.sample(some, min(per_term, len(some)))
        if not rows:
            return {}
        vlm, trunk = self.vlm, self._trunk([row.forced for row in rows])
        logits = vlm.after_projection(vlm.anatomy.lm_head(hidden_with(vlm, trunk, acting))).float()
        owners, targets = trunk.encoded.target_rows, trunk.encoded.targets
        kept = [place for place, row in enumerate(rows) if row.kept]
        base, base_owners = self._base([rows[place] for place in kept])
        found = {}
        for term in dict.fromkeys(row.term for row in rows):
            places = [place for place, row in enumerate(rows) if row.term == term]
            at = torch.isin(owners, torch.tensor(places, device=owners.device))
            if rows[places[0]].kept:
                wanted = torch.tensor([kept.index(place) for place in places], device=owners.device)
                found[term] = kl_from_base(base[torch.isin(base_owners, wanted)], logits[at])
            else:
                found[term] = answer_loss(logits[at], targets[at])
        return found

    def _base(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """(n, V) log-probabilities of the base where the rows' answers are predicted, and (n,) the row of each."""
        vlm = self.vlm
        if not rows:
            return torch.zeros(0), torch.zeros(0, dtype=torch.long)
        trunk = self._trunk([row.plain for row in rows])
        with torch.no_grad():
            return base_log_probs(vlm, hidden_with(vlm, trunk, {})), trunk.encoded.target_rows

    def _trunk(self, asked: Sequence[Forced]) -> Trunk:
        return self.vlm.trunk(self._requests.batch(asked), self.layer)


def opened(image: Any) -> Any:
    """The picture, opened; None where there is none."""
    return None if image is None else open_picture(image)
