"""How far an edit changes the model's predictions at the picture's tokens and at those of the text (Eq. 17, Table 5)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from ..vlm.base import Encoded


@dataclass(frozen=True)
class Moved:
    """Mean KL(before ‖ after) over the prompt's tokens of the picture, and over those of the text, in nats.

    `image` is NaN for a prompt without a picture.
    """

    image: float
    text: float

    @property
    def ratio(self) -> float:
        """Eq. 17: image over text; NaN where nothing of the text moves."""
        return self.image / self.text if self.text > 0 else math.nan


def moved(before: Tensor, after: Tensor, encoded: Encoded) -> Moved:
    """`before`, `after`: (T, V) logits at every token of one prompt, the same in both.

    What is compared are the distributions over the whole vocabulary after the last layer.
    """
    divergence = F.kl_div(after.log_softmax(-1), before.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    divergence = divergence.clamp(min=0.0)  # rounding alone can go below
    visual = encoded.visual_mask[0]
    text = encoded.prompt_mask[0] & ~visual
    image = float(divergence[visual].mean()) if bool(visual.any()) else math.nan
    return Moved(image, float(divergence[text].mean()))
