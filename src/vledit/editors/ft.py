"""Plain fine-tune of one site, always on: the baseline of BalancEdit, App. E.

The same site, loss, optimiser and stopping rule as BalancEdit's transformation, so that a comparison shows what the scope
does and nothing else.  An edit that follows others starts from their sum, as fine-tuning the changed weights would.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.case import EditRequest
from ..errors import VLEditError
from ..vlm.base import VLM
from .base import Edit, EditorConfig
from .fitting import Fitted, FittingConfig, learnt, train_site
from .fitting_together import train_together
from .making import opened, reported
from .together import Row, run

if TYPE_CHECKING:
    from ..codebook import Transformation


PUBLISHED: dict[str, Any] = {"learning_rate": 1e-2}
"""BalancEdit, Sec. 4.3: Adam, the best of 1 to 1e-5."""


@dataclass(frozen=True)
class FineTuneConfig(FittingConfig):
    """Settings of the plain fine-tune: those of the transformation (the paper's FT has a learning rate of 1e-2)."""


@dataclass(frozen=True)
class BegunApart:
    """An edit of the base that was trained together with others.  `seconds`: its share."""

    request: EditRequest
    fitted: Fitted
    seconds: float = 0.0


class FineTune:
    """Source: BalancEdit, App. E, "Finetune"."""

    name: ClassVar[str] = "ft"
    gated: ClassVar[bool] = False
    Config: ClassVar[type[EditorConfig]] = FineTuneConfig

    def __init__(self, config: FineTuneConfig | None = None):
        self.config = config or FineTuneConfig()

    @classmethod
    def published(cls, family: str) -> Mapping[str, Any]:
        """The authors' settings, the same on both of their backbones."""
        return PUBLISHED

    def edit(
        self,
        vlm: VLM,
        request: EditRequest,
        memory: Any = None,
        start: Mapping[str, Transformation] | None = None,
        begun: BegunApart | None = None,
    ) -> Edit:
        """Fine-tunes the site; `start` is what earlier edits changed, by site, and what is returned holds it too.

        Args:
            begun: what `begin_apart` made of this request; used only where there is no `start`.
        """
        began = time.perf_counter()
        config = self.config
        site = vlm.resolve_site(config.site or vlm.default_site)
        if begun is not None and not start:
            began -= begun.seconds
            request, fitted = begun.request, learnt(begun.fitted, request.answer)
        else:
            request = opened(request)
            encoded = vlm.encode([request.image], [request.question], [request.answer])
            trunk = vlm.trunk(encoded, site.layer)
            fitted = train_site(vlm, trunk, site, request, config, (start or {}).get(str(site)))
        change = fitted.transformation
        return reported(
            self.name,
            request,
            began,
            fitted.steps,
            fitted.loss,
            fitted.margin,
            change.nbytes,
            weights={str(site): change},
        )

    def begin_apart(self, vlm: VLM, requests: Sequence[EditRequest]) -> list[BegunApart | None]:
        """Trains several edits together, each of which will be made on the base alone; `edit` takes each with its request.

        An edit that follows another one starts from it, so a list of edits has nothing to begin; the protocol "single" does.
        None for a request that cannot be read, and for all with adversarial terms: these are made one by one.
        """
        if self.config.adversarial or len(requests) < 2:
            return [None] * len(requests)
        began = time.perf_counter()
        site = vlm.resolve_site(self.config.site or vlm.default_site)
        found: list[BegunApart | None] = [None] * len(requests)
        ready: list[tuple[int, EditRequest]] = []
        for place, request in enumerate(requests):
            try:
                one = opened(request)
                vlm.answer_tokens(one.question, one.answer, one.image is not None)
                ready.append((place, one))
            except VLEditError:
                continue
        if ready:
            rows = [Row(one.image, one.question, one.answer) for _, one in ready]
            trunk, tail, _ = run(vlm, site, rows, [], "last")
            trained = train_together(vlm, trunk, site, self.config, tail)
            for (place, one), fitted in zip(ready, trained, strict=True):
                found[place] = BegunApart(one, fitted)
        share = (time.perf_counter() - began) / len(requests)
        return [None if one is None else replace(one, seconds=share) for one in found]
