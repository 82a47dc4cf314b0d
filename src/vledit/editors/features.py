"""What a retrieval sees of a request before the model runs: its question as a sentence vector, its picture as a visual vector.

Neither includes an answer, so no decision based on them can depend on one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..retrieval import DEFAULT, encoder
from ..vlm.base import VLM
from ..vlm.pictures import open_picture, picture_key

ASKED = "what?"
"""The question under which every picture is looked at: some models look at a picture with the question in mind."""
KEPT_PICTURES = 4096
MEAN_OF = 32
"""From how many pictures a fitting takes the mean picture."""


class Features:
    """Vectors of questions and of pictures.

    Args:
        vlm: the base, whose frozen vision side gives the picture's vector.
        name: of a sentence encoder; see `retrieval.encoder`.
        together: pictures of one call go through the vision side in one batch: sooner on a GPU, but the last bits then depend
            on what else is in the call.
    """

    def __init__(self, vlm: VLM, name: str = DEFAULT, together: bool = False):
        self.vlm, self.name, self.together = vlm, name, together
        self._pictures: OrderedDict[str, Tensor] = OrderedDict()
        self._width = vlm.model.get_input_embeddings().weight.shape[1]

    @property
    def text_width(self) -> int:
        return encoder(self.name).dim

    def questions(self, texts: Sequence[str]) -> Tensor:
        """(N, D) unit vectors, float32 on the CPU; each has the same bits whatever it is encoded with."""
        return torch.from_numpy(encoder(self.name).encode([" ".join(text.split()) for text in texts]).copy())

    def pictures(self, images: Sequence[Any]) -> Tensor:
        """(N, H): the mean of the visual tokens that enter the language model, as unit vectors, float32 on the CPU; zeros where
        there is no picture.  Each picture goes through the vision side alone, and once."""
        if self.together:
            self._look(images)
        found = [self._picture(image) for image in images]
        width = next((len(one) for one in found if one is not None), self._width)
        return torch.stack([torch.zeros(width) if one is None else one for one in found])

    def mean_of(self, images: Sequence[Any]) -> Tensor:
        """(H,): `mean_picture` of these pictures."""
        return mean_picture(torch.cat([self.pictures([image]) for image in images]))

    def _look(self, images: Sequence[Any]) -> None:
        """Keeps the vectors of those single pictures that were not seen yet."""
        new = {picture_key(one): one for one in images if one is not None and not isinstance(one, list | tuple)}
        new = {key: one for key, one in new.items() if key not in self._pictures}
        if new:
            encoded = self.vlm.encode([open_picture(one) for one in new.values()], [ASKED] * len(new))
            hidden = self.vlm.trunk(encoded, 0).hidden
            for key, row, mask in zip(new, hidden, encoded.visual_mask, strict=True):
                self._pictures[key] = F.normalize(row[mask].float().mean(0), dim=0).cpu()

    def _picture(self, image: Any) -> Tensor | None:
        if image is None:
            return None
        several = image if isinstance(image, list | tuple) else [image]
        key = "/".join(picture_key(one) for one in several)
        if key not in self._pictures:
            self._pictures[key] = F.normalize(visual_mean(self.vlm, several, ASKED), dim=0)
            if len(self._pictures) > KEPT_PICTURES:
                self._pictures.popitem(last=False)
        self._pictures.move_to_end(key)
        return self._pictures[key]


@torch.no_grad()
def visual_mean(vlm: VLM, images: Sequence[Any], question: str) -> Tensor:
    """(H,) float32 on the CPU: the mean of the visual tokens of one request's pictures as they enter the language model."""
    encoded = vlm.encode([[open_picture(one) for one in images]], [question])
    return vlm.trunk(encoded, 0).hidden[encoded.visual_mask].float().mean(0).cpu()


def centred(pictures: Tensor, mean: Tensor) -> Tensor:
    """Unit vectors (N, H) without what all pictures have in common, as unit vectors; those of no picture stay zeros."""
    there = pictures.abs().sum(1, keepdim=True) > 0
    return torch.where(there, F.normalize(pictures - mean, dim=1), torch.zeros_like(pictures))


def mean_picture(pictures: Tensor) -> Tensor:
    """(H,): the mean of those rows that are of a picture; zeros where there are fewer than two different ones."""
    there = pictures[pictures.abs().sum(1) > 0]
    several = len(there) > 1 and not bool((there == there[0]).all())
    return there.mean(0) if several else torch.zeros(pictures.shape[1])
