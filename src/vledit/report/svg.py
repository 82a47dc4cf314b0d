"""Small plots as inline SVG: elements, scales, markers.  Colours are CSS classes, so that a page's dark mode reaches them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

SERIES = 8
"""Colours there are (`.s0` … `.s7` in the page's CSS); more series take them again, with dashes."""
MARKERS = ("circle", "square", "diamond", "triangle")


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """An element; `class_` stands for class, `stroke_width` for stroke-width; numbers are rounded; text is escaped."""
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
            words.append(f'{key.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    inside = Markup("").join(children)
    return Markup(f"<{' '.join(words)}/>") if not children else Markup(f"<{' '.join(words)}>{inside}</{name}>")


def text(x: float, y: float, words: str, **attributes: object) -> Markup:
    return tag("text", words, x=x, y=y, **attributes)


def drawing(width: float, height: float, label: str, *children: str, **attributes: object) -> Markup:
    """An `<svg>` that scales with its container; `label` is what a screen reader says."""
    box = f"0 0 {width:g} {height:g}"
    return tag("svg", *children, viewBox=box, role="img", aria_label=label, **attributes)


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values within the scale, about so many."""
        rough = (self.high - self.low) / max(about, 1)
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 10) for i in range(first, last + 1)]


def percent_scale(values: Sequence[float], start: float, end: float, floor: float = 0.0) -> Scale:
    """A scale of shares 0..1 that ends at 1 and starts at a round figure below the smallest value."""
    finite = [v for v in values if math.isfinite(v)]
    low = math.floor(max(min(finite, default=0.0) - 0.02, 0.0) * 10) / 10
    return Scale(max(min(low, 0.8), floor), 1.0, start, end)


def path(points: Sequence[tuple[float, float]], close: bool = False) -> str:
    """The `d` of a polyline."""
    words = [f"{'M' if i == 0 else 'L'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points)]
    return " ".join(words) + (" Z" if close and words else "")


def band(points: Sequence[tuple[float, float, float]]) -> str:
    """The `d` of the area between (x, low y, high y)."""
    return path([(x, low) for x, low, _ in points] + [(x, high) for x, _, high in reversed(points)], close=True)


def marker(series: int, x: float, y: float, size: float = 5.0, hollow: bool = False) -> Markup:
    """A mark whose form changes with the series, so that colour is not all that tells them apart."""
    form = MARKERS[series % len(MARKERS)]
    name = f"mark s{series % SERIES}{' hollow' if hollow else ''}"
    if form == "circle":
        return tag("circle", cx=x, cy=y, r=size, class_=name)
    if form == "square":
        return tag("rect", x=x - size * 0.9, y=y - size * 0.9, width=size * 1.8, height=size * 1.8, class_=name)
    far = size * 1.25
    corners = {
        "diamond": [(x, y - far), (x + far, y), (x, y + far), (x - far, y)],
        "triangle": [(x, y - far), (x + far, y + far * 0.8), (x - far, y + far * 0.8)],
    }[form]
    return tag("path", d=path(corners, close=True), class_=name)


def dashes(series: int) -> str | None:
    """Of lines: none for the first eight series."""
    return None if series < SERIES else "5 3"
