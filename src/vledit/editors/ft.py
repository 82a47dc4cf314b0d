"""Plain fine-tune of one site, always on: the baseline of BalancEdit, App. E.

The same site, loss, optimiser and stopping rule as BalancEdit's transformation, so that a comparison shows what the scope
does and nothing else.  An edit that follows others starts from their sum, as fine-tuning the changed weights would.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..data.case import EditRequest
from ..errors import EditFailedError, InputError, UnknownNameError
from ..vlm.base import VLM
from ..vlm.pictures import open_picture
from .balancedit import new_id
from .base import Edit, EditorConfig, EditReport, setting
from .common_directions import measure, reader
from .fitting import TRANSFORMATIONS, fit

if TYPE_CHECKING:
    from ..codebook import Codebook, Transformation


@dataclass(frozen=True)
class FineTuneConfig(EditorConfig):
    """Settings of the plain fine-tune."""

    site: str = setting("", "edited linear layer, e.g. '-1.mlp.out'; empty: the model family's own")
    transformation: str = setting("full", "full or span")
    steps: int = setting(50, "most steps of Adam")
    learning_rate: float | None = setting(
        None, "Adam's learning rate; none: 1e-3 for full, 0.5 for span (the paper's FT: 1e-2)"
    )
    margin: float = setting(2.0, "training stops when every answer token leads by this many logits")
    common_directions: int = setting(40, "for span: how many common directions of the site's inputs are not read")

    def __post_init__(self) -> None:
        if self.transformation not in TRANSFORMATIONS:
            raise UnknownNameError("transformation", self.transformation, TRANSFORMATIONS)
        if self.steps < 1:
            raise InputError(f"steps: {self.steps} given; at least 1 is needed.")

    @property
    def rate(self) -> float:
        return self.learning_rate or {"full": 1e-3, "span": 0.5}[self.transformation]


class FineTune:
    """Source: BalancEdit, App. E, "Finetune"."""

    name: ClassVar[str] = "ft"
    gated: ClassVar[bool] = False
    Config: ClassVar[type[EditorConfig]] = FineTuneConfig

    def __init__(self, config: FineTuneConfig | None = None):
        self.config = config or FineTuneConfig()

    def edit(
        self,
        vlm: VLM,
        request: EditRequest,
        codebook: Codebook | None = None,
        start: Transformation | None = None,
    ) -> Edit:
        """Fine-tunes the site; `start` is the change that earlier edits made to it, and what is returned holds it too."""
        began = time.perf_counter()
        config = self.config
        site = vlm.resolve_site(config.site or vlm.default_site)
        image = None if request.image is None else open_picture(request.image)
        request = EditRequest(image, request.question, request.answer, request.rephrases, request.id)
        trunk = vlm.trunk(vlm.encode([image], [request.question], [request.answer]), site.layer)
        fitted = fit(
            vlm.site_tail(trunk, site),
            config.transformation,
            steps=config.steps,
            learning_rate=config.rate,
            margin=config.margin,
            basis=reader(measure(vlm, site, config.common_directions)) if config.transformation == "span" else None,
            start=start,
        )
        if not fitted.trained:
            raise EditFailedError(
                f"answer: after {fitted.steps} steps the model does not answer {request.answer!r}. Give more steps, a larger "
                "learning_rate, or a shorter answer."
            )
        report = EditReport(
            time.perf_counter() - began,
            fitted.steps,
            fitted.loss,
            fitted.margin,
            fitted.transformation.nbytes,
            fitted.trained,
        )
        return Edit(
            request.id or new_id(request), self.name, request, report, weights={str(site): fitted.transformation}
        )
