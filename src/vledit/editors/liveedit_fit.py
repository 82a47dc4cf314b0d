"""Fitting LiveEdit: what the generated expert makes the model say in and out of scope, and which experts a request passes.

Source: Chen et al., CVPR 2025, Sec. 3.4; all terms weigh 1.  The model is frozen, gradients are taken above the site only.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..vlm.acting import layers_acting
from .liveedit import Experts, Features, LiveEditFit, LiveEditNetwork, affinity, edit_of, site_of
from .training.cases import Rows, TrainingCases
from .training.losses import answer_loss, kl_from_base

if TYPE_CHECKING:
    from .training.fitting import Fitting


class LiveEditJob:
    """What `training.loop` runs."""

    def __init__(self, fitting: Fitting, cases: TrainingCases, site: str, network: LiveEditNetwork):
        assert isinstance(fitting.settings, LiveEditFit)
        self.fitting, self.cases, self.site, self.vlm = fitting, cases, site, fitting.vlm
        self.settings, self.module = fitting.settings, network.to(fitting.vlm.device)

    @classmethod
    def of(cls, fitting: Fitting) -> LiveEditJob:
        """The job of a fitting.  Raises: InputError for settings that do not fit the model."""
        settings, vlm = fitting.settings, fitting.vlm
        assert isinstance(settings, LiveEditFit)
        torch.manual_seed(settings.seed)
        site = site_of(vlm, settings.layer)
        cases = fitting.training_cases(vlm.resolve_site(site).layer)
        return cls(fitting, cases, site, LiveEditNetwork(vlm.site_shape(site)[0], asdict(settings)))

    def run(self, editor: str) -> Path:
        """Runs the fitting to its end."""
        return self.fitting.run(editor, self, clip=1.0)

    def __len__(self) -> int:
        return len(self.cases)

    def start(self) -> None:
        """Nothing is measured beforehand."""

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.module.parameters(), lr=self.settings.learning_rate)

    def losses(self, number: int, draw: random.Random) -> Mapping[str, Tensor]:
        """The terms of one edit, and of the routing among some."""
        case = self.cases[number]
        own, (read, write) = self._edit(number)
        weight = torch.sigmoid(affinity(own.psi, own.psi))
        expert = Experts([(weight, read, write)])  # type: ignore[list-item]
        found: dict[str, Tensor] = {}
        inside = [0, *self._some(case.rows("generality"), draw)]
        for part in case.frozen(inside):
            loss = answer_loss(self._logits(part, expert), part.targets)
            found["answer"] = found.get("answer", loss * 0) + loss
        for part in case.frozen(self._some(case.rows("locality"), draw)):
            loss = kl_from_base(part.base_log_probs(), self._logits(part, expert))
            found["locality"] = found.get("locality", loss * 0) + loss
        return {**found, **self._routing(number, own, draw)}

    def _some(self, rows: list[int], draw: random.Random) -> list[int]:
        return draw.sample(rows, min(2, len(rows)))

    def _logits(self, part: Rows, expert: Experts) -> Tensor:
        with layers_acting(self.vlm, [{self.site: expert}] * len(part.trunk), part.trunk.encoded):
            return self.vlm.head(part.trunk, positions=part.positions).float()

    def _edit(self, number: int) -> tuple[Features, tuple[Tensor, Tensor]]:
        (part,) = self.cases[number].frozen([0])
        return edit_of(self.module, self.vlm.site_output(part.trunk, self.site)[0], part.trunk.encoded)

    def _asked(self, number: int, row: int) -> Features:
        """A request's features, of its prompt alone: the mask of the question holds nothing of the answer."""
        (part,) = self.cases[number].frozen([row])
        tokens, encoded = self.vlm.site_output(part.trunk, self.site)[0], part.trunk.encoded
        return self.module.features(self.module.of_request, tokens, encoded.question_mask[0], encoded.visual_mask[0])

    def _routing(self, number: int, own: Features, draw: random.Random) -> dict[str, Tensor]:
        others = [other for other in range(len(self)) if other != number]
        some = draw.sample(others, min(self.settings.contrast - 1, len(others)))
        edits = [own, *(self._edit(other)[0] for other in some)]
        phi, psi = torch.stack([one.phi for one in edits]), torch.stack([one.psi for one in edits])
        case = self.cases[number]
        asked = self._asked(number, draw.choice([0, *case.rows("generality")]))
        hard = torch.cat([affinity(asked.phi, phi), affinity(asked.phi, asked.sentinel)[None]])
        soft = affinity(asked.psi, psi)
        found = {"visual": F.cross_entropy(hard[None], hard.new_zeros(1, dtype=torch.long))}
        found["text"] = F.cross_entropy(soft[None], soft.new_zeros(1, dtype=torch.long)) + F.softplus(-soft[0])
        if len(soft) > 1:
            found["text"] = found["text"] + F.softplus(soft[1:]).mean()
        outside = case.rows("locality")
        if outside:
            away = self._asked(number, draw.choice(outside))
            scores = torch.stack([affinity(away.phi, own.phi), affinity(away.phi, away.sentinel)])
            found["sentinel"] = F.cross_entropy(scores[None], scores.new_ones(1, dtype=torch.long))
        return found
