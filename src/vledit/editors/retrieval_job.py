"""What fittings share whose edits are found by question and picture: the frame of a job that `training.loop` runs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ..data.case import EditCase
from .adversarial_fit import fitting_cases
from .cited_cases import opened
from .features import MEAN_OF, Features
from .training.cases import order
from .training.loop import settling
from .training.settings import FitSettings

if TYPE_CHECKING:
    from ..vlm.base import VLM
    from .training.fitting import Fitting

S = TypeVar("S", bound=FitSettings)
N = TypeVar("N", bound=nn.Module)


class FittedJob(Generic[S, N]):
    """A network that learns from several cases a step, with one rate of Adam, a clipped gradient and a rate that settles.

    A subclass says in `losses_of` what is minimised.
    """

    def __init__(self, fitting: Fitting, cases: list[EditCase], network: N):
        self.fitting, self.cases, self.vlm = fitting, cases, fitting.vlm
        self.settings: S = fitting.settings  # type: ignore[assignment]
        self.module: N = network.to(self.vlm.device)

    def run(self, editor: str) -> Path:
        """Runs the fitting to its end."""
        return self.fitting.run(editor, self, clip=1.0, rate=settling)

    def __len__(self) -> int:
        return len(self.cases)

    def start(self) -> None:
        """Nothing is looked at beforehand."""

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.module.parameters(), lr=self.settings.learning_rate)  # type: ignore[attr-defined]

    def losses(self, number: int, draw: random.Random) -> Mapping[str, Tensor]:
        """As `losses_of`, of one edit."""
        return self.losses_of([number], draw)

    def losses_of(self, numbers: Sequence[int], draw: random.Random) -> Mapping[str, Tensor]:
        """The terms of some edits, each with its weight."""
        raise NotImplementedError

    def drawn(self, size: int, step: int, draw: random.Random) -> list[int]:
        """Numbers of at most `size` edits from a pool, which grows by as many a step, so that reading them is spread over the
        first steps."""
        pool = order(len(self), 0, self.settings.seed)[: size * (step + 1)]
        return draw.sample(pool, min(size, len(pool)))


class RetrievalJob(FittedJob[S, N]):
    """One that reads sentence and picture vectors; its network has `mean`, what all pictures have in common."""

    def __init__(self, fitting: Fitting, cases: list[EditCase], features: Features, network: N):
        super().__init__(fitting, cases, network)
        self.features = features

    @classmethod
    def network(cls, vlm: VLM, settings: dict[str, Any], texts: int, pictures: int) -> N:
        """What is fitted, for sentence vectors (texts,) and picture vectors (pictures,)."""
        raise NotImplementedError

    @classmethod
    def cases_of(cls, fitting: Fitting) -> list[EditCase]:
        """The cases as the fitting sees them."""
        return fitting_cases(fitting)

    @classmethod
    def of(cls, fitting: Fitting) -> Any:
        """The job of a fitting.  Raises: InputError for settings that do not fit the model."""
        settings, vlm = fitting.settings, fitting.vlm
        torch.manual_seed(settings.seed)
        features = Features(vlm, str(settings.encoder), together=vlm.device.type != "cpu")  # type: ignore[attr-defined]
        cases = cls.cases_of(fitting)
        pictures = features.pictures([opened(case.request.image) for case in cases[:1]]).shape[1]
        return cls(fitting, cases, features, cls.network(vlm, asdict(settings), features.text_width, pictures))

    def start(self) -> None:
        """Looks at some pictures."""
        some = [opened(case.request.image) for case in self.cases[:MEAN_OF]]
        self.module.mean.copy_(self.features.mean_of(some))  # type: ignore[operator,union-attr]
