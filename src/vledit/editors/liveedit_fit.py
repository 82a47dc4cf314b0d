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

from ..data.case import EditCase
from ..vlm.acting import layers_acting
from .adversarial_fit import fitting_cases, term_probes, usual_probes
from .liveedit import Experts, Features, LiveEditFit, LiveEditNetwork, affinity, edit_of, site_of
from .retrieval_job import FittedJob
from .training.frozen import FrozenRequests, Kept
from .training.losses import answer_loss, kl_from_base
from .training.requests import Forced, Requests

if TYPE_CHECKING:
    from ..vlm.base import Trunk
    from .training.fitting import Fitting

SIZE_OF = 8
"""Training edits whose prompts say how large what leaves the site is."""

AWAY = 1
"""Requests out of scope per edit and step."""

PICTURES_GB = 0.1
"""Most that pictures take: each is needed once, when its edit is read."""

INSIDE, OUTSIDE = "inside", "outside"


class LiveEditJob(FittedJob[LiveEditFit, LiveEditNetwork]):
    """What `training.loop` runs.

    Everything below the experts is frozen: the requests of an edit run it once, when the edit is drawn first.
    """

    def __init__(self, fitting: Fitting, cases: list[EditCase], site: str, network: LiveEditNetwork):
        super().__init__(fitting, cases, network)
        self.site = site
        self.requests = Requests(self.vlm, min(self.settings.memory_gb, PICTURES_GB))
        self.frozen = Kept(self._read, self.settings.memory_gb)

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
        found = [self.frozen[number] for number in range(min(SIZE_OF, len(self)))]
        tokens = torch.cat([one.tokens[0][one.trunk.encoded.question_mask[0]] for one in found])
        self.module.size.copy_(tokens.float().pow(2).mean().sqrt())

    def losses_of(self, numbers: Sequence[int], draw: random.Random) -> Mapping[str, Tensor]:
        """The terms of some edits, and of the routing among them."""
        numbers = list(dict.fromkeys(numbers))
        parts = [(self.frozen[number], *self._chosen(self.frozen[number], draw)) for number in numbers]
        made = [edit_of(self.module, one.tokens[0], one.trunk.encoded) for one, *_ in parts]
        seen = [self._features("of_request", [self._prompt(one, row) for row in rows]) for one, rows, _ in parts]
        said: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for (one, rows, names), (own, expert), asked in zip(parts, made, seen, strict=True):
            gates = affinity(asked.psi, own.psi).sigmoid()
            picked = one.trunk.select(rows)
            logits = self._logits(picked, [Experts([(gate, *expert)]) for gate in gates])
            owners = picked.encoded.target_rows
            for name in dict.fromkeys(names):
                places = [place for place, found in enumerate(names) if found == name]
                at = torch.isin(owners, torch.tensor(places, device=owners.device))
                wanted = picked.encoded.targets[at] if name == INSIDE else one.base_log_probs([rows[p] for p in places])
                said.setdefault(name, []).append((logits[at], wanted))
        weights = self.settings.weights
        found = {}
        for name, pairs in said.items():
            logits, wanted = (torch.cat(some) for some in zip(*pairs, strict=True))
            if name == INSIDE:
                found["answer"] = weights.edit * answer_loss(logits, wanted)
            else:
                weight = weights.locality if name == OUTSIDE else weights.adversarial
                found["locality" if name == OUTSIDE else name] = weight * kl_from_base(wanted, logits)
        if self.light_steps:
            return found
        # the gates learn from the benchmark's own cells alone
        asked = [
            (name == OUTSIDE, place, Features(*(part[row] for part in some)))
            for place, ((_, _, names), some) in enumerate(zip(parts, seen, strict=True))
            for row, name in enumerate(names)
            if name in (INSIDE, OUTSIDE)
        ]
        asked.sort(key=lambda one: one[0])
        gates = Features(*(torch.stack(some) for some in zip(*(one for *_, one in asked), strict=True)))
        phi, psi = (torch.stack([getattr(own, name) for own, _ in made]) for name in ("phi", "psi"))
        inside = sum(not away for away, *_ in asked)
        return {**found, **routing(gates, [place for _, place, _ in asked], inside, phi, psi)}

    def _chosen(self, one: FrozenRequests, draw: random.Random) -> tuple[list[int], list[str]]:
        """Rows of a step, and what each is: the edit itself, requests in its scope and out of it, the adversarial terms."""
        known, away = one.at(INSIDE), one.at(OUTSIDE)
        rows = [0, *draw.sample(known[1:], min(1, len(known) - 1)), *draw.sample(away, min(AWAY, len(away)))]
        rows += [row for row, name in enumerate(one.names) if name not in (INSIDE, OUTSIDE)]
        return rows, [one.names[row] for row in rows]

    # --- routing in steps of its own ------------------------------------------------------------------------------

    @property
    def light_steps(self) -> int:
        """Steps on the routing alone before each step that runs the model above the site."""
        return self.settings.routing_steps

    def light_losses(self, step: int, draw: random.Random) -> Mapping[str, Tensor]:
        """The routing among `routing` edits (`drawn`)."""
        inside, outside, edits = [], [], []
        for place, number in enumerate(self.drawn(self.settings.routing, step, draw)):
            one = self.frozen[number]
            known, away = one.at(INSIDE), one.at(OUTSIDE)
            edits.append(self._prompt(one, 0))
            for row in (0, *draw.sample(known[1:], min(1, len(known) - 1))):
                inside.append((place, self._prompt(one, row)))
            for row in draw.sample(away, min(2, len(away))):
                outside.append((place, self._prompt(one, row)))
        own = self._features("of_edit", edits)
        asked = [*inside, *outside]
        seen = self._features("of_request", [one for _, one in asked])
        return routing(seen, [place for place, _ in asked], len(inside), own.phi, own.psi)

    def _features(self, extractor: str, prompts: Sequence[tuple[Tensor, Tensor]]) -> Features:
        module = self.module
        questions = [question.float() for question, _ in prompts]
        visuals = [visual.float() if len(visual) else module.blind for _, visual in prompts]
        return getattr(module, extractor).many(questions, visuals, module.sentinel)

    @staticmethod
    def _prompt(one: FrozenRequests, row: int) -> tuple[Tensor, Tensor]:
        """What leaves the site at a row's question and at its picture."""
        tokens, encoded = one.tokens[row], one.trunk.encoded
        return tokens[encoded.question_mask[row]], tokens[encoded.visual_mask[row]]

    def _logits(self, rows: Trunk, experts: Sequence[Experts]) -> Tensor:
        with layers_acting(self.vlm, [{self.site: expert} for expert in experts], rows.encoded):
            return self.vlm.head(rows, positions=rows.encoded.predict_mask).float()

    # --- cases --------------------------------------------------------------------------------------------------------

    def _read(self, number: int) -> FrozenRequests:
        """An edit's requests: itself, in scope with its answer, out of scope, where any text may be forced, as the base's
        distribution is what is wanted, and the adversarial terms with its answer."""
        case, probes = self.cases[number], list(usual_probes(self.cases[number]))
        request, answer = case.request, case.request.answer
        asked = [(INSIDE, Forced(request.image, request.question, answer))]
        asked += [(INSIDE, Forced(one.image, one.question, answer)) for known, one in probes if known]
        asked += [
            (OUTSIDE, Forced(one.image, one.question, one.answer or answer)) for known, one in probes if not known
        ]
        planned = term_probes(case, self.settings.terms()).items()
        asked += [(term, Forced(one.image, one.question, answer)) for term, one in planned]
        return FrozenRequests.read(
            self.requests, self.site, [asked[0], *((name, one) for name, one in asked[1:] if self.requests.fits(one))]
        )


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
