"""Fitting RECIPE: what embeddings teach the answer, which statement a query asks for, and when none is asked for.

Source: Chen et al., EMNLP 2024, Sec. 4.3; all terms weigh 1.  The language model is frozen, but gradients go through all of it,
as the embeddings stand at its input: no part of it can be kept between steps.

The contrast terms need sentence and picture vectors only, which are computed once.  With `contrast_steps` they are not part of
the few steps that run the model, but have many steps of their own between these.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.case import EditCase, LazyPicture, Probe
from ..vlm.acting import acting
from .adversarial_fit import term_probes, usual_probes
from .ft_v import forced_logits
from .recipe import RecipeFit, RecipeNetwork, answer_words, fresh_network, scores
from .retrieval_job import RetrievalJob
from .training.cases import training_case
from .training.losses import kl_from_base
from .training.requests import Forced, Requests

if TYPE_CHECKING:
    from ..vlm.base import VLM, Encoded
    from .features import Features
    from .training.fitting import Fitting

LEAD = 1.2
"""A token whose probability is so many times the runner-up's is learnt and no longer counts; the sentinel alike."""

CALM = 0.2
"""Share of the learning rate for what makes the embeddings."""


class RecipeJob(RetrievalJob[RecipeFit, RecipeNetwork]):
    """What `training.loop` runs."""

    def __init__(self, fitting: Fitting, cases: list[EditCase], features: Features, network: RecipeNetwork):
        super().__init__(fitting, cases, features, network)
        self.requests = Requests(self.vlm, self.settings.memory_gb)
        self._seen: dict[int, dict[str, Any]] = {}

    @classmethod
    def network(cls, vlm: VLM, settings: dict[str, Any], texts: int, pictures: int) -> RecipeNetwork:
        """See `fresh_network`."""
        return fresh_network(vlm, settings, texts, pictures)

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam; what makes embeddings of a statement learns at a lower rate, as a statement's numbers are large."""
        rate, module = self.settings.learning_rate, self.module
        makes = [*module.inner.parameters(), *module.outer.parameters()]
        rest = [one for one in module.parameters() if not any(one is other for other in makes)]
        return torch.optim.Adam([{"params": rest, "lr": rate}, {"params": makes, "lr": rate * CALM}])

    def losses_of(self, numbers: Sequence[int], draw: random.Random) -> Mapping[str, Tensor]:
        """The terms of some edits: their answers in scope, the base's answers out of scope and in the adversarial terms, and the
        contrast over these edits and some more, unless that has steps of its own."""
        numbers = list(dict.fromkeys(numbers))
        if self.light_steps:
            return self._spoken(numbers, draw)
        others = [other for other in range(len(self)) if other not in numbers]
        some = [*numbers, *draw.sample(others, min(max(self.settings.contrast - len(numbers), 0), len(others)))]
        return {**self._spoken(numbers, draw), **self._contrast(some, draw)}

    @property
    def light_steps(self) -> int:
        """Steps on the contrast alone before each step that runs the model."""
        return self.settings.contrast_steps

    def light_losses(self, step: int, draw: random.Random) -> Mapping[str, Tensor]:
        """The contrast over `contrast` edits (`drawn`)."""
        return self._contrast(self.drawn(self.settings.contrast, step, draw), draw)

    # --- what the model says with the embeddings --------------------------------------------------------------------

    def _spoken(self, numbers: Sequence[int], draw: random.Random) -> dict[str, Tensor]:
        inside: list[tuple[Forced, Tensor]] = []
        outside: list[tuple[Forced, Tensor]] = []
        kept: list[str] = []
        for number in numbers:
            known, away = self._probes(number)
            request, seen = self.cases[number].request, self._vectors(number)
            statement = self.module.statements(seen["statement"].to(self.vlm.device), self._first_picture(seen))
            soft = self.module.prompts(statement, seen["words"][None])[0]
            chosen = [known[0], *([draw.choice(known[1:])] if known[1:] else [])]
            inside += [(Forced(one.image, one.question, request.answer), soft) for one in chosen]
            if away:
                outside.append((draw.choice(away), soft))
                kept.append("locality")
            for term, probe in term_probes(self.cases[number], self.settings.terms()).items():
                forced = Forced(probe.image, probe.question, request.answer)
                if self.requests.fits(forced):
                    outside.append((forced, soft))
                    kept.append(term)
        rows = [*inside, *outside]
        encoded = self.requests.batch([one for one, _ in rows], [soft for _, soft in rows])
        logits, owners = self._logits(encoded), encoded.target_rows
        own = owners < len(inside)
        weights = self.settings.weights
        found = {"edit": weights.edit * hinge(logits[own], encoded.targets[own])}
        if outside:
            with torch.no_grad():
                base = self._logits(self.requests.batch([one for one, _ in outside])).log_softmax(-1)
            of, edited = owners[~own] - len(inside), logits[~own]
            for term in dict.fromkeys(kept):
                places = torch.tensor([n for n, name in enumerate(kept) if name == term], device=of.device)
                at = torch.isin(of, places)
                weight = weights.locality if term == "locality" else weights.adversarial
                found[term] = weight * kl_from_base(base[at], edited[at])
        return found

    def _logits(self, encoded: Encoded) -> Tensor:
        """(n, V): logits that predict the forced answers."""
        with acting(self.vlm, [None] * len(encoded), encoded):
            return forced_logits(self.vlm, encoded).float()

    def _first_picture(self, seen: Mapping[str, Any]) -> Tensor:
        return seen["pictures"][:1].to(self.vlm.device)

    # --- which edit is asked for ------------------------------------------------------------------------------------

    def _contrast(self, numbers: Sequence[int], draw: random.Random) -> dict[str, Tensor]:
        seen = [self._vectors(number) for number in numbers]
        rows = [draw.randrange(int(one["inside"])) for one in seen]
        module, device = self.module, self.vlm.device
        keys = module.statements(
            torch.cat([one["statement"] for one in seen]).to(device),
            torch.cat([one["pictures"][:1] for one in seen]).to(device),
        )
        keys = torch.cat([keys, module.theta()[None]])
        pairs = list(zip(seen, rows, strict=True))
        asked = module.queries(
            torch.cat([one["questions"][row, None] for one, row in pairs]).to(device),
            torch.cat([one["pictures"][row, None] for one, row in pairs]).to(device),
        )
        others = [(one["questions"][int(one["inside"]) :], one["pictures"][int(one["inside"]) :]) for one in seen]
        away = module.queries(
            torch.cat([q for q, _ in others]).to(device), torch.cat([p for _, p in others]).to(device)
        )
        return contrast(scores(asked, keys), scores(away, keys))

    def _probes(self, number: int) -> tuple[list[Probe], list[Forced]]:
        """In scope, the edit first; out of scope with what is forced there: any text will do, as the base's distribution is what
        is wanted."""
        if number not in self._seen:
            case = self.cases[number]
            inside = [Probe(case.request.image, case.request.question)]
            outside = []
            for known, probe in usual_probes(case):
                (inside if known else outside).append(probe)
            forced = [Forced(one.image, one.question, one.answer or case.request.answer) for one in outside]
            self._seen[number] = {
                "inside": inside,
                "outside": outside,
                "forced": [one for one in forced if self.requests.fits(one)],
            }
        seen = self._seen[number]
        return seen["inside"], seen["forced"]

    def _vectors(self, number: int) -> dict[str, Any]:
        inside, _ = self._probes(number)
        seen = self._seen[number]
        if "statement" not in seen:
            request = self.cases[number].request
            more = self._more_texts(number)
            inside = [*inside, *(probe for known, probe in more if known)]
            probes = [*inside, *seen["outside"], *(probe for known, probe in more if not known)]
            seen["words"] = answer_words(self.vlm, request, self.settings.tokens)
            seen["statement"] = self.features.questions([f"{request.question} {request.answer}"])
            seen["questions"] = self.features.questions([probe.question for probe in probes])
            seen["pictures"] = self.features.pictures([probe.image for probe in probes])
            seen["n_inside"] = len(inside)
        return {**seen, "inside": seen["n_inside"]}

    def _more_texts(self, number: int) -> list[tuple[bool, Probe]]:
        """(in scope?, probe) of more questions about the edit's own picture, which cost no look at another one."""
        settings, own = self.settings, self.cases[number]
        if settings.wordings <= settings.per_cell:
            return []
        wide = training_case(self.fitting.cases[number], settings.wordings, settings.seed)
        known = {probe.question for _, probe in usual_probes(own) if same_picture(probe.image, own.request.image)}
        return [
            (inside, probe)
            for inside, probe in usual_probes(wide)
            if same_picture(probe.image, own.request.image) and probe.question not in known
        ]


