"""Arrays and tensors as pictures give the pixels that they hold."""

import numpy as np
import pytest
import torch

from vledit.errors import PictureError
from vledit.vlm.pictures import open_picture

PIXELS = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)


@pytest.mark.parametrize(
    "given",
    [
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        PIXELS.astype(np.int64),
        PIXELS / 255,
        torch.tensor(PIXELS).permute(2, 0, 1) / 255,
        torch.tensor(PIXELS),
        torch.tensor(PIXELS).bfloat16() / 255,
    ],
)
def test_pixels_are_those_of_the_array(given):
    found = np.asarray(open_picture(given)).astype(int)
    assert found.shape == PIXELS.shape
    assert np.abs(found - PIXELS).max() <= (1 if getattr(given, "dtype", None) == torch.bfloat16 else 0)


def test_gray_and_transparent_arrays():
    assert np.array_equal(np.asarray(open_picture(PIXELS[:, :, :1])), np.repeat(PIXELS[:, :, :1], 3, axis=2))
    clear = np.zeros((4, 4, 4), np.uint8)
    assert np.asarray(open_picture(clear)).min() == 255  # laid on white


@pytest.mark.parametrize(
    "given",
    [np.zeros((2, 3, 8, 8)), np.zeros(4), np.zeros((0, 4, 3)), PIXELS / 50, PIXELS - 200.0, np.full((4, 4), np.nan)],
)
def test_what_is_no_picture_is_refused(given):
    with pytest.raises(PictureError, match="image: the given ndarray"):
        open_picture(given)
