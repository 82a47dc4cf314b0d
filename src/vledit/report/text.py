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


def against(distance: float | None, radius: float) -> str:
    """A distance with as many decimals as its radius needs for three digits; rounding noise is "0"."""
    if distance is None or not math.isfinite(distance) or radius <= 0:
        return number(distance)
    decimals = max(0, 2 - math.floor(math.log10(radius)))
    return f"{distance:.{decimals}f}" if distance > 1e-4 * radius else "0"


def share(ratio: float) -> str:
    """Distance over radius with two decimals, and more where two would hide which side of the radius it is on."""
    return f"{ratio:.2f}" if abs(ratio - 1) >= 0.005 else f"{ratio:.5f}"


def size(nbytes: int) -> str:
    """Bytes for people: "3.5 MB"."""
    value = float(nbytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"
