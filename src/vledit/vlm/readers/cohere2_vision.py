"""Command A Vision's pictures: tiles of 512 × 512, up to twelve, and a small copy of the whole where there are several."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.image_utils import PILImageResampling
from transformers.processing_utils import ImagesKwargs
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from .tensors import TensorReader, normalised, resized, tiles


class Settings(ImagesKwargs, total=False):
    """crop_to_patches: cut into tiles at all.  min_patches, max_patches: of tiles; the first has no effect, as there."""

    crop_to_patches: bool
    min_patches: int
    max_patches: int


class Cohere2VisionImageProcessor(TensorReader):
    """Gives pixel_values (tiles, 3, S, S), and for each picture num_patches, how many tiles it has."""

    resample = PILImageResampling.BICUBIC
    image_mean, image_std = OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    size = {"height": 512, "width": 512}  # noqa: RUF012
    crop_to_patches = True
    min_patches = 1
    max_patches = 12
    patch_size = 16
    valid_kwargs = Settings

    def read(self, picture: Tensor, settings: dict[str, Any]) -> dict[str, Any]:
        height, width, resample = settings["size"]["height"], settings["size"]["width"], settings["resample"]
        whole = resized(picture, height, width, resample)[None]
        cut = whole
        if settings["crop_to_patches"]:
            rows, columns = grid(picture.shape[-2:], (height, width), settings["max_patches"])
            if rows * columns > 1:
                large = resized(picture, rows * height, columns * width, resample)
                cut = torch.cat([tiles(large, rows, columns), whole])
        return {"pixel_values": normalised(cut, settings), "num_patches": len(cut)}


def grid(sizes: Any, tile: tuple[int, int], most: int) -> tuple[int, int]:
    """(rows, columns) that need the least enlargement; where all are too small, the least reduction; few tiles first."""
    sides = range(1, most + 1)
    grids = sorted(((c, r) for c in sides for r in sides if c * r <= most), key=lambda one: one[0] * one[1])
    scales = [min(c * tile[0] / sizes[1], r * tile[0] / sizes[0]) for c, r in grids]
    larger = [scale for scale in scales if scale >= 1]
    columns, rows = grids[scales.index(min(larger) if larger else max(scales))]
    return rows, columns
