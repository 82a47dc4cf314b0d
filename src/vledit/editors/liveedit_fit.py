"""Fitting LiveEdit: what the generated expert makes the model say in and out of scope, and which experts a request passes.

Source: Chen et al., CVPR 2025, Sec. 3.4; all terms weigh 1.  The model is frozen, gradients are taken above the site only.  An
expert weighs in training what it weighs when it is used: the sigmoid of how the request's words fit the edit's.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.case import EditCase, Probe
from ..vlm.acting import layers_acting
from .adversarial_fit import fitting_cases, term_probes, usual_probes
from .liveedit import Experts, Features, LiveEditFit, LiveEditNetwork, affinity, edit_of, site_of
from .retrieval_job import FittedJob
from .training.cases import base_log_probs
from .training.losses import answer_loss, kl_from_base
from .training.requests import Forced, Requests

if TYPE_CHECKING:
    from ..vlm.base import Trunk
    from .training.fitting import Fitting

SIZE_OF = 8
"""Training edits whose prompts say how large what leaves the site is."""


class LiveEditJob(FittedJob[LiveEditFit, LiveEditNetwork]):
    """What `training.loop` runs."""

    def __init__(self, fitting: Fitting, cases: list[EditCase], site: str, network: LiveEditNetwork):
        super().__init__(fitting, cases, network)
        self.site, self.layer = site, self.vlm.resolve_site(site).layer
        self.requests = Requests(self.vlm, self.settings.memory_gb)
        self._kept: dict[int, tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]] = {}

    @classmethod
    def of(cls, fitting: Fitting) -> LiveEditJob:
        """The job of a fitting.  Raises: InputError for settings that do not fit the model."""
        settings, vlm = fitting.settings, fitting.vlm
        assert isinstance(settings, LiveEditFit)
        torch.manual_seed(settings.seed)
        site = site_of(vlm, settings.layer)
        cases = fitting_cases(fitting)
        return cls(fitting, cases, site, LiveEditNetwork(vlm.site_shape(site)[0], asdict(settings)))

    def start(self) -> None:
        """Looks at how large what leaves the site is."""
        trunk = self._trunk([self._own(number) for number in range(min(SIZE_OF, len(self)))])
        tokens = self.vlm.site_output(trunk, self.site)[trunk.encoded.question_mask]
        self.module.size.copy_(tokens.float().pow(2).mean().sqrt())

    def losses_of(self, numbers: Sequence[int], draw: random.Random) -> Mapping[str, Tensor]:
        """The terms of some edits, and of the routing among them."""
        numbers = list(dict.fromkeys(numbers))
        inside = [(place, one) for place, number in enumerate(numbers) for one in self._inside(number, draw)]
        outside = [(place, one) for place, number in enumerate(numbers) for one in self._outside(number, draw)]
        kept = ["locality"] * len(outside)
        for place, number in enumerate(numbers):
            for term, forced in self._terms(number):
                outside.append((place, forced))
                kept.append(term)
        asked = [*inside, *outside]
        trunk = self._trunk([*(self._own(number) for number in numbers), *(one for _, one in asked)])
        tokens, encoded, count = self.vlm.site_output(trunk, self.site), trunk.encoded, len(numbers)
        made = [edit_of(self.module, tokens[row], encoded, row) for row in range(count)]
        seen = [
            self.module.features(
                self.module.of_request, tokens[row], encoded.question_mask[row], encoded.visual_mask[row]
            )
            for row in range(count, count + len(asked))
        ]
        phi, psi = (torch.stack([getattr(own, name) for own, _ in made]) for name in ("phi", "psi"))
        experts = [
            Experts([(affinity(one.psi, psi[place]).sigmoid(), *made[place][1])])  # type: ignore[list-item]
            for one, (place, _) in zip(seen, asked, strict=True)
        ]
        rows = trunk.select(list(range(count, count + len(asked))))
        logits, owners, targets = self._logits(rows, experts), rows.encoded.target_rows, rows.encoded.targets
        own = owners < len(inside)
        weights = self.settings.weights
        found = {"answer": weights.edit * answer_loss(logits[own], targets[own])}
        if outside:
            base = self._base(rows, list(range(len(inside), len(asked))))
            of, edited = owners[~own] - len(inside), logits[~own]
            for term in dict.fromkeys(kept):
                at = torch.isin(of, torch.tensor([n for n, name in enumerate(kept) if name == term], device=of.device))
                weight = weights.locality if term == "locality" else weights.adversarial
                found[term] = weight * kl_from_base(base[at], edited[at])
        if self.light_steps:
            return found
        usual = len(inside) + kept.count("locality")  # the gates learn from the benchmark's own cells alone
        places = [place for place, _ in asked[:usual]]
        gates = Features(*(torch.stack(some) for some in zip(*seen[:usual], strict=True)))
        return {**found, **routing(gates, places, len(inside), phi, psi)}

    # --- routing in steps of its own ------------------------------------------------------------------------------

    @property
    def light_steps(self) -> int:
        """Steps on the routing alone before each step that runs the model above the site."""
        return self.settings.routing_steps

    def light_losses(self, step: int, draw: random.Random) -> Mapping[str, Tensor]:
        """The routing among `routing` edits (`drawn`)."""
        read = [self._read(number) for number in self.drawn(self.settings.routing, step, draw)]
        inside, outside = [], []
        for place, (known, away) in enumerate(read):
            inside += [(place, one) for one in (known[0], *draw.sample(known[1:], min(1, len(known) - 1)))]
            outside += [(place, one) for one in draw.sample(away, min(2, len(away)))]
        edits = self._features("of_edit", [known[0] for known, _ in read])
        asked = [*inside, *outside]
        seen = self._features("of_request", [one for _, one in asked])
        return routing(seen, [place for place, _ in asked], len(inside), edits.phi, edits.psi)

    def _features(self, extractor: str, prompts: Sequence[tuple[Tensor, Tensor]]) -> Features:
        module, device = self.module, self.vlm.device
        questions = [question.to(device).float() for question, _ in prompts]
        visuals = [visual.to(device).float() if len(visual) else module.blind for _, visual in prompts]
        return getattr(module, extractor).many(questions, visuals, module.sentinel)

    def _read(self, number: int) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
        """What leaves the site at the question's and the picture's tokens, of an edit's requests in scope, itself first, and out
        of scope; run once, and kept in the model's precision."""
        if number not in self._kept:
            case = self.cases[number]
            probes = list(usual_probes(case))
            inside = [self._own(number), *(self._forced(one, case) for known, one in probes if known)]
            outside = [self._forced(one, case) for known, one in probes if not known]
            parts = [[one for one in some if self.requests.fits(one)] for some in (inside, outside)]
            with torch.no_grad():
                trunk = self._trunk([one for some in parts for one in some])
                tokens, encoded = self.vlm.site_output(trunk, self.site), trunk.encoded
                rows = [
                    (row[question].clone(), row[visual].clone())
                    for row, question, visual in zip(tokens, encoded.question_mask, encoded.visual_mask, strict=True)
                ]
            self._kept[number] = rows[: len(parts[0])], rows[len(parts[0]) :]
        return self._kept[number]

    @staticmethod
    def _forced(probe: Probe, case: EditCase) -> Forced:
        return Forced(probe.image, probe.question, case.request.answer)

    def _logits(self, rows: Trunk, experts: Sequence[Experts]) -> Tensor:
        with layers_acting(self.vlm, [{self.site: expert} for expert in experts], rows.encoded):
            return self.vlm.head(rows, positions=rows.encoded.predict_mask).float()

    def _base(self, rows: Trunk, some: Sequence[int]) -> Tensor:
        """(n, V): the base's log-probabilities where these rows' answers are predicted."""
        vlm, part = self.vlm, rows.select(some)
        with vlm.lock, torch.inference_mode(False), torch.no_grad():
            hidden = vlm.run_layers(part, part.hidden, part.layer)
            return base_log_probs(vlm, vlm.anatomy.finish(hidden[part.encoded.predict_mask]))

    # --- cases --------------------------------------------------------------------------------------------------------

    def _trunk(self, asked: Sequence[Forced]) -> Trunk:
        return self.vlm.trunk(self.requests.batch(asked), self.layer)

    def _own(self, number: int) -> Forced:
        request = self.cases[number].request
        return Forced(request.image, request.question, request.answer)

    def _inside(self, number: int, draw: random.Random) -> list[Forced]:
        """The edit itself, and one request in its scope."""
        case = self.cases[number]
        probes = [probe for inside, probe in usual_probes(case) if inside]
        return [self._own(number), *self._some(probes, case.request.answer, draw, 1)]

    def _outside(self, number: int, draw: random.Random) -> list[Forced]:
        """Two requests out of scope; any text may be forced there, as the base's distribution is what is wanted."""
        case = self.cases[number]
        return self._some([probe for inside, probe in usual_probes(case) if not inside], "", draw, 2, case)

    def _terms(self, number: int) -> list[tuple[str, Forced]]:
        """The adversarial terms of an edit, with its answer forced."""
        case = self.cases[number]
        planned = term_probes(case, self.settings.terms()).items()
        found = [(term, Forced(probe.image, probe.question, case.request.answer)) for term, probe in planned]
        return [(term, forced) for term, forced in found if self.requests.fits(forced)]

    def _some(
        self, probes: list[Probe], answer: str, draw: random.Random, most: int, case: EditCase | None = None
    ) -> list[Forced]:
        chosen = draw.sample(probes, min(most, len(probes)))
        found = [
            Forced(p.image, p.question, answer or p.answer or (case.request.answer if case else "")) for p in chosen
        ]
        return [one for one in found if self.requests.fits(one)]


