"""Plots of the ablations; the plotted figures are in the CSV file beside each plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluate.ablations import METRICS
from .figures import COLOURS, MARKS, WORDS, bars, figure, legend_below, line, plain_log

if TYPE_CHECKING:
    from ..analysis.key_map import KeyMap
    from ..analysis.nearest_entries import Explained
    from ..evaluate.bootstrap import Estimate

Table = Mapping[str, "Estimate"]


def alpha(path: Path, found: Mapping[float, Table], chosen: float | None, title: str) -> None:
    """Metrics along α (Fig. 5); the ends are Table 10."""
    with figure(path, 5.2, 3.9) as axis:
        for number, name in enumerate(METRICS):
            points = [(a, row[name]) for a, row in found.items() if name in row]
            if points:
                line(axis, number, [a for a, _ in points], [e for _, e in points], WORDS[name])
        if chosen is not None:
            axis.axvline(chosen, color="#222222", lw=0.9, ls=":", label=f"the model's own α, {chosen:g}")
        axis.set(xlabel="α  (0: the negative sample alone, 1: the positive alone)", ylabel="% of edits", ylim=(0, 103))
        axis.set_title(title, loc="left", fontsize=9)
        legend_below(axis.figure, axis, 3)


def variants(path: Path, found: Mapping[str, Table], title: str) -> None:
    """Bars of every metric for every variant (Tables 6 to 9)."""
    names = [name for name in METRICS if any(name in row for row in found.values())]
    series = {variant: [row.get(name) for name in names] for variant, row in found.items()}
    with figure(path, 6.4, 3.4) as axis:
        bars(axis, [WORDS[name].replace(" ", "\n", 1) for name in names], series)
        axis.figure.suptitle(title, fontsize=9, x=0.01, ha="left")


def sequence(path: Path, found: Mapping[str, Mapping[int, Table]], title: str) -> None:
    """Metrics after N edits (Table 4), one panel each."""
    wanted = ("retained", "near_image_preserved", "HM")
    with figure(path, 7.2, 3.0, len(wanted)) as axes:
        for axis, name in zip(axes[0], wanted, strict=True):
            for number, (variant, points) in enumerate(found.items()):
                some = [(n, row[name]) for n, row in points.items() if name in row]
                if some:
                    line(axis, number, [n for n, _ in some], [e for _, e in some], variant)
            axis.set(xlabel="edits made", ylim=(-3, 103))
            axis.set_title(WORDS.get(name, "edits retained"), fontsize=9)
            axis.set_xticks(sorted({n for points in found.values() for n in points}))
        axes[0, 0].set_ylabel("%")
        legend_below(axes[0, 0].figure, axes[0, 0], 5)
        axes[0, 0].figure.suptitle(title, fontsize=9, x=0.01, ha="left")


def costs(path: Path, rows: Sequence[Mapping[str, Any]], panels: Mapping[str, str], title: str) -> None:
    """Bars on a logarithmic axis, one panel for each column of `panels` (column → what it is)."""
    with figure(path, 3.4 * len(panels), 0.6 + 0.34 * max(len(rows), 3), len(panels)) as axes:
        for number, (name, words) in enumerate(panels.items()):
            axis = axes if len(panels) == 1 else axes[0, number]
            values = [float(row.get(name) or 0.0) for row in rows]
            low = min((value for value in values if value > 0), default=1.0) / 3
            axis.barh(range(len(rows)), [value or low for value in values], color=COLOURS[number], height=0.62)
            for place, (row, value) in enumerate(zip(rows, values, strict=True)):
                told = "not recorded" if name in row and row[name] is None else f"{value:.3g}"
                axis.text(max(value, low) * 1.08, place, told, va="center", fontsize=7.5)
            axis.set(xscale="log", xlabel=words, xlim=(low, max([*values, low]) * 12))
            plain_log(axis)
            axis.grid(axis="y", visible=False)
            axis.set_yticks(range(len(rows)), [row["variant"] for row in rows] if number == 0 else [""] * len(rows))
            axis.invert_yaxis()
        first = axes if len(panels) == 1 else axes[0, 0]
        first.figure.suptitle(title, fontsize=9, x=0.01, ha="left")


def keys(path: Path, found: KeyMap, title: str) -> None:
    """Keys as PCA, radii drawn to scale, and as t-SNE with marks of size radius / nearest other key."""
    from matplotlib.patches import Circle

    with figure(path, 7.6, 3.8, 2) as axes:
        left, right = axes[0]
        for (x, y), radius in zip(found.pca, found.radii, strict=True):
            left.add_patch(Circle((x, y), radius, fc=COLOURS[0], ec=COLOURS[0], alpha=0.06, lw=0.5))
        left.plot(found.pca[:, 0], found.pca[:, 1], ".", ms=4, color=COLOURS[0])
        left.set_aspect("equal", adjustable="datalim")
        share = " + ".join(f"{100 * part:.0f} %" for part in found.explained)
        left.set(title=f"PCA, radii to scale ({share} of the variance)", xticks=[], yticks=[])
        inside = found.radii >= found.nearest
        sizes = 12 + 60 * (found.radii / found.nearest.clip(min=1e-12)).clip(max=3)
        for number, (holds, words) in enumerate(((False, "no other key inside"), (True, "another key inside"))):
            some = inside == holds
            right.scatter(
                found.tsne[some, 0],
                found.tsne[some, 1],
                s=sizes[some],
                marker=MARKS[number],
                color=COLOURS[number],
                alpha=0.7,
                lw=0,
                label=f"{words}: {int(some.sum())}",
            )
        right.set(title="t-SNE, size: radius / nearest other key", xticks=[], yticks=[])
        right.legend(fontsize=7)
        left.figure.suptitle(title, fontsize=9, x=0.01, ha="left")


def explained(path: Path, rows: Sequence[Sequence[Explained]], title: str) -> None:
    """A row for each edit: its picture and fact, then questions with their answers and why they were answered so (Fig. 4)."""
    columns = max(len(row) for row in rows)
    with figure(path, 2.3 * columns, 0.5 + 2.75 * len(rows), columns, len(rows)) as axes:
        grid = axes if len(rows) * columns > 1 else [[axes]]
        for place, (row, some) in enumerate(zip(grid, rows, strict=True)):
            own = some[0].entry if some else ""
            for axis in row:
                axis.set_axis_off()
            for axis, one in zip(row, some, strict=False):
                if one.image is not None:
                    axis.imshow(one.image)
                colour = COLOURS[2] if one.right else COLOURS[1] if one.right is False else "#222222"
                axis.set_title(_wrapped(one.text(own)), fontsize=7, color=colour, loc="left", linespacing=1.25)
                if place == 0:
                    axis.annotate(
                        one.asked, (0, 1), (0, 58), "axes fraction", "offset points", fontsize=8.5, fontweight="bold"
                    )
        first = grid[0][0]
        note = "green: answered as it should be; orange: not"
        first.figure.suptitle(f"{title}   ({note})", fontsize=9, x=0.01, ha="left")


def _wrapped(text: str, width: int = 38) -> str:
    import textwrap

    text = "".join(sign if sign.isprintable() or sign == "\n" else "·" for sign in text)
    return "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, width) or [""])
