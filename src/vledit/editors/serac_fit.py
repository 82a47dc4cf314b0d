"""Training SERAC, supervised as in the original: the scope classifier by binary cross-entropy on pairs of edit and request, the
counterfactual model by the likelihood of the answer in scope; neither uses the other's loss.

The hard negatives are those of the benchmark: the same question about a near picture, another question about the same picture,
a black picture, no picture; and the edits of other records.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.case import EditCase, Probe
from .cited_cases import CitedCases, Row
from .features import MEAN_OF, mean_picture
from .mend import lowest
from .retrieval_job import RetrievalJob
from .serac import SeracFit, SeracNetwork, cited
from .training.cases import training_case

if TYPE_CHECKING:
    from ..vlm.base import VLM
    from .features import Features
    from .training.fitting import Fitting


class SeracJob(RetrievalJob[SeracFit, SeracNetwork]):
    """What `training.loop` runs."""

    def __init__(self, fitting: Fitting, cases: list[EditCase], features: Features, network: SeracNetwork):
        super().__init__(fitting, cases, features, network)
        layer = lowest(self.vlm, network.counterfactual.sites)
        self.cited = CitedCases(self.vlm, cases, layer, self._rows, self.settings.memory_gb)
        self._vectors: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    @classmethod
    def network(cls, vlm: VLM, settings: dict[str, Any], texts: int, pictures: int) -> SeracNetwork:
        """Raises: InputError for settings that do not fit the model."""
        return SeracNetwork(vlm, settings, texts, pictures)

    @classmethod
    def cases_of(cls, fitting: Fitting) -> list[EditCase]:
        """With whatever cells they have."""
        return [training_case(case, fitting.settings.per_cell, fitting.settings.seed) for case in fitting.cases]

    def start(self) -> None:
        """Looks at some pictures."""
        some = torch.cat([self._seen(number)[1][:1] for number in range(min(MEAN_OF, len(self)))])
        self.module.scope.mean.copy_(mean_picture(some))

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam with two rates."""
        return torch.optim.Adam(
            [
                {"params": list(self.module.counterfactual.parameters()), "lr": self.settings.learning_rate},
                {"params": list(self.module.scope.parameters()), "lr": self.settings.scope_rate},
            ]
        )

    def losses_of(self, numbers: Sequence[int], draw: random.Random) -> Mapping[str, Tensor]:
        """The answers' loss in scope of some edits, and the scope classifier's on their requests and those of some others."""
        numbers = list(dict.fromkeys(numbers))
        others = [other for other in range(len(self)) if other not in numbers]
        some = [*numbers, *draw.sample(others, min(max(self.settings.scope_cases - len(numbers), 0), len(others)))]
        found = self.cited.losses(numbers, self.module.counterfactual.changes(), draw, self.settings.rows)
        return {**found, "scope": self.scope_loss(some)}

    def scope_loss(self, numbers: list[int]) -> Tensor:
        """Binary cross-entropy of β: both classes weigh alike; the edits of the other records are out of scope too."""
        scope, device = self.module.scope, self.vlm.device
        seen = [self._seen(number) for number in numbers]
        lengths = [len(one[2]) for one in seen]
        questions, pictures = (torch.cat([one[i] for one in seen]).to(device) for i in (0, 1))
        vectors = scope(questions, pictures)
        first = torch.tensor([sum(lengths[:i]) for i in range(len(lengths))], device=device)
        owner = torch.repeat_interleave(torch.arange(len(seen), device=device), torch.tensor(lengths, device=device))
        inside = torch.cat([one[2] for one in seen]).to(device)
        keys, there = vectors[first], pictures.abs().sum(1) > 0
        squares = (vectors[:, None] - keys[None]).square().sum(-1)  # (N, E)
        own = owner[:, None] == torch.arange(len(seen), device=device)[None]
        alike = there[:, None] == there[first][None]  # the others never fire: see `SeracMemory.decide`
        itself = torch.zeros_like(own)
        itself[first, torch.arange(len(seen), device=device)] = True
        same = (questions[:, None] == questions[first][None]).all(-1) & (
            pictures[:, None] == pictures[first][None]
        ).all(-1)
        positive = own & inside[:, None] & ~itself & alike
        negative = ~(own & inside[:, None]) & ~same & alike
        beta = scope.from_squares(squares)
        terms = []
        if bool(positive.any()):
            terms.append(-beta[positive].clamp(min=1e-6).log().mean())
        if bool(negative.any()):
            terms.append(-(1 - beta[negative]).clamp(min=1e-6).log().mean())
        return torch.stack(terms).mean() if terms else squares.sum() * 0

    # --- cases --------------------------------------------------------------------------------------------------------

    def _requests(self, number: int) -> list[tuple[Probe, bool]]:
        """The edit itself, then its probes; whether each is in scope."""
        case = self.cases[number]
        found = [(Probe(case.request.image, case.request.question), True)]
        return found + [(probe, family == "generality") for family, _, _, probe in case.probes()]

    def _rows(self, number: int) -> list[Row]:
        request = self.cases[number].request
        insert = cited(request.question, request.answer)
        return [Row(probe, insert, request.answer, "answer") for probe, inside in self._requests(number) if inside]

    def _seen(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """(n, D), (n, H), (n,) bool: questions, pictures, whether in scope; the edit itself first."""
        if number not in self._vectors:
            requests = self._requests(number)
            questions = self.features.questions([probe.question for probe, _ in requests])
            pictures = self.features.pictures([probe.image for probe, _ in requests])
            self._vectors[number] = (questions, pictures, torch.tensor([inside for _, inside in requests]))
        return self._vectors[number]