def routing(seen: Features, places: Sequence[int], inside: int, phi: Tensor, psi: Tensor) -> dict[str, Tensor]:
    """In scope the own edit must win, by the picture against the others and the sentinel, by the words against the others; out of
    scope the sentinel must.

    Args:
        seen: (N, queries, width) each, of requests, the first `inside` of which are in scope.
        places: the edit that each belongs to.
        phi, psi: (E, queries, width) of the edits.
    """
    own, wanted = torch.tensor(places[:inside], device=phi.device), torch.tensor(places, device=phi.device)
    visual = torch.cat([affinity(seen.phi[:, None], phi[None]), affinity(seen.phi, seen.sentinel)[:, None]], 1)
    texts = affinity(seen.psi[:, None], psi[None])
    mine = texts[:inside].gather(1, own[:, None])[:, 0]
    found = {"visual": F.cross_entropy(visual[:inside], own)}
    found["text"] = F.cross_entropy(texts[:inside], own) + F.softplus(-mine).mean()
    if len(phi) > 1:
        rest = F.one_hot(own, len(phi)).logical_not()
        found["text"] = found["text"] + F.softplus(texts[:inside][rest]).mean()
    if len(places) > inside:
        away = visual[inside:]
        pair = torch.stack([away.gather(1, wanted[inside:, None])[:, 0], away[:, -1]], 1)
        found["sentinel"] = F.cross_entropy(pair, torch.ones_like(wanted[inside:]))
    return found
