"""Fitting RECIPE: what embeddings teach the answer, which statement a query asks for, and when none is asked for.

Source: Chen et al., EMNLP 2024, Sec. 4.3; all terms weigh 1.  The language model is frozen, but gradients go through all of it,
as the embeddings stand at its input: no part of it can be kept between steps.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.case import EditCase, Probe
from ..errors import InputError
from ..vlm.acting import acting
from .cited_cases import opened
from .features import Features, mean_picture
from .ft_v import forced_logits
from .recipe import RecipeFit, RecipeNetwork, fresh_network, scores
from .training.cases import training_case
from .training.losses import kl_from_base

if TYPE_CHECKING:
    from .training.fitting import Fitting

LEAD = 1.2
"""A token whose probability is so many times the runner-up's is learnt and no longer counts; the sentinel alike."""
MEAN_OF = 32
BASE_TOKENS = 12


class RecipeJob:
    """What `training.loop` runs."""

    def __init__(self, fitting: Fitting, cases: list[EditCase], features: Features, network: RecipeNetwork):
        self.fitting, self.cases, self.features, self.vlm = fitting, cases, features, fitting.vlm
        assert isinstance(fitting.settings, RecipeFit)
        self.settings, self.module = fitting.settings, network
        self._seen: dict[int, dict[str, Any]] = {}

    @classmethod
    def of(cls, fitting: Fitting) -> RecipeJob:
        """The job of a fitting."""
        settings, vlm = fitting.settings, fitting.vlm
        assert isinstance(settings, RecipeFit)
        torch.manual_seed(settings.seed)
        features = Features(vlm, settings.encoder)
        cases = [training_case(case, settings.per_cell, settings.seed) for case in fitting.cases]
        pictures = features.pictures([opened(case.request.image) for case in cases[:1]]).shape[1]
        return cls(fitting, cases, features, fresh_network(vlm, asdict(settings), features.text_width, pictures))

    def run(self, editor: str) -> Path:
        """Runs the fitting to its end."""
        return self.fitting.run(editor, self, clip=1.0)

    def __len__(self) -> int:
        return len(self.cases)

    def start(self) -> None:
        """Looks at some pictures."""
        some = [self.features.pictures([opened(case.request.image)]) for case in self.cases[:MEAN_OF]]
        self.module.mean.copy_(mean_picture(torch.cat(some)))

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.module.parameters(), lr=self.settings.learning_rate)

    def losses(self, number: int, draw: random.Random) -> Mapping[str, Tensor]:
        """The terms of one edit: its answer in scope, the base's answer out of scope, and the contrast over some edits."""
        others = [other for other in range(len(self)) if other != number]
        some = [number, *draw.sample(others, min(self.settings.contrast - 1, len(others)))]
        return {**self._spoken(number, draw), **self._contrast(some, draw)}

    # --- what the model says with the embeddings --------------------------------------------------------------------

    def _spoken(self, number: int, draw: random.Random) -> dict[str, Tensor]:
        inside, outside = self._probes(number)
        request = self.cases[number].request
        seen = self._vectors(number)
        soft = self.module.prompts(self.module.statements(seen["statement"], seen["pictures"][:1]))[0]
        chosen = [inside[0], *([draw.choice(inside[1:])] if inside[1:] else [])]
        found = {}
        logits, targets = self._forced(chosen, [request.answer] * len(chosen), soft)
        found["edit"] = hinge(logits, targets)
        if outside:
            probe, said = draw.choice(outside)
            with torch.no_grad():
                base = self._forced([probe], [said], None)[0].log_softmax(-1)
            found["locality"] = kl_from_base(base, self._forced([probe], [said], soft)[0])
        return found

    def _forced(self, probes: Sequence[Probe], answers: Sequence[str], soft: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits (n, V) that predict the answers, and their tokens."""
        images, questions = [opened(one.image) for one in probes], [one.question for one in probes]
        given = None if soft is None else [soft] * len(probes)
        encoded = self.vlm.encode(images, questions, answers, given)
        with acting(self.vlm, [None] * len(probes), encoded):
            return forced_logits(self.vlm, encoded).float(), encoded.targets

    # --- which edit is asked for ------------------------------------------------------------------------------------

    def _contrast(self, numbers: Sequence[int], draw: random.Random) -> dict[str, Tensor]:
        seen = [self._vectors(number) for number in numbers]
        rows = [draw.randrange(int(one["inside"])) for one in seen]
        module = self.module
        keys = module.statements(
            torch.cat([one["statement"] for one in seen]), torch.cat([one["pictures"][:1] for one in seen])
        )
        keys = torch.cat([keys, module.theta()[None]])
        asked = module.queries(
            torch.cat([one["questions"][row, None] for one, row in zip(seen, rows, strict=True)]),
            torch.cat([one["pictures"][row, None] for one, row in zip(seen, rows, strict=True)]),
        )
        others = [(one["questions"][int(one["inside"]) :], one["pictures"][int(one["inside"]) :]) for one in seen]
        away = module.queries(torch.cat([q for q, _ in others]), torch.cat([p for _, p in others]))
        return contrast(scores(asked, keys), scores(away, keys))

    def _probes(self, number: int) -> tuple[list[Probe], list[tuple[Probe, str]]]:
        """In scope, the edit first; out of scope with what the base says, where that can be forced."""
        if number not in self._seen:
            case = self.cases[number]
            inside = [Probe(case.request.image, case.request.question)]
            outside = []
            for family, _, _, probe in case.probes():
                (inside if family == "generality" else outside).append(probe)
            said = (
                self.vlm.answer([opened(p.image) for p in outside], [p.question for p in outside], BASE_TOKENS)
                if outside
                else []
            )
            self._seen[number] = {"inside": inside, "outside": list(zip(outside, said, strict=True))}
        seen = self._seen[number]
        return seen["inside"], [(p, text) for p, text in seen["outside"] if self._fits(p, text)]

    def _fits(self, probe: Probe, answer: str) -> bool:
        try:
            self.vlm.answer_tokens(probe.question, answer, probe.image is not None)
        except InputError:
            return False
        return True

    def _vectors(self, number: int) -> dict[str, Any]:
        inside, _ = self._probes(number)
        seen = self._seen[number]
        if "statement" not in seen:
            request = self.cases[number].request
            probes = [*inside, *(probe for probe, _ in seen["outside"])]
            seen["statement"] = self.features.questions([f"{request.question} {request.answer}"])
            seen["questions"] = self.features.questions([probe.question for probe in probes])
            seen["pictures"] = torch.cat([self.features.pictures([opened(probe.image)]) for probe in probes])
            seen["n_inside"] = len(inside)
        return {**seen, "inside": seen["n_inside"]}


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
