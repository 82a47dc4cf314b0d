"""Cost against size, on log axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .measuring import Figure


def draw(figures: Sequence[Figure], path: Path) -> None:
    """One panel for each unit: a line per series, with the range of the rounds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [figure for figure in figures if figure.size is not None and figure.series]
    units = list(dict.fromkeys(figure.unit for figure in shown))
    if not units:
        return
    drawing, panels = pyplot.subplots(1, len(units), figsize=(6 * len(units), 4.2), squeeze=False)
    for panel, unit in zip(panels[0], units, strict=True):
        of_unit = [figure for figure in shown if figure.unit == unit]
        for series in dict.fromkeys(figure.series for figure in of_unit):
            line = sorted((figure for figure in of_unit if figure.series == series), key=lambda one: one.size or 0)
            sizes, values = [one.size for one in line], [one.value for one in line]
            below = [max(one.value - one.low, 0) for one in line]
            above = [max(one.high - one.value, 0) for one in line]
            panel.errorbar(sizes, values, [below, above], marker="o", capsize=3, label=series)
        goals = sorted({(one.size, one.goal) for one in of_unit if one.goal is not None})
        panel.plot([size for size, _ in goals], [goal for _, goal in goals], "k--", linewidth=1, label="goal")
        panel.set(xscale="log", yscale="log", xlabel="entries", ylabel=_axis(unit))
        panel.grid(True, which="both", alpha=0.3)
        panel.legend(fontsize=8)
    drawing.tight_layout()
    drawing.savefig(path)
    pyplot.close(drawing)


def _axis(unit: str) -> str:
    return {"x": "edited / unedited answer", "s": "seconds", "us": "microseconds per entry"}.get(unit, unit)
