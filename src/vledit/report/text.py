"""Numbers and sizes for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..evaluate.metrics import Estimate


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


def spaced(name: object) -> str:
    """A metric's or cell's name for people: "near_image" → "near image"."""
    return str(name).replace("_", " ")


def percent(estimate: Estimate) -> str:
    """ "85.5 [83.2, 87.5]": in %, with its 95 % interval; "–" where nothing was measured."""
    if math.isnan(estimate.mean):
        return "–"
    return f"{100 * estimate.mean:.1f} {interval(estimate)}".rstrip()


def seconds(estimate: Estimate | None) -> str:
    """ "0.81 [0.75, 0.88]": a mean in seconds with its interval."""
    if estimate is None or math.isnan(estimate.mean):
        return "–"
    if not estimate.has_interval:
        return f"{estimate.mean:.2f}"
    return f"{estimate.mean:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def interval(estimate: Estimate) -> str:
    """ "[83.2, 87.5]"; empty where there is none."""
    if not estimate.has_interval:
        return ""
    return f"[{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
