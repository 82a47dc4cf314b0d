"""Numbers and sizes for people."""

from __future__ import annotations

import math


def number(value: float | None, digits: int = 4) -> str:
    """A number for people: four significant digits, "∞" and "–" for what is none."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "∞"
    return f"{value:.{digits}g}"


def size(nbytes: int) -> str:
    """Bytes for people: "3.5 MB"."""
    value = float(nbytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"
