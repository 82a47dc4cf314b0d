"""`ft_v`: a fine-tune of the vision side, always on.

Source: the baseline "FT (vis.)" of VLKEB (NeurIPS D&B 2024) and of De-VQA, Tables 2 to 4.  A few linears that carry the picture
into the language model (the family's `vision_sites`: outputs of the last Q-Former layers, or the projector) are changed until the
answer is given; the language model is not, so that a question without a picture is answered by the base's very bits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..codebook import FullTransformation
from ..data.case import EditRequest
from ..errors import InputError, UnknownNameError
from ..vlm.acting import VISION, acting
from ..vlm.base import VLM, Encoded
from .adversary import AdversarialSettings, Adversary, total
from .base import Edit, EditorConfig, setting
from .fitting import UNLEARNT, Best, combined, margins, refuse_unlearnt, unlearnt
from .making import opened, reported

if TYPE_CHECKING:
    from ..codebook import Transformation

PUBLISHED: dict[str, dict[str, Any]] = {
    "blip2": {"steps": 15, "learning_rate": 2e-4},
    "minigpt4": {"steps": 15, "learning_rate": 1e-4},
    "llava": {"steps": 10, "learning_rate": 1e-4},
}
"""Family → settings as VLKEB ran them (AdamW; its weight decay is PyTorch's default, 0.01)."""


@dataclass(frozen=True)
class VisionFineTuneConfig(AdversarialSettings):
    """Settings of the fine-tune of the vision side."""

    sites: str = setting(
        "", "paths of linear layers of the vision side, separated by commas; empty: the default of the model family"
    )
    steps: int = setting(30, "maximum number of AdamW steps")
    learning_rate: float = setting(2e-3, "AdamW's learning rate")
    weight_decay: float = setting(0.0, "AdamW's weight decay, applied to the change")
    margin: float = setting(2.0, "training stops when every answer token leads by this many logits")
    unlearnt: str = unlearnt()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unlearnt not in UNLEARNT:
            raise UnknownNameError("unlearnt", self.unlearnt, UNLEARNT)
        if self.steps < 0:
            raise InputError(f"steps: {self.steps} given; it must not be negative.")
        for name in ("learning_rate", "weight_decay", "margin"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name}: {getattr(self, name)} given; it must not be negative.")


class VisionFineTune:
    """Source: VLKEB, Sec. 4; De-VQA, App. B."""

    name: ClassVar[str] = "ft_v"
    gated: ClassVar[bool] = False
    Config: ClassVar[type[EditorConfig]] = VisionFineTuneConfig

    def __init__(self, config: VisionFineTuneConfig | None = None):
        self.config = config or VisionFineTuneConfig()

    @classmethod
    def published(cls, family: str) -> Mapping[str, Any]:
        """The released settings for a model family; empty where none were released."""
        return PUBLISHED.get(family, {})

    def edit(
        self,
        vlm: VLM,
        request: EditRequest,
        memory: Any = None,
        start: Mapping[str, Transformation] | None = None,
    ) -> Edit:
        """Fine-tunes the vision side; `start` is what earlier edits changed, by point, and what is returned holds it too.

        Raises: InputError for a request without a picture, of which the vision side sees nothing; EditFailedError.
        """
        began = time.perf_counter()
        if request.image is None:
            raise InputError(
                "image: 'ft_v' changes how pictures are seen; it cannot edit a question without a picture."
            )
        request = opened(request)
        encoded = vlm.encode([request.image], [request.question], [request.answer])
        learned = self._zeros(vlm)
        adversary = Adversary.of(vlm, request, self.config, list(learned), start)
        taken, loss, lead = self._descend(vlm, encoded, learned, start or {}, adversary)
        advice = "Give more steps, a larger learning_rate, or a shorter answer."
        refuse_unlearnt(request.answer, taken, lead, self.config.unlearnt, advice)
        changes = {}
        for point, delta in learned.items():
            own = FullTransformation(delta.detach().clone())
            changes[point] = combined(start[point], own) if start and point in start else own
        nbytes = sum(change.nbytes for change in changes.values())
        return reported(self.name, request, began, taken, loss, lead, nbytes, weights=changes)

    def _zeros(self, vlm: VLM) -> dict[str, Tensor]:
        """Point → ΔW, all zeros."""
        linears = vlm.vision_linears()
        names = [name.strip() for name in self.config.sites.split(",") if name.strip()] or list(linears)
        for name in names:
            if name not in linears:
                raise UnknownNameError("vision site", name, linears)
        return {
            VISION + name: torch.zeros(tuple(linears[name].weight.shape), dtype=torch.float32, device=vlm.device)
            for name in names
        }

    def _descend(
        self,
        vlm: VLM,
        encoded: Encoded,
        learned: Mapping[str, Tensor],
        start: Mapping[str, Transformation],
        adversary: Adversary | None = None,
    ) -> tuple[int, float, float]:
        """Steps taken, loss, margin.  The gradient goes through the whole language model: no part of it can be kept."""
        config = self.config
        with torch.inference_mode(False), torch.enable_grad():
            whole: dict[str, Any] = dict(start)
            for point, delta in learned.items():
                delta.requires_grad_()
                own = FullTransformation(delta)
                whole[point] = _Both(start[point], own) if point in start else own
            optimizer = torch.optim.AdamW(learned.values(), lr=config.learning_rate, weight_decay=config.weight_decay)
            best = Best()
            for taken in range(config.steps + 1):
                with acting(vlm, [whole], encoded):
                    logits = forced_logits(vlm, encoded).float()
                loss = F.cross_entropy(logits, encoded.targets)
                lead = float(margins(logits.detach(), encoded.targets).min())
                if adversary is not None:
                    apart = adversary.divergences_of_whole(whole)
                    best.note(lead, config.margin, total(apart), taken, float(loss.detach()), *learned.values())
                    if taken == config.steps or best.is_close:
                        return best.leave_in(*learned.values())
                    loss = adversary.loss(loss, apart)
                elif lead >= config.margin or taken == config.steps:
                    return taken, float(loss.detach()), lead
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        raise AssertionError("unreachable: the last step returns")


class _Both:
    """What earlier edits do at a point, and what is being trained there."""

    def __init__(self, first: Transformation, second: Transformation):
        self.first, self.second = first, second

    def delta(self, x: Tensor) -> Tensor:
        return self.first.delta(x) + self.second.delta(x)


def forced_logits(vlm: VLM, encoded: Encoded) -> Tensor:
    """(n, V): logits that predict the forced answers, from one whole pass that gradients flow through."""
    inputs = vlm.language_inputs(encoded)
    return vlm.anatomy.causal(**inputs, use_cache=False).logits[encoded.predict_mask]
