"""`TensorReader`: what these image processors have in common; pictures as (3, H, W) uint8 tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_base import BatchFeature
from transformers.image_utils import PILImageResampling

MODES = {PILImageResampling.BILINEAR: "bilinear", PILImageResampling.BICUBIC: "bicubic"}


class TensorReader(PilBackend):
    """An image processor that reads pictures one after the other (`read`) and puts what comes out together (`gathered`)."""

    do_resize = do_rescale = do_normalize = do_convert_rgb = True
    rescale_factor = 1 / 255

    def _preprocess(self, images: Sequence[np.ndarray], **settings: Any) -> BatchFeature:
        pictures = [torch.from_numpy(np.ascontiguousarray(image)) for image in images]
        return BatchFeature(data=self.gathered([self.read(picture, settings) for picture in pictures]))

    def read(self, picture: Tensor, settings: dict[str, Any]) -> dict[str, Any]:
        """(3, H, W) uint8 and the settings in force → what the model takes of this picture, and counts for its prompt."""
        raise NotImplementedError

    def gathered(self, pictures: list[dict[str, Any]]) -> dict[str, Any]:
        """What was read of several pictures → tensors joined along dimension 0, everything else as lists."""
        names = pictures[0]
        joined = {name: [one[name] for one in pictures] for name in names}
        return {name: torch.cat(of) if isinstance(of[0], Tensor) else of for name, of in joined.items()}


def resized(picture: Tensor, height: int, width: int, resample: int) -> Tensor:
    """(3, H, W) uint8 → (3, height, width) uint8, smoothed where it shrinks, as torchvision does it on a CPU."""
    if picture.shape[-2:] == (height, width):
        return picture
    mode = MODES[PILImageResampling(resample)]
    return F.interpolate(picture[None], (height, width), mode=mode, align_corners=False, antialias=True)[0]


def normalised(pictures: Tensor, settings: dict[str, Any]) -> Tensor:
    """(…, 3, H, W) uint8 → float32: scaled to 0 … 1, less the mean, by the standard deviation; in one step."""
    mean, std = (torch.tensor(settings[name])[:, None, None] for name in ("image_mean", "image_std"))
    scale = 1.0 / settings["rescale_factor"]
    return (pictures.float() - mean * scale) / (std * scale)


def tiles(picture: Tensor, rows: int, columns: int) -> Tensor:
    """(3, H, W) → (rows · columns, 3, H / rows, W / columns), row after row."""
    _, height, width = picture.shape
    cut = picture.reshape(3, rows, height // rows, columns, width // columns)
    return cut.permute(1, 3, 0, 2, 4).reshape(rows * columns, 3, height // rows, width // columns)
