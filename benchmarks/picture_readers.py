"""Holds the image processors of `vledit/vlm/readers` against transformers' own, number by number; needs torchvision.

.venv/bin/python benchmarks/picture_readers.py
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import numpy as np
import torch
from PIL import Image

READERS = {
    "llama4": ("Llama4ImageProcessor", {}),
    "lfm2_vl": ("Lfm2VlImageProcessor", {"return_row_col_info": True}),
    "cohere2_vision": ("Cohere2VisionImageProcessor", {}),
    "molmo2": ("Molmo2ImageProcessor", {}),
}
SIZES = ((64, 64), (400, 300), (1000, 700), (1600, 500), (300, 1300), (2500, 1800), (17, 900), (512, 512), (336, 672))
"""(width, height)."""


def picture(width: int, height: int) -> Image.Image:
    """Coloured spots, the same each time."""
    spots = np.random.default_rng(width * 10_000 + height).integers(0, 256, (height // 3 + 1, width // 3 + 1, 3))
    return Image.fromarray(spots.astype(np.uint8)).resize((width, height))


def furthest(kind: str, name: str, settings: dict[str, Any], size: tuple[int, int]) -> float:
    """The largest difference of any number; infinite where shapes differ."""
    theirs = getattr(import_module(f"transformers.models.{kind}.image_processing_{kind}"), name)()
    ours = getattr(import_module(f"vledit.vlm.readers.{kind}"), name)()
    read = [one([picture(*size)], return_tensors="pt", **settings) for one in (theirs, ours)]
    if read[0].keys() != read[1].keys():
        return float("inf")
    found = [0.0]
    for key in read[0]:
        first, second = (torch.as_tensor(one[key]) for one in read)
        same = first.shape == second.shape
        found.append(float((first.double() - second.double()).abs().max()) if same else float("inf"))
    return max(found)


def main() -> int:
    worst = 0.0
    for kind, (name, settings) in READERS.items():
        found = [furthest(kind, name, settings, size) for size in SIZES]
        print(f"{name}: {len(SIZES)} pictures, largest difference {max(found):g}")
        worst = max(worst, *found)
    return int(worst > 0)


if __name__ == "__main__":
    sys.exit(main())
