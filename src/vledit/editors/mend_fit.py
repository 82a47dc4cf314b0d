"""Training MEND's hypernetwork: each step edits the base afresh and measures the effect of the edit in and out of scope.

Source: Mitchell et al., ICLR 2022, Eq. 4 and Alg. 1: c_edit · NLL of the answer on rephrases and other pictures, plus c_loc ·
KL(base ‖ edited) out of scope.  u and δ are constants within a step; the loss is differentiated through the resulting change
into every parameter of the network.  (One released fork computes the change without gradient, so that only the step sizes are
trained; `as_released=true` reproduces this.)
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
from .mend import MendFit, Term, changes, hidden_with, lowest, shapes
from .mend_network import MendNetwork
from .training.cases import base_log_probs
from .training.losses import answer_loss, kl_from_base

if TYPE_CHECKING:
    from ..codebook import SpanTransformation
    from .training.cases import TrainingCase, TrainingCases
    from .training.fitting import Fitting


class MendJob:
    """What `training.loop` runs.

    Args:
        cases: with trunks at or below the lowest of the network's sites.
    """

    def __init__(self, cases: TrainingCases, network: MendNetwork, settings: MendFit):
        self.cases, self.module, self.settings = cases, network.to(cases.vlm.device), settings
        self.plan = settings.plan()

    @classmethod
    def of(cls, fitting: Fitting) -> MendJob:
        """The job of a fitting.  Raises: InputError for settings that do not fit the model."""
        settings, vlm = fitting.settings, fitting.vlm
        assert isinstance(settings, MendFit)
        torch.manual_seed(settings.seed)
        network = MendNetwork(shapes(vlm, settings.sites), settings.rank, settings.alpha)
        cells = [term.cell for term in settings.plan()]
        forced_new = any(term.forced == "new" for term in settings.plan())
        cases = fitting.training_cases(lowest(vlm, network.sites), cells, forced_new)
        job = cls(cases, network, settings)
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
        acting = changes(self.module, found, sizes_alone=self.settings.as_released)
        rows = {term: row for term in self.plan if (row := case.draw(draw, term.cell)) is not None}
        if not rows:
            raise InputError(
                f"case '{case.case.id}' has neither a rephrase, nor another picture, nor a probe out of scope."
            )
        return self.terms(case, acting, rows)

    def terms(
        self, case: TrainingCase, acting: Mapping[str, SpanTransformation], rows: Mapping[Term, int]
    ) -> dict[str, Tensor]:
        """Cell → its weighted loss: of the new answer in scope, the divergence from the base out of scope."""
        vlm = self.cases.vlm
        parts = [
            part
            for forced in ("own", "new")
            for part in case.frozen([row for term, row in rows.items() if term.forced == forced], forced)
        ]
        # one vocabulary projection for all rows: reading its weights is most of what it costs
        hidden = torch.cat([hidden_with(vlm, part.trunk, acting) for part in parts])
        logits = vlm.after_projection(vlm.anatomy.lm_head(hidden)).float()
        owners, targets = torch.cat([part.owners for part in parts]), torch.cat([part.targets for part in parts])
        outside = [row for term, row in rows.items() if not term.in_scope]
        kept = torch.isin(owners, torch.tensor(outside, device=owners.device))
        before, before_of = base_log_probs(vlm, torch.cat([part.base for part in parts])[kept]), owners[kept]
        found = {}
        for term, row in rows.items():
            at = owners == row
            loss = (
                answer_loss(logits[at], targets[at])
                if term.in_scope
                else kl_from_base(before[before_of == row], logits[at])
            )
            found[term.cell] = term.weight * loss
        return found

    def _factors(self, case: TrainingCase) -> Factors:
        (row,) = case.frozen([0])
        return gradient_factors(self.cases.vlm, row.trunk, self.module.sites)
