"""Figures for papers: one plain style, a CSV of the same figures beside every picture."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from ..evaluate.bootstrap import Estimate

COLOURS = ("#1b6ca8", "#d1603d", "#3d8b5f", "#7a5195", "#b8860b", "#555555", "#3fb0c4", "#c2478c", "#8a6d4b", "#111111")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
ENDINGS = (".png", ".svg", ".pdf")
WORDS = {
    "reliability": "reliability",
    "text_generality": "text generality",
    "image_generality": "image generality",
    "near_image_preserved": "locality (near images)",
    "HM": "HM",
}


def check_path(path: Path) -> None:
    """Raises: InputError for a file that no picture can be written to, before anything is run."""
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"out: '{path.name}' must end in one of {', '.join(ENDINGS)}; its CSV is written beside it.")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """The rows beside a picture, as CSV; columns in order of first appearance."""
    target = path.with_suffix(".csv")
    target.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return target


@contextmanager
def figure(path: Path, width: float = 5.2, height: float = 3.4, columns: int = 1, rows: int = 1) -> Iterator[Any]:
    """Matplotlib axes, one or an array of them; written to `path` at the end, with no time in the file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style: Any = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "svg.hashsalt": "vledit",
        "text.parse_math": False,  # an answer may hold a dollar sign
    }
    with plt.rc_context(style):
        drawn, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained")
        try:
            yield axes[0, 0] if columns == rows == 1 else axes
            path.parent.mkdir(parents=True, exist_ok=True)
            stamp = {"Date": None} if path.suffix == ".svg" else {}
            drawn.savefig(path, dpi=160, metadata=stamp)
        finally:
            plt.close(drawn)


def plain_log(axis: Any) -> None:
    """Plain numbers along a logarithmic x axis, one for each power of ten; where there is hardly one, for 2 and 5 as well."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_xlim()
    wide = high / max(low, 1e-300) > 30
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(NullLocator())


def legend_below(figure: Any, axis: Any, columns: int) -> None:
    """The axis' legend under all panels, so that it hides no line."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def line(axis: Any, number: int, xs: Sequence[float], estimates: Sequence[Estimate], label: str) -> None:
    """A line of percentages with the 95 % interval as a band."""
    colour = COLOURS[number % len(COLOURS)]
    axis.plot(
        xs, [100 * e.mean for e in estimates], color=colour, marker=MARKS[number % len(MARKS)], ms=3.5, label=label
    )
    low, high = ([100 * e.ends[side] for e in estimates] for side in (0, 1))
    axis.fill_between(xs, low, high, color=colour, alpha=0.12, lw=0)


def bars(axis: Any, groups: Sequence[str], series: Mapping[str, Sequence[Estimate | None]]) -> None:
    """Grouped bars of percentages with 95 % intervals: a group for each metric, a bar for each variant."""
    wide = 0.8 / max(len(series), 1)
    for number, (name, found) in enumerate(series.items()):
        for place, estimate in enumerate(found):
            if estimate is None:
                continue
            x = place - 0.4 + wide * (number + 0.5)
            mean, (low, high) = 100 * estimate.mean, estimate.ends
            axis.bar(
                x, mean, wide * 0.92, color=COLOURS[number % len(COLOURS)], label=name if place == 0 else None, lw=0
            )
            axis.errorbar(
                x, mean, [[mean - 100 * low], [100 * high - mean]], color="#222222", lw=0.8, capsize=1.8, fmt="none"
            )
    axis.set_xticks(range(len(groups)), groups)
    axis.set(ylabel="% of edits", ylim=(0, 103))
    axis.grid(axis="x", visible=False)
    axis.legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def tried(path: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str], title: str, logs: Sequence[str]) -> None:
    """What a search tried: its value against each setting, later trials darker, the best one ringed."""
    columns = min(len(names), 4)
    with figure(path, 2.5 * columns, 2.6, columns) as axes:
        panels = [axes] if columns == 1 else list(axes[0])
        best = max(rows, key=lambda row: row["value"])
        for axis, name in zip(panels, names, strict=False):
            some = [row for row in rows if row[name] is not None]
            axis.scatter(
                [row[name] for row in some],
                [100 * row["value"] for row in some],
                c=[row["trial"] for row in some],
                cmap="Blues",
                vmin=-len(rows) / 2,
                s=18,
                edgecolors="#1b3a57",
                linewidths=0.4,
            )
            if best[name] is not None:
                axis.scatter(
                    [best[name]], [100 * best["value"]], s=70, facecolors="none", edgecolors=COLOURS[1], lw=1.4
                )
            axis.set(xlabel=name.replace("_", " "), ylim=(-3, 103))
            if name in logs:
                axis.set_xscale("log")
                plain_log(axis)
        panels[0].set_ylabel("value, %")
        panels[0].set_title(title, loc="left", fontsize=9)
