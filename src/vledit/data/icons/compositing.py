"""Put a drawing on a background: what a model is shown.

`clean` is a plain soft background, the same for a drawing each time; `augment` varies background,
scale, place, rotation, colours. Never only on white: a model that learns white learns the background.
"""

from __future__ import annotations

import math
import random
from typing import Literal

import numpy as np
from PIL import Image

from vledit.data.icons.sets import Domain, Style

Colour = tuple[int, int, int]
Mode = Literal["clean", "augment"]

SOFT: tuple[Colour, ...] = (
    (255, 255, 255),
    (247, 245, 240),
    (236, 240, 244),
    (232, 243, 236),
    (250, 240, 225),
    (225, 235, 250),
    (245, 230, 240),
    (205, 214, 224),
    (214, 224, 205),
    (120, 134, 150),
)
_INK: Colour = (34, 36, 40)
_NEAR = 60.0


def composite(
    picture: Image.Image,
    seed: int | str = 0,
    mode: Mode = "clean",
    size: int = 160,
    *,
    style: Style = "colour",
    colour: str = "",
    domain: Domain = "things",
) -> Image.Image:
    """Return `picture` (RGBA, square) on a background, as RGB of `size` x `size`.

    seed: the same seed gives the same picture. style: "mono" is recoloured, in `colour` (RRGGBB),
    dark or random ink that stands out from its background. domain: only things are mirrored (a
    mirrored flag or mark would be another's).
    """
    draw = random.Random(f"{mode}/{seed}")
    mean = _mean_colour(picture)
    own = _parse(colour) if colour else None
    if mode == "clean":
        ground, ground_mean = _plain(draw, size, mean if style == "colour" else own or _INK)
        place = (0.86, 0.0, 0.5, 0.5, False)
        ink = own or _INK
    else:
        ground, ground_mean = _varied(draw, size, mean if style == "colour" else None)
        place = _random_place(draw, domain)
        ink = _random_ink(draw, own, ground_mean)
    if style == "mono" and _distance(ink, ground_mean) < _NEAR:
        ink = _INK if _light(ground_mean) > 110 else (245, 245, 245)
    moved = _place(picture, size, *place)
    drawn = Image.new("RGB", (size, size), ink) if style == "mono" else moved.convert("RGB")
    if mode == "augment" and style == "colour":
        drawn = _jitter(draw, drawn)
    ground.paste(drawn, (0, 0), moved.getchannel("A"))
    return ground


def _place(picture: Image.Image, size: int, scale: float, turn: float, x: float, y: float, mirror: bool) -> Image.Image:
    """Return `picture` as a layer (RGBA) of `size`: `scale` of it wide, turned by `turn` radians.

    x, y: where its centre stands, as a fraction of the layer.
    """
    source = picture
    step = picture.width / (size * scale)
    if step >= 2:  # bilinear sampling skips pixels beyond this
        source, step = picture.reduce(2), step / 2
    cosine, sine = math.cos(turn) * step, math.sin(turn) * step
    flip = -1.0 if mirror else 1.0
    middle = source.width / 2
    column, row = x * size, y * size
    matrix = (
        flip * cosine,
        flip * sine,
        middle - flip * (cosine * column + sine * row),
        -sine,
        cosine,
        middle + sine * column - cosine * row,
    )
    return source.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _random_place(draw: random.Random, domain: Domain) -> tuple[float, float, float, float, bool]:
    scale = draw.uniform(0.55, 1.0)
    turn = math.radians(draw.uniform(-12, 12)) if draw.random() < 0.7 else 0.0
    room = (1 - scale) / 2 + 0.04
    x, y = 0.5 + draw.uniform(-room, room), 0.5 + draw.uniform(-room, room)
    return scale, turn, x, y, domain == "things" and draw.random() < 0.5


def _plain(draw: random.Random, size: int, mean: Colour) -> tuple[Image.Image, Colour]:
    """Return a soft one-coloured ground that `mean` stands out from."""
    choice = SOFT[draw.randrange(len(SOFT) - 1)]
    if _distance(choice, mean) < 70:
        choice = max(SOFT, key=lambda soft: _distance(soft, mean))
    return Image.new("RGB", (size, size), choice), choice


