"""Plain fine-tune of one site, always on: the baseline of BalancEdit, App. E.

The same site, loss, optimiser and stopping rule as BalancEdit's transformation, so that a comparison shows what the scope
does and nothing else.  An edit that follows others starts from their sum, as fine-tuning the changed weights would.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.case import EditRequest
from ..vlm.base import VLM
from .base import Edit, EditorConfig
from .fitting import FittingConfig, train_site
from .making import opened, reported

if TYPE_CHECKING:
    from ..codebook import Transformation


PUBLISHED: dict[str, Any] = {"learning_rate": 1e-2}
"""BalancEdit, Sec. 4.3: Adam, the best of 1 to 1e-5."""


@dataclass(frozen=True)
class FineTuneConfig(FittingConfig):
    """Settings of the plain fine-tune: those of the transformation (the paper's FT has a learning rate of 1e-2)."""


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
    ) -> Edit:
        """Fine-tunes the site; `start` is what earlier edits changed, by site, and what is returned holds it too."""
        began = time.perf_counter()
        config = self.config
        site = vlm.resolve_site(config.site or vlm.default_site)
        request = opened(request)
        image = request.image
        trunk = vlm.trunk(vlm.encode([image], [request.question], [request.answer]), site.layer)
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
