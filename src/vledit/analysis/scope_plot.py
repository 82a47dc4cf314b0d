"""The ceiling of a scope as a plot: the share that fires inside against the share that fires outside, one curve per key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .scope_ceiling import Ceiling


def draw(found: Mapping[str, Ceiling], out: Path, title: str = "") -> None:
    """Plots the curves to a PNG or SVG; the point of the best single threshold is marked.

    Raises: OSError where `out` cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 4.4))
    for name, one in found.items():
        outside, inside = zip(*one.curve, strict=True)
        axis.plot(outside, inside, lw=1.2, label=f"{name}: HM {100 * one.hm:.1f}, oracle {100 * one.oracle:.1f}")
    axis.set(
        xlabel="share of out-of-scope probes inside the radius",
        ylabel="share of in-scope probes inside the radius",
        xlim=(0, 1),
        ylim=(0, 1.01),
        title=title,
    )
    axis.grid(alpha=0.25)
    axis.spines["top"].set_visible(False)
    axis.spines["right"].set_visible(False)
    axis.legend(frameon=False, fontsize=6, loc="lower right")
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    plt.close(figure)
