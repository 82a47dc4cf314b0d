"""The learning curve of a training as a picture."""

from __future__ import annotations

from pathlib import Path

from .loop import read_log

_NOT_LOSSES = ("step", "seconds", "gradient", "strength")


def draw(folder: Path, out: Path, title: str = "") -> None:
    """Plots every term of a fitting's log over its steps, on a logarithmic scale, to a PNG or SVG.

    A fitting in closed form takes no steps: its log holds the errors for each strength of the ridge penalty that was tried.

    Raises: OSError where the folder has no log, or `out` cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = read_log(folder)
    terms = list(dict.fromkeys(name for line in lines for name in line if name not in _NOT_LOSSES))
    tried = all("strength" in line for line in lines)
    along = "strength" if tried else "step"
    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    for term in terms:
        points = [(line[along], line[term]) for line in lines if term in line]
        axis.plot(*zip(*points, strict=True), lw=1.2, marker="o" if tried else "", ms=3, label=term)
    axis.set(xlabel="step", ylabel="weighted loss, nats", yscale="log", title=title)
    if tried:
        axis.set(xlabel="strength of the ridge penalty", ylabel="squared error, held back rows", xscale="log")
    axis.grid(alpha=0.25)
    axis.spines["top"].set_visible(False)
    axis.spines["right"].set_visible(False)
    axis.legend(frameon=False, fontsize=7)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    plt.close(figure)
