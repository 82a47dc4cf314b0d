"""The image processors that need no torchvision; what transformers' own gave of three pictures, written down (see also
`benchmarks/picture_readers.py`, which compares every number where torchvision is installed)."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from vledit.vlm.readers.cohere2_vision import Cohere2VisionImageProcessor
from vledit.vlm.readers.lfm2_vl import Lfm2VlImageProcessor
from vledit.vlm.readers.llama4 import Llama4ImageProcessor
from vledit.vlm.readers.molmo2 import Molmo2ImageProcessor

COLOUR = (255, 0, 128)
SIZES = ((400, 300), (1000, 700), (300, 1300))


@pytest.mark.parametrize(
    ("size", "llama4", "lfm2", "cohere2", "molmo2"),
    [
        ((400, 300), [[1, 2]], [1, 1, [288, 384]], 1, [[14, 14, 14, 23]]),
        ((1000, 700), [[3, 3]], [2, 3, [416, 608]], 5, [[14, 14, 23, 42]]),
        ((300, 1300), [[4, 1]], [1, 1, [1056, 224]], 4, [[14, 14, 52, 14]]),
    ],
)
def test_pictures_are_cut_as_transformers_cuts_them(size, llama4, lfm2, cohere2, molmo2):
    picture = Image.new("RGB", size, COLOUR)
    assert Llama4ImageProcessor()([picture])["aspect_ratios"].tolist() == llama4
    read = Lfm2VlImageProcessor()([picture])
    assert [read[name][0] for name in ("image_rows", "image_cols", "image_sizes")] == lfm2
    assert int(read["pixel_attention_mask"].sum()) == int(read["spatial_shapes"].prod(1).sum())
    assert Cohere2VisionImageProcessor()([picture])["num_patches"] == [cohere2]
    assert Molmo2ImageProcessor()([picture])["image_grids"].tolist() == molmo2


def test_a_picture_of_one_colour_stays_one():
    picture = Image.new("RGB", (64, 64), COLOUR)
    expected = torch.tensor(COLOUR) / 255 * 2 - 1
    for reader, channels_last in ((Llama4ImageProcessor(), False), (Molmo2ImageProcessor(), True)):
        pixels = reader([picture])["pixel_values"].float()
        pixels = pixels.reshape(-1, 3) if channels_last else pixels.movedim(1, -1).reshape(-1, 3)
        assert (pixels - expected).abs().max() < 1e-2


def test_every_patch_of_the_canvas_is_pooled_once():
    """Crops overlap, and each patch is taken from one of them."""
    read = Molmo2ImageProcessor()([Image.new("RGB", (1000, 700))])
    numbers = read["image_token_pooling"]
    taken = numbers[numbers >= 0]
    assert len(taken.unique()) == len(taken)
    window, margin = 27 - 8, 8
    rows, columns = 2, 4
    assert len(taken) == 27 * 27 + (rows * window + margin) * (columns * window + margin)
