"""Fitting MEND's hypernetwork: each step edits the base anew, and asks what the edit did in and out of scope.

Source: Mitchell et al., ICLR 2022, Eq. 4 and Alg. 1: c_edit · NLL of the answer on rephrases and other pictures, plus c_loc ·
KL(base ‖ edited) out of scope.  u and δ are constants of a step; the loss is differentiated through the change that they
become, into every parameter of the network (one released fork formed the change without gradient, and only step sizes learnt).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InputError
from .gradient_factors import Factors, gradient_factors
from .mend import MendFit, changes, hidden_with, lowest, shapes
from .mend_network import MendNetwork
from .training.cases import base_log_probs
from .training.losses import answer_loss, kl_from_base

if TYPE_CHECKING:
    from ..codebook import SpanTransformation
    from .training.cases import TrainingCase, TrainingCases
    from .training.fitting import Fitting

IN_SCOPE = ("generality/text", "generality/image")


def cells_of(settings: MendFit) -> list[str]:
    """The cells that a step draws one probe of each from."""
    return [*IN_SCOPE, *(f"locality/{name.strip()}" for name in settings.locality.split(",") if name.strip())]


class MendJob:
    """What `training.loop` runs.

    Args:
        cases: with trunks at or below the lowest of the network's sites.
    """

    def __init__(self, cases: TrainingCases, network: MendNetwork, settings: MendFit):
        self.cases, self.module, self.settings = cases, network.to(cases.vlm.device), settings
        self.cells = cells_of(settings)

    @classmethod
    def of(cls, fitting: Fitting, **more: object) -> MendJob:
        """The job of a fitting.  Raises: InputError for settings that do not fit the model."""
        settings, vlm = fitting.settings, fitting.vlm
        assert isinstance(settings, MendFit)
        torch.manual_seed(settings.seed)
        network = MendNetwork(shapes(vlm, settings.sites), settings.rank, settings.alpha)
        job = cls(fitting.training_cases(lowest(vlm, network.sites), cells_of(settings)), network, settings, **more)
        job.fitting = fitting
        return job

    fitting: Fitting

    def run(self, editor: str) -> Path:
        """Runs the fitting to its end."""
        return self.fitting.run(editor, self, clip=self.settings.clip)

    # --- what the loop asks for -------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.cases)

    def start(self) -> None:
        """Reads the gradients of the first edits: before that, nothing can be standardised."""
        for number in range(min(self.settings.warm_up, len(self.cases))):
            self.module.note(self._factors(self.cases[number]).of)

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam with two rates."""
        network = [p for name, p in self.module.named_parameters() if name != "raw_alpha"]
        return torch.optim.Adam(
            [
                {"params": network, "lr": self.settings.learning_rate},
                {"params": [self.module.raw_alpha], "lr": self.settings.alpha_rate},
            ]
        )

    def losses(self, number: int, draw: random.Random) -> Mapping[str, Tensor]:
        """The weighted terms of one edit."""
        case = self.cases[number]
        found = self._factors(case)
        self.module.note(found.of)
        acting = changes(self.module, found)
        rows = {cell: row for cell in self.cells if (row := case.draw(draw, cell)) is not None}
        if not rows:
            raise InputError(
                f"case '{case.case.id}' has neither a rephrase, nor another picture, nor a probe out of scope."
            )
        return self.terms(case, acting, rows)

    def terms(
        self, case: TrainingCase, acting: Mapping[str, SpanTransformation], rows: Mapping[str, int]
    ) -> dict[str, Tensor]:
        """Cell → its weighted loss: of the new answer in scope, the divergence from the base out of scope."""
        vlm, settings = self.cases.vlm, self.settings
        parts = case.frozen(list(rows.values()))
        # one vocabulary projection for all rows: reading its weights is most of what it costs
        hidden = torch.cat([hidden_with(vlm, part.trunk, acting) for part in parts])
        logits = vlm.after_projection(vlm.anatomy.lm_head(hidden)).float()
        owners, targets = torch.cat([part.owners for part in parts]), torch.cat([part.targets for part in parts])
        base = torch.cat([part.base for part in parts])
        outside = [cell for cell in rows if cell not in IN_SCOPE]
        kept = torch.isin(owners, torch.tensor([rows[cell] for cell in outside], device=owners.device))
        before = dict(zip(kept.nonzero()[:, 0].tolist(), base_log_probs(vlm, base[kept]), strict=True))
        terms = {}
        for cell, row in rows.items():
            at = (owners == row).nonzero()[:, 0]
            if cell in IN_SCOPE:
                terms[cell] = settings.edit_weight * answer_loss(logits[at], targets[at])
            else:
                own = torch.stack([before[place] for place in at.tolist()])
                terms[cell] = settings.locality_weight * kl_from_base(own, logits[at])
        return terms

    def _factors(self, case: TrainingCase) -> Factors:
        (row,) = case.frozen([0])
        return gradient_factors(self.cases.vlm, row.trunk, self.module.sites)
