"""Molmo 2's pictures: a small copy of the whole, and overlapping crops; each visual token pools 2 × 2 patches of one of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.image_utils import PILImageResampling
from transformers.processing_utils import ImagesKwargs
from transformers.utils.constants import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD

from .tensors import MODES, TensorReader, normalised

OUTSIDE = -1
"""A patch that is not there, at the edge of a pool."""


class Settings(ImagesKwargs, total=False):
    """max_crops: besides the small copy.  overlap_margins: patches that a crop shares with its neighbours, left and right.
    pooling_size: patches of a visual token, down and across."""

    max_crops: int
    overlap_margins: list[int]
    patch_size: int
    pooling_size: list[int]


class Molmo2ImageProcessor(TensorReader):
    """Gives pixel_values (crops, patches, patch² · 3), image_token_pooling (tokens, pool) with the numbers of the patches that
    a token pools, image_grids (1, 4), rows and columns of tokens in the copy and in the crops, and image_num_crops (1,).

    The patches are counted from the picture's own first one; `vlm.molmo2.joined` counts them through for a batch."""

    resample = PILImageResampling.BILINEAR
    image_mean, image_std = IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD
    size = {"height": 378, "width": 378}  # noqa: RUF012
    max_crops = 8
    overlap_margins = [4, 4]  # noqa: RUF012
    patch_size = 14
    pooling_size = [2, 2]  # noqa: RUF012
    valid_kwargs = Settings
    model_input_names = ["pixel_values", "image_token_pooling", "image_grids", "image_num_crops"]  # noqa: RUF012

    def read(self, picture: Tensor, settings: dict[str, Any]) -> dict[str, Any]:
        side, patch = settings["size"]["height"], settings["patch_size"]
        across = side // patch
        left, right = settings["overlap_margins"]
        step = across - left - right
        rows, columns = grid(picture.shape[-2:], step * patch, (left + right) * patch, settings["max_crops"])
        canvas = [(count * step + left + right) * patch for count in (rows, columns)]
        large = normalised(stretched(picture, canvas[0], canvas[1], settings["resample"]), settings)
        crops = large.unfold(1, side, step * patch).unfold(2, side, step * patch)
        crops = crops.permute(1, 2, 0, 3, 4).reshape(-1, 3, side, side)
        small = normalised(stretched(picture, side, side, settings["resample"]), settings)
        low = pools(torch.arange(across**2).reshape(across, across), settings["pooling_size"])
        high = pools(owners(rows, columns, across, left, right) + across**2, settings["pooling_size"])
        grids = [low.shape[0], low.shape[1], high.shape[0], high.shape[1]]
        return {
            "pixel_values": patches(torch.cat([small[None], crops]), patch),
            "image_token_pooling": torch.cat([low.flatten(0, 1), high.flatten(0, 1)]),
            "image_grids": torch.tensor([grids]),
            "image_num_crops": torch.tensor([1 + len(crops)]),
        }


def grid(sizes: Any, window: int, margin: int, most: int) -> tuple[int, int]:
    """(rows, columns) of crops that need the least enlargement; where all are too small, the least reduction."""
    sides = range(1, most + 1)
    grids = sorted(((r, c) for r in sides for c in sides if r * c <= most), key=lambda one: (one[0] * one[1], one[0]))
    wanted = torch.tensor([side - margin for side in sizes], dtype=torch.float32)
    scales = (torch.tensor(grids, dtype=torch.float32) * window / wanted).amin(1)
    larger = torch.where(scales < 1, torch.inf, scales)
    return grids[int(scales.argmax() if bool((scales < 1).all()) else larger.argmin())]


def stretched(picture: Tensor, height: int, width: int, resample: int) -> Tensor:
    """(3, H, W) uint8 → (3, height, width) uint8, not smoothed where it shrinks."""
    mode = MODES[PILImageResampling(resample)]
    found = F.interpolate(picture[None].float(), (height, width), mode=mode, align_corners=False)[0]
    return found.round().clamp(0, 255).to(torch.uint8)


def owners(rows: int, columns: int, across: int, left: int, right: int) -> Tensor:
    """(H, W) int64: for each patch of the canvas its number among all patches of all crops; where crops overlap, each keeps the
    half that is nearer to its middle."""
    number = torch.arange(rows * columns * across**2).reshape(rows, columns, across, across)

    def kept(place: int, count: int) -> slice:
        return slice(left if place else 0, across - right if place + 1 < count else across)

    lines = [
        torch.cat([number[row, column, kept(row, rows), kept(column, columns)] for column in range(columns)], 1)
        for row in range(rows)
    ]
    return torch.cat(lines)


def pools(numbers: Tensor, size: list[int]) -> Tensor:
    """(H, W) → (rows, columns, size[0] · size[1]); what a pool at the edge lacks is `OUTSIDE`."""
    down, across = (-length % unit for length, unit in zip(numbers.shape, size, strict=True))
    edges = (across // 2, (across + 1) // 2, down // 2, (down + 1) // 2)
    filled = F.pad(numbers, edges, value=OUTSIDE)
    rows, columns = filled.shape[0] // size[0], filled.shape[1] // size[1]
    return filled.reshape(rows, size[0], columns, size[1]).permute(0, 2, 1, 3).reshape(rows, columns, -1)


def patches(crops: Tensor, side: int) -> Tensor:
    """(n, 3, S, S) → (n, (S / side)², side² · 3), the colours of a pixel together."""
    across = crops.shape[-1] // side
    cut = crops.reshape(len(crops), 3, across, side, across, side)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(len(crops), across * across, -1)
