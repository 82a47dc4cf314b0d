"""Render one icon to a square picture, and compare drawings of one thing.

A picture is RGBA, 192 x 192, the drawing cut to its own edges and fitted into the square. A drawing
of one dark colour is kept as "mono": its colour says nothing, its alpha channel everything, so that it
can be recoloured.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image

from vledit.data.icons.sets import Style

SIZE = 192
THUMBNAIL = 32
MAX_CORRELATION = 0.97
_FIRST_RENDER = 216
_DARK = 56
_MIN_INK = 0.01
VERSION = 4
"""Raise when the same file would give another picture, so that caches are rebuilt."""


class EmptyDrawing(ValueError):
    """The file renders to (almost) nothing."""


@dataclass(frozen=True)
class Rendered:
    """A picture as stored: WebP without loss, and what was found out about it."""

    webp: bytes
    style: Style
    thumbnail: NDArray[np.uint8]  # (32, 32, 3), on mid grey


def render(content: bytes, style: Style, colour: str = "") -> Rendered:
    """Render an SVG or raster file's `content`.

    style: the set's; a drawing found to be all dark is mono in a colour set as well.
    colour: RRGGBB that a mono drawing is shown in on its thumbnail.
    Raises: EmptyDrawing, ValueError where the file cannot be read.
    """
    picture = square(rasterise(content))
    style = "mono" if style == "mono" or is_dark(picture) else "colour"
    stream = io.BytesIO()
    picture.save(stream, "WEBP", lossless=True, quality=40, method=1, exact=False)
    return Rendered(stream.getvalue(), style, thumbnail(picture, style, colour))


def rasterise(content: bytes) -> Image.Image:
    """Return the file's picture as RGBA, 216 pixels wide (an SVG) or its own size."""
    if b"<svg" in content[:2000]:
        svg = content.decode()
        png = resvg_py.svg_to_bytes(svg_string=svg, width=_FIRST_RENDER, skip_system_fonts=True)
        picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
        if picture.height > 4 * _FIRST_RENDER:
            raise EmptyDrawing("a sliver")
        return picture
    return Image.open(io.BytesIO(content)).convert("RGBA")


def square(picture: Image.Image, size: int = SIZE) -> Image.Image:
    """Return `picture` cut to its visible part and fitted into a square, without distortion.

    Raises: EmptyDrawing where under 1 % of the square would be visible.
    """
    alpha = picture.getchannel("A")
    box = alpha.point([255 * (level > 16) for level in range(256)]).getbbox()
    if box is None:
        raise EmptyDrawing("nothing is visible")
    cut = picture.crop(box)
    side = max(cut.size)
    canvas = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    canvas.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    fitted = canvas.resize((size, size), Image.Resampling.LANCZOS)
    if np.asarray(fitted.getchannel("A")).mean() < 255 * _MIN_INK:
        raise EmptyDrawing("almost nothing is visible")
    return fitted


def is_dark(picture: Image.Image) -> bool:
    """Tell whether all that is visible is near-black, so that only the shape says something."""
    pixels = np.asarray(picture)
    ink = pixels[pixels[..., 3] > 128][:, :3]
    return bool(ink.size) and bool(np.percentile(ink.max(axis=1), 98) < _DARK)


def thumbnail(picture: Image.Image, style: Style, colour: str = "") -> NDArray[np.uint8]:
    """Return `picture` on mid grey as (32, 32, 3) uint8; a mono one in `colour` or black."""
    ground = Image.new("RGB", picture.size, (128, 128, 128))
    ink = Image.new("RGB", picture.size, f"#{colour or '101010'}")
    ground.paste(ink if style == "mono" else picture, (0, 0), picture.getchannel("A"))
    return np.asarray(ground.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def distinct(thumbnails: NDArray[np.uint8], limit: float = MAX_CORRELATION) -> list[int]:
    """Return the indices of `thumbnails` (N, 32, 32, 3) that repeat no earlier kept one.

    Two are the same drawing where the correlation of their pixels is above `limit`.
    """
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    flat /= np.where(norms > 0, norms, 1)
    kept: list[int] = []
    for index, vector in enumerate(flat):
        if not kept or float((flat[kept] @ vector).max()) <= limit:
            kept.append(index)
    return kept
