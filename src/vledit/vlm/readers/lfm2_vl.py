"""LFM2-VL's pictures: in their own shape where they are small, else tiles of 512 × 512 and a small copy of the whole."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.image_utils import PILImageResampling
from transformers.processing_utils import ImagesKwargs
from transformers.utils.constants import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD

from .tensors import TensorReader, normalised, resized, tiles


class Settings(ImagesKwargs, total=False):
    """As transformers' `Lfm2VlImageProcessor` has them."""

    downsample_factor: int
    do_image_splitting: bool
    min_tiles: int
    max_tiles: int
    use_thumbnail: bool
    min_image_tokens: int
    max_image_tokens: int
    encoder_patch_size: int
    tile_size: int
    max_pixels_tolerance: float
    do_pad: bool
    return_row_col_info: bool


class Lfm2VlImageProcessor(TensorReader):
    """Gives pixel_values (crops, patches, 3 · patch²), pixel_attention_mask (crops, patches), spatial_shapes (crops, 2), and
    for each picture image_rows, image_cols and image_sizes."""

    resample = PILImageResampling.BILINEAR
    image_mean, image_std = IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD
    size = {"height": 512, "width": 512}  # noqa: RUF012
    downsample_factor = 2
    do_image_splitting = True
    min_tiles = 2
    max_tiles = 10
    use_thumbnail = True
    min_image_tokens = 64
    max_image_tokens = 256
    encoder_patch_size = 16
    tile_size = 512
    max_pixels_tolerance = 2.0
    do_pad = True
    return_row_col_info = True
    valid_kwargs = Settings
    model_input_names = ["pixel_values", "pixel_attention_mask", "spatial_shapes"]  # noqa: RUF012

    def read(self, picture: Tensor, settings: dict[str, Any]) -> dict[str, Any]:
        patch, side, resample = settings["encoder_patch_size"], settings["tile_size"], settings["resample"]
        height, width = fitting(picture.shape[-2:], settings)
        small = resized(picture, height, width, resample)
        rows = columns = 1
        crops = [small]
        if settings["do_image_splitting"] and too_large(picture.shape[-2:], settings):
            rows, columns = grid(picture.shape[-2:], settings)
            crops = list(tiles(resized(picture, rows * side, columns * side, resample), rows, columns))
            crops += [small] if settings["use_thumbnail"] and rows * columns > 1 else []
        flat = [patches(normalised(crop, settings), patch) for crop in crops]
        most = settings["max_image_tokens"] * settings["downsample_factor"] ** 2
        most = max(most, (side // patch) ** 2 if settings["do_image_splitting"] else 0)
        return {
            "pixel_values": torch.stack([F.pad(one, (0, 0, 0, most - len(one))) for one in flat]),
            "pixel_attention_mask": torch.stack([(torch.arange(most) < len(one)).int() for one in flat]),
            "spatial_shapes": torch.tensor([[side // patch for side in crop.shape[-2:]] for crop in crops]),
            "image_rows": rows,
            "image_cols": columns,
            "image_sizes": [height, width],
        }


def nearest(length: float, unit: int) -> int:
    return round(length / unit) * unit


def fitting(sizes: Any, settings: dict[str, Any]) -> tuple[int, int]:
    """(height, width), each a whole number of visual tokens, with as many of them as are allowed and the picture's shape."""
    height, width = sizes
    unit = settings["encoder_patch_size"] * settings["downsample_factor"]
    least, most = (settings[name] * unit**2 for name in ("min_image_tokens", "max_image_tokens"))
    found = [max(unit, nearest(length, unit)) for length in (height, width)]
    area = found[0] * found[1]
    if area > most:
        by = math.sqrt(height * width / most)
        found = [max(unit, math.floor(length / by / unit) * unit) for length in (height, width)]
    elif area < least:
        by = math.sqrt(least / (height * width))
        found = [math.ceil(length * by / unit) * unit for length in (height, width)]
    return found[0], found[1]


def too_large(sizes: Any, settings: dict[str, Any]) -> bool:
    """Whether a picture is cut into tiles."""
    patch = settings["encoder_patch_size"]
    unit = patch * settings["downsample_factor"]
    height, width = (max(patch, nearest(length, unit)) for length in sizes)
    return height * width > settings["max_image_tokens"] * unit**2 * settings["max_pixels_tolerance"]


def grid(sizes: Any, settings: dict[str, Any]) -> tuple[int, int]:
    """(rows, columns) whose shape is nearest to the picture's; of equals the last that the picture fills by half."""
    height, width = sizes
    least, most = settings["min_tiles"], settings["max_tiles"]
    sides = range(1, most + 1)
    grids = sorted({(c, r) for c in sides for r in sides if least <= c * r <= most}, key=lambda one: one[0] * one[1])
    best, difference = (1, 1), math.inf
    for columns, rows in grids:
        off = abs(width / height - columns / rows)
        filled = width * height > 0.5 * settings["tile_size"] ** 2 * columns * rows
        if off < difference or (off == difference and filled):
            best, difference = (columns, rows), off
    return best[1], best[0]


def patches(picture: Tensor, side: int) -> Tensor:
    """(3, H, W) → (H · W / side², side² · 3), row after row, the colours of a pixel together."""
    _, height, width = picture.shape
    cut = picture.reshape(3, height // side, side, width // side, side)
    return cut.permute(1, 3, 2, 4, 0).reshape(-1, side * side * 3)
