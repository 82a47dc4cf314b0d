"""What a model is shown: the same for the same seed, varied otherwise, and the drawing always visible."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vledit.data.icons import composite, compositing


@pytest.fixture
def arrow() -> Image.Image:
    """A drawing that is not its own mirror image."""
    picture = Image.new("RGBA", (192, 192), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((20, 60, 60, 180), fill=(200, 30, 30, 255))
    draw.rectangle((20, 140, 170, 180), fill=(30, 60, 200, 255))
    return picture


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize("mode", ["clean", "augment"])
def test_same_seed_same_picture(arrow, mode):
    one, two = (composite(arrow, 7, mode, 96) for _ in range(2))
    assert one.mode == "RGB"
    assert one.size == (96, 96)
    assert (pixels(one) == pixels(two)).all()


def test_augmented_pictures_all_differ(arrow):
    pictures = {composite(arrow, seed, "augment", 64).tobytes() for seed in range(60)}
    assert len(pictures) == 60


@pytest.mark.parametrize("mode", ["clean", "augment"])
def test_backgrounds_are_not_all_white(arrow, mode):
    corners = {composite(arrow, seed, mode, 64).getpixel((1, 1)) for seed in range(40)}
    assert len(corners) > (4 if mode == "clean" else 25)


@pytest.mark.parametrize("ink", [(250, 250, 250), (8, 8, 8), (236, 240, 244), (128, 128, 128)])
def test_a_clean_drawing_stands_out_from_its_background(ink):
    picture = Image.new("RGBA", (192, 192), (*ink, 255))
    for seed in range(20):
        shown = pixels(composite(picture, seed, "clean", 64))
        assert np.abs(shown[32, 32] - shown[1, 1]).sum() > 60


@pytest.mark.parametrize("colour", ["", "FFFFFF", "111111", "F0F4F8"])
@pytest.mark.parametrize("mode", ["clean", "augment"])
def test_a_mono_drawing_stands_out_whatever_its_colour(colour, mode):
    picture = Image.new("RGBA", (192, 192), (0, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 192, 60))
    for seed in range(40):
        shown = pixels(composite(picture, seed, mode, 64, style="mono", colour=colour))
        assert shown.reshape(-1, 3).std(axis=0).max() > 8


def test_brands_keep_their_own_colour_when_clean():
    picture = Image.new("RGBA", (192, 192), (0, 0, 0, 255))
    assert composite(picture, 1, "clean", 64, style="mono", colour="1D9BF0").getpixel((32, 32)) == (0x1D, 0x9B, 0xF0)


def test_only_things_are_mirrored():
    def mirrored(domain: str) -> int:
        return sum(compositing._random_place(random.Random(seed), domain)[-1] for seed in range(100))

    assert 30 < mirrored("things") < 70
    assert mirrored("flags") == mirrored("brands") == 0


def test_a_mirrored_drawing_is_the_mirror_image(arrow):
    plain, mirrored = (compositing._place(arrow, 64, 1.0, 0.0, 0.5, 0.5, mirror) for mirror in (False, True))
    assert np.abs(pixels(plain)[:, ::-1] - pixels(mirrored)).mean() < 1
    assert np.abs(pixels(plain) - pixels(mirrored)).mean() > 10
