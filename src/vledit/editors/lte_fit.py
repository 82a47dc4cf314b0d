"""Fitting LTE: the same descriptor before questions that it is about, where the new answer is wanted, and before others, where
what the base says without it (its whole distribution, as De-VQA's version has it).

Half of the descriptors stand alone, a quarter with one of another record, a quarter with two, in an order that is drawn (the
released code puts the true one first, so that a model can learn "the first line wins").  Rows without a descriptor, which the
paper has too, are not needed: without one the changes are off.  The adversarial terms of `adversarial_fit` are rows with the
descriptor before the edited question over another picture or none, and before a similar question over its own picture.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..data.case import EditCase, Probe
from .adversarial_fit import term_probes, usual_probes
from .cited_cases import CitedCases, Row, opened
from .lte import BASE_TOKENS, LteFit, LteNetwork, described, descriptor, prompt_of
from .mend import lowest
from .retrieval_job import RetrievalJob

if TYPE_CHECKING:
    from ..vlm.base import VLM
    from .features import Features
    from .training.fitting import Fitting

IN, OUT = "in scope", "out of scope"


class LteJob(RetrievalJob[LteFit, LteNetwork]):
    """What `training.loop` runs."""

    def __init__(self, fitting: Fitting, cases: list[EditCase], features: Features, network: LteNetwork):
        super().__init__(fitting, cases, features, network)
        layer = lowest(self.vlm, network.changes.sites)
        self.cited = CitedCases(self.vlm, cases, layer, self._rows, self.settings.memory_gb)

    @classmethod
    def network(cls, vlm: VLM, settings: dict[str, Any], texts: int, pictures: int) -> LteNetwork:
        """Raises: InputError for settings that do not fit the model."""
        return LteNetwork(vlm, settings, pictures)

    def losses_of(self, numbers: Sequence[int], draw: random.Random) -> Mapping[str, Tensor]:
        """The new answer's loss in scope, and the divergence from the base out of scope and in the adversarial terms, of some
        edits, each with its weight."""
        found = self.cited.losses(numbers, self.module.changes.changes(), draw, self.settings.rows)
        weights = self.settings.weights
        own = {IN: weights.edit, OUT: weights.locality * self.settings.out_weight}
        return {term: loss * own.get(term, weights.adversarial) for term, loss in found.items()}

    # --- cases --------------------------------------------------------------------------------------------------------

    def _rows(self, number: int) -> list[Row]:
        case, rng = self.cases[number], random.Random(f"{self.settings.seed}/descriptors/{self.cases[number].id}")
        request = case.request
        before = case.base_answer or self.vlm.answer([opened(request.image)], [request.question], BASE_TOKENS)[0]
        own = described(self.vlm, request, before)
        # out of scope any text will do, as the base's distribution is what is wanted
        asked = [(Probe(request.image, request.question), IN, request.answer)]
        for inside, probe in usual_probes(case):
            asked.append((probe, IN, request.answer) if inside else (probe, OUT, probe.answer or request.answer))
        for term, probe in term_probes(case, self.settings.terms()).items():
            asked.append((probe, term, request.answer))
        found = []
        for probe, term, answer in asked:
            if term not in (IN, OUT):  # whatever other terms there are
                rng = random.Random(f"{self.settings.seed}/descriptors/{case.id}/{term}")
            lines = [own, *self._distractors(number, rng)]
            rng.shuffle(lines)
            found.append(Row(probe, prompt_of(lines), answer, term, kept=term != IN))
        return found

    def _distractors(self, number: int, rng: random.Random) -> list[str]:
        """Descriptors of other records: none, one or two of them."""
        others = [one for place, one in enumerate(self.cases) if place != number]
        count = min(rng.choice((0, 0, 1, 2)), len(others))
        return [
            descriptor(one.request.question, one.request.answer, one.base_answer) for one in rng.sample(others, count)
        ]