def same_picture(one: Any, other: Any) -> bool:
    """Whether two pictures are one and the same by name; pictures without a name are compared by identity."""
    if isinstance(one, LazyPicture) and isinstance(other, LazyPicture):
        return one.key == other.key
    return one is other or (isinstance(one, str | Path) and isinstance(other, str | Path) and str(one) == str(other))


def hinge(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood over those tokens whose probability is below `LEAD` times the runner-up's; 0 without any."""
    likely = logits.log_softmax(-1)
    own = likely.gather(1, targets[:, None])[:, 0]
    rival = likely.scatter(1, targets[:, None], float("-inf")).amax(1)
    counts = (own.exp() < LEAD * rival.exp()).detach()
    return -(own * counts).sum() / counts.sum().clamp(min=1)


def contrast(asked: Tensor, away: Tensor) -> dict[str, Tensor]:
    """The three terms of the contrast.

    Args:
        asked: (N, N + 1), scores of a query of each edit with all statements and, last, the sentinel.
        away: (M, N + 1), those of queries out of scope.

    Returns: "own": the own statement must win; "sentinel": without it the sentinel must; "away": there too.
    """
    count = len(asked)
    own = torch.arange(count, device=asked.device)
    found = {"own": F.cross_entropy(asked, own)}
    rest = asked.masked_fill(F.one_hot(own, count + 1).bool(), float("-inf"))
    found["sentinel"] = _sentinel(rest)
    if len(away):
        found["away"] = _sentinel(away)
    return found


def _sentinel(rows: Tensor) -> Tensor:
    """−log softmax of the last column, where it does not lead by `LEAD`."""
    likely = rows.log_softmax(-1)
    if rows.shape[1] < 2 or bool(torch.isinf(likely[:, :-1]).all()):
        return rows[:, -1].sum() * 0.0
    counts = (likely[:, -1].exp() < LEAD * likely[:, :-1].amax(1).exp()).detach()
    return -(likely[:, -1] * counts).sum() / counts.sum().clamp(min=1)
