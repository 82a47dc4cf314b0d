"""Llama 4's pictures: laid on a canvas of up to 16 square tiles, and a small copy of the whole where there are several."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.image_utils import PILImageResampling
from transformers.processing_utils import ImagesKwargs

from .tensors import TensorReader, resized, tiles


class Settings(ImagesKwargs, total=False):
    """max_patches: most tiles of a canvas.  resize_to_max_canvas: pictures are scaled up as far as a canvas allows."""

    max_patches: int
    resize_to_max_canvas: bool


class Llama4ImageProcessor(TensorReader):
    """Gives pixel_values (tiles, 3, S, S) bfloat16 and aspect_ratios (1, 2), rows and columns of tiles."""

    resample = PILImageResampling.BILINEAR
    image_mean = image_std = [0.5, 0.5, 0.5]  # noqa: RUF012
    size = {"height": 336, "width": 336}  # noqa: RUF012
    max_patches = 16
    resize_to_max_canvas = False
    valid_kwargs = Settings

    def read(self, picture: Tensor, settings: dict[str, Any]) -> dict[str, Any]:
        side, resample = settings["size"]["height"], settings["resample"]
        sizes = tuple(picture.shape[-2:])
        rows, columns = grid(sizes, side, settings["max_patches"], settings["resize_to_max_canvas"])
        canvas = rows * side, columns * side
        room = canvas
        if not settings["resize_to_max_canvas"]:  # a picture is scaled up to one tile at most
            room = tuple(min(max(own, side), most) for own, most in zip(sizes, canvas, strict=True))
        height, width = within(sizes, room)
        laid = F.pad(resized(picture, height, width, resample), (0, canvas[1] - width, 0, canvas[0] - height))
        pixels = scaled(tiles(laid, rows, columns), settings)
        if rows * columns > 1:
            pixels = torch.cat([pixels, scaled(resized(picture, side, side, resample), settings)[None]])
        return {"pixel_values": pixels, "aspect_ratios": torch.tensor([[rows, columns]])}


def grid(sizes: tuple[int, ...], side: int, most: int, largest: bool) -> tuple[int, int]:
    """(rows, columns) of the canvas: the smallest enlargement that one allows, else the least reduction; then the least area."""
    grids = [(rows, columns) for rows in range(1, most + 1) for columns in range(1, most // rows + 1)]
    scales = (torch.tensor(grids) * side / torch.tensor(sizes)).amin(1)
    larger = scales[scales >= 1]
    chosen = scales.max() if not len(larger) else larger.max() if largest else larger.min()
    fit = [one for one, scale in zip(grids, scales, strict=True) if scale == chosen]
    return min(fit, key=lambda one: one[0] * one[1])


def within(sizes: tuple[int, ...], room: tuple[int, ...]) -> tuple[int, int]:
    """The largest (height, width) of the picture's shape that fits."""
    by_height, by_width = room[0] / sizes[0], room[1] / sizes[1]
    if by_width < by_height:
        return max(1, min(math.floor(sizes[0] * by_width), room[0])), room[1]
    return room[0], max(1, min(math.floor(sizes[1] * by_height), room[1]))


def scaled(pictures: Tensor, settings: dict[str, Any]) -> Tensor:
    """As the original does it, in bfloat16 throughout."""
    pixels = pictures.to(torch.bfloat16) * settings["rescale_factor"]
    mean, std = (torch.tensor(settings[name], dtype=pixels.dtype) for name in ("image_mean", "image_std"))
    return (pixels - mean[:, None, None]) / std[:, None, None]
