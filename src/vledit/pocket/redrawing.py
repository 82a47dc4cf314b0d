"""Training only: vary how a thing is drawn, so that the model does not learn one vendor's line, palette and proportions.

Colours are not changed where they carry the meaning: a flag in other colours is another flag.
"""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from ..data.icons.sets import Style

Matrix = tuple[float, float, float, float, float, float, float, float, float, float, float, float]


def redrawn(picture: Image.Image, style: Style, domain: str, rng: random.Random) -> tuple[Image.Image, Style]:
    """A drawing (RGBA) as another hand might have made it, and its style ("colour" or "mono")."""
    if rng.random() < 0.4:
        picture = _stretched(picture, rng)
    if style != "colour" or domain == "flags":
        return picture, style
    kind = rng.random()
    if kind < 0.2 and domain == "things":
        return _inked(picture, rng), "mono"
    if kind < 0.3:
        return _recoloured(picture, _grey_matrix(rng.uniform(0.0, 0.3))), style
    if kind < 0.55:
        turn = rng.uniform(-0.6, 0.6) if domain == "things" else rng.uniform(-0.1, 0.1)
        return _recoloured(picture, _hue_matrix(turn, rng.uniform(0.5, 1.4))), style
    return picture, style


def spoiled(picture: Image.Image, rng: random.Random) -> Image.Image:
    """The finished picture (RGB), sometimes with less detail, blurred, or with a piece missing."""
    if rng.random() < 0.15:
        small = rng.randrange(40, 110)
        picture = picture.resize((small, small), Image.Resampling.BILINEAR).resize(
            picture.size, Image.Resampling.BILINEAR
        )
    elif rng.random() < 0.1:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2.0)))
    if rng.random() < 0.25:
        width, height = (round(picture.width * rng.uniform(0.08, 0.3)) for _ in range(2))
        x, y = rng.randrange(picture.width - width), rng.randrange(picture.height - height)
        colour = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        picture.paste(colour, (x, y, x + width, y + height))
    return picture


def _stretched(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Sheared and stretched about its middle, by up to a fifth."""
    wide, high = math.exp(rng.uniform(-0.2, 0.2)), math.exp(rng.uniform(-0.2, 0.2))
    # never smaller than the frame: what would leave it is shrunk back
    shear = rng.uniform(-0.15, 0.15)
    grow = max(1.0, 1.0 / wide, 1.0 / high)
    a, e = wide * grow, high * grow
    middle = picture.width / 2
    matrix = (a, shear, middle - (a + shear) * middle, 0.0, e, middle - e * middle)
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _inked(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Its dark (or light) parts as a one-colour drawing: alpha is the ink."""
    light = ImageOps.autocontrast(picture.convert("RGB").convert("L"), mask=picture.getchannel("A"))
    levels = np.asarray(light, np.float32)
    alpha = np.asarray(picture.getchannel("A"), np.float32)
    drawn = levels[alpha > 128]
    if not len(drawn):
        return picture
    limit = float(np.quantile(drawn, rng.uniform(0.25, 0.75)))
    ink = np.clip((limit - levels) / 24 + 0.5, 0, 1)
    if rng.random() < 0.4:
        ink = 1 - ink
    if rng.random() < 0.3:  # an outline around it all
        inner = np.asarray(picture.getchannel("A").filter(ImageFilter.MinFilter(5)), np.float32)
        ink = np.maximum(ink, (alpha - inner) / 255)
    out = picture.copy()
    out.putalpha(Image.fromarray((ink * alpha).astype(np.uint8)))
    return out


def _recoloured(picture: Image.Image, matrix: Matrix) -> Image.Image:
    out = picture.convert("RGB").convert("RGB", matrix)
    out.putalpha(picture.getchannel("A"))
    return out


def _grey_matrix(keep: float) -> Matrix:
    """Colour of strength `keep` (0 is grey)."""
    return _hue_matrix(0.0, keep)


def _hue_matrix(turn: float, saturation: float) -> Matrix:
    """Turns the hue by `turn` radians around the grey axis and scales the distance from grey."""
    grey = np.full((3, 3), 1 / 3)
    cos, sin = math.cos(turn) * saturation, math.sin(turn) * saturation
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    rows = grey + cos * (np.eye(3) - grey) + sin * cross
    return tuple(float(v) for row in rows for v in (*row, 0.0))  # type: ignore[return-value]