def _varied(draw: random.Random, size: int, mean: Colour | None) -> tuple[Image.Image, Colour]:
    """Return a random ground, and its mean colour; it stands out from `mean` where one is given."""
    first = _ground_colour(draw)
    for _ in range(4):
        if mean is None or _distance(first, mean) >= _NEAR:
            break
        first = _ground_colour(draw)
    kind = draw.random()
    if kind < 0.35:
        return Image.new("RGB", (size, size), first), first
    second = _mix(first, _ground_colour(draw), draw.uniform(0.15, 0.5))
    middle = _mix(first, second, 0.5)
    if kind < 0.6:
        return _gradient(draw, size, first, second), middle
    if kind < 0.8:
        ground = Image.new("RGB", (size, size), first)
        ground.paste(second, (0, round(size * draw.uniform(0.35, 0.8)), size, size))
        if draw.random() < 0.3:
            ground = ground.rotate(90)
        return ground, middle
    return _texture(draw, size, first), first


def _gradient(draw: random.Random, size: int, first: Colour, second: Colour) -> Image.Image:
    corners = [first, _mix(first, second, draw.random()), _mix(first, second, draw.random()), second]
    draw.shuffle(corners)
    small = Image.new("RGB", (2, 2))
    small.putdata(corners)
    return small.resize((size, size), Image.Resampling.BILINEAR)


def _texture(draw: random.Random, size: int, base: Colour) -> Image.Image:
    noise = np.random.default_rng(draw.getrandbits(32))
    cells = draw.choice((5, 10, 20, 40, size))
    spread = draw.uniform(6, 26)
    grey = noise.normal(0, spread, (cells, cells, 1 if draw.random() < 0.6 else 3))
    small = np.clip(np.asarray(base) + grey, 0, 255).astype(np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BILINEAR)


def _ground_colour(draw: random.Random) -> Colour:
    kind = draw.random()
    if kind < 0.4:
        level = draw.randint(205, 255)
        return (
            min(255, level + draw.randint(-12, 12)),
            min(255, level + draw.randint(-12, 12)),
            min(255, level + draw.randint(-12, 12)),
        )
    if kind < 0.5:
        level = draw.randint(15, 70)
        return (level, level + draw.randint(-10, 10), level + draw.randint(-10, 10))
    return (draw.randint(40, 250), draw.randint(40, 250), draw.randint(40, 250))


def _random_ink(draw: random.Random, own: Colour | None, ground: Colour) -> Colour:
    if own is not None and draw.random() < 0.5:
        return own
    if draw.random() < 0.4:
        return _INK
    for _ in range(4):
        ink = (draw.randint(0, 255), draw.randint(0, 255), draw.randint(0, 255))
        if _distance(ink, ground) > 2 * _NEAR:
            return ink
    return _INK


def _jitter(draw: random.Random, picture: Image.Image) -> Image.Image:
    gain, shift = draw.uniform(0.85, 1.12), draw.uniform(-14, 14)
    table: list[int] = []
    for _ in range(3):
        channel = gain * draw.uniform(0.95, 1.05)
        table += [max(0, min(255, round(level * channel + shift))) for level in range(256)]
    return picture.point(table)


def _mean_colour(picture: Image.Image) -> Colour:
    pixel = picture.convert("RGBa").resize((1, 1), Image.Resampling.BOX).convert("RGBA").tobytes()
    return pixel[0], pixel[1], pixel[2]


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    return (
        round(first[0] + (second[0] - first[0]) * share),
        round(first[1] + (second[1] - first[1]) * share),
        round(first[2] + (second[2] - first[2]) * share),
    )


def _distance(first: Colour, second: Colour) -> float:
    return math.dist(first, second)


def _light(colour: Colour) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _parse(colour: str) -> Colour:
    return int(colour[:2], 16), int(colour[2:4], 16), int(colour[4:6], 16)
