"""The report's plots: generality against locality, radar, α curve, retention, distances over radii.  All inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from ..data.devqa import LOCALITY_CELLS
from .runs import Arm
from .scores import ALPHA_METRICS, Curve, Reach, cells_of
from .svg import SERIES, Scale, band, dashes, drawing, marker, path, percent_scale, tag, text
from .text import percent, spaced

if TYPE_CHECKING:
    from ..evaluate.metrics import Estimate

WIDTH, HEIGHT = 460.0, 360.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 14.0, 12.0, 44.0


def frame(x: Scale, y: Scale, x_title: str, y_title: str, x_ticks: Sequence[tuple[float, str]] | None = None) -> Markup:
    """Grid, ticks and titles; `y` is in shares and labelled in %, and so is `x` where no ticks are given."""
    parts = []
    for value in y.ticks():
        parts.append(tag("line", x1=x.start, x2=x.end, y1=y(value), y2=y(value), class_="grid"))
        parts.append(text(x.start - 7, y(value) + 4, f"{100 * value:.0f}", text_anchor="end", class_="tick"))
    for value, label in x_ticks or [(v, f"{100 * v:.0f}") for v in x.ticks()]:
        parts.append(tag("line", x1=x(value), x2=x(value), y1=y.start, y2=y.start + 4, class_="axis"))
        parts.append(text(x(value), y.start + 18, label, text_anchor="middle", class_="tick"))
    parts.append(tag("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    parts.append(text((x.start + x.end) / 2, y.start + 37, x_title, text_anchor="middle", class_="title"))
    turned = f"rotate(-90 11 {(y.start + y.end) / 2:.0f})"
    middle = (y.start + y.end) / 2
    parts.append(text(11.0, middle, y_title, text_anchor="middle", transform=turned, class_="title"))
    return Markup("").join(parts)


def trade_off(arms: Sequence[Arm], generality: str, locality: str) -> Markup | None:
    """Each arm at (locality, generality) with both intervals; the curves are of equal harmonic mean of the two axes."""
    shown = [arm for arm in arms if generality in arm.estimates and locality in arm.estimates]
    if not shown:
        return None
    pairs = [(arm.estimates[locality], arm.estimates[generality]) for arm in shown]
    x = percent_scale([e.ends[0] for e, _ in pairs], LEFT, WIDTH - RIGHT)
    y = percent_scale([e.ends[0] for _, e in pairs], HEIGHT - BOTTOM, TOP)
    parts = [frame(x, y, f"{spaced(locality)} (%)", f"{spaced(generality)} (%)"), _equal_means(x, y)]
    for arm, (across, up) in zip(shown, pairs, strict=True):
        px, py, colour = x(across.mean), y(up.mean), f"s{arm.series % SERIES}"
        told = f"{arm.label}: {spaced(generality)} {percent(up)}, {spaced(locality)} {percent(across)}, n = {up.n}"
        parts.append(
            tag(
                "g",
                tag("title", told),
                tag("line", x1=x(across.ends[0]), x2=x(across.ends[1]), y1=py, y2=py, class_=f"whisker {colour}"),
                tag("line", x1=px, x2=px, y1=y(up.ends[0]), y2=y(up.ends[1]), class_=f"whisker {colour}"),
                marker(arm.series, px, py, 5.5, hollow=not arm.alone),
                class_="arm",
                data_arm=arm.index,
            )
        )
    label = f"{spaced(generality)} against {spaced(locality)} of {len(shown)} editors; the figures stand in the table above."
    return drawing(WIDTH, HEIGHT, label, *parts)


def _equal_means(x: Scale, y: Scale) -> Markup:
    """Lines along which 2ab/(a+b) is the same."""
    parts = []
    for mean in (0.2, 0.4, 0.6, 0.7, 0.8, 0.9):
        along = np.linspace(max(x.low, mean / (2 - mean) + 1e-6), 1.0, 60)
        points = [(a, mean * a / (2 * a - mean)) for a in along if 2 * a > mean]
        inside = [(x(a), y(b)) for a, b in points if y.low <= b <= 1.0 + 1e-9]
        if len(inside) > 2:
            parts.append(tag("path", d=path(inside), class_="iso"))
            end = inside[-1]
            parts.append(text(end[0] - 2, end[1] - 4, f"{100 * mean:.0f}", text_anchor="end", class_="iso-label"))
    return Markup("").join(parts)


def radar(arms: Sequence[Arm], kind: str) -> Markup | None:
    """Every locality cell on an axis of its own, 0 in the middle and 100 % outside.  `kind`: see `scores.KINDS`."""
    cells = [cell for _, cell in cells_of(arms, "locality")]
    cells = [cell for cell in cells if any(f"{cell}_{kind}" in arm.estimates for arm in arms)]
    cells = [cell for cell in cells if cell not in LOCALITY_CELLS]  # De-VQA's have a radar of their own
    if len(cells) < 3:
        return None
    width, height = WIDTH, 340.0
    cx, cy, reach = width / 2, height / 2 + 2, 118.0
    angles = [2 * math.pi * i / len(cells) - math.pi / 2 for i in range(len(cells))]

    def at(share: float, angle: float) -> tuple[float, float]:
        return cx + reach * share * math.cos(angle), cy + reach * share * math.sin(angle)

    parts = []
    for ring in (0.25, 0.5, 0.75, 1.0):
        parts.append(tag("path", d=path([at(ring, a) for a in angles], close=True), class_="grid ring"))
        parts.append(text(cx + 4, cy - reach * ring + 11, f"{100 * ring:.0f}", class_="iso-label"))
    for cell, angle in zip(cells, angles, strict=True):
        (x1, y1), (x2, y2), (tx, ty) = at(0, angle), at(1, angle), at(1.09, angle)
        parts.append(tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="grid"))
        anchor = "middle" if abs(tx - cx) < 8 else "start" if tx > cx else "end"
        shift = 10.0 if ty > cy + 8 else 0.0 if ty < cy - 8 else 4.0
        parts.append(text(tx, ty + shift, spaced(cell), text_anchor=anchor, class_="title"))
    for arm in arms:
        parts.append(_polygon(arm, [f"{cell}_{kind}" for cell in cells], angles, at))
    named = ", ".join(spaced(cell) for cell in cells)
    return drawing(
        width, height, f"Radar of locality, {spaced(kind)}, over {named}; the figures stand in the table.", *parts
    )


At = Callable[[float, float], tuple[float, float]]
"""(share, angle) → where it is in a radar."""


def _polygon(arm: Arm, names: Sequence[str], angles: Sequence[float], at: At) -> Markup:
    found = [(arm.estimates[n].mean, a, n) for n, a in zip(names, angles, strict=True) if n in arm.estimates]
    points = [at(mean, angle) for mean, angle, _ in found]
    colour = f"s{arm.series % SERIES}"
    told = f"{arm.label}: " + ", ".join(f"{spaced(n)} {100 * mean:.1f}" for mean, _, n in found)
    return tag(
        "g",
        tag("title", told),
        tag(
            "path",
            d=path(points, close=len(points) > 2),
            class_=f"shape {colour}",
            stroke_dasharray=_protocol_dash(arm),
        ),
        *(marker(arm.series, px, py, 2.8, hollow=not arm.alone) for px, py in points),
        class_="arm",
        data_arm=arm.index,
    )


def _protocol_dash(arm: Arm) -> str | None:
    return dashes(arm.series) if arm.alone else "2 3"


ALPHA_LINES = (*ALPHA_METRICS[:4], "HM")


def alpha_plot(curve: Curve) -> Markup:
    """Metrics against α (BalancEdit, Fig. 5), intervals shaded, the α in use marked."""
    alphas = list(curve.points)
    names = [name for name in ALPHA_LINES if any(name in row for row in curve.points.values())]
    x = Scale(min(alphas), max(alphas), LEFT, WIDTH - RIGHT)
    y = Scale(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    ticks = [(v, f"{v:g}") for v in x.ticks()]
    parts = [frame(x, y, "α   (0: widest radius, 1: tightest)", "% of edits’ probes", ticks)]
    parts.append(tag("line", x1=x(curve.chosen), x2=x(curve.chosen), y1=y.start, y2=y.end, class_="chosen"))
    for index, name in enumerate(names):
        found = [(alpha, row[name]) for alpha, row in curve.points.items() if name in row]
        parts.append(_line(name, index, [(x(a), e) for a, e in found], y, [f"α = {a:g}" for a, _ in found]))
    label = f"{curve.arm.label}: metrics against α; the figures stand in the table below."
    return drawing(WIDTH, HEIGHT, label, *parts)


def _line(name: str, series: int, points: Sequence[tuple[float, Estimate]], y: Scale, at: Sequence[str]) -> Markup:
    """A line with its interval, and a spot to point at for every value."""
    colour = "ink" if name == "HM" else f"s{series % SERIES}"
    spots = [
        tag("circle", tag("title", f"{spaced(name)}, {where}: {percent(e)}"), cx=px, cy=y(e.mean), r=5.0, class_="spot")
        for (px, e), where in zip(points, at, strict=True)
    ]
    return tag(
        "g",
        tag("path", d=band([(px, y(e.ends[0]), y(e.ends[1])) for px, e in points]), class_=f"band {colour}"),
        tag("path", d=path([(px, y(e.mean)) for px, e in points]), class_=f"line {colour}"),
        *spots,
        class_="arm",
    )


def retention_plot(points: dict[int, dict[int, tuple[Arm, dict[str, Estimate]]]], metric: str) -> Markup | None:
    """One metric against the number of edits there when it was scored, on a logarithmic axis; a line per series."""
    found = {s: [(n, a, e[metric]) for n, (a, e) in row.items() if metric in e] for s, row in points.items()}
    found = {series: row for series, row in found.items() if row}
    if not found:
        return None
    numbers = sorted({n for row in found.values() for n, _, _ in row})
    most = max(numbers[-1], numbers[0] + 1)
    x = Scale(math.log10(numbers[0]) - 0.04, math.log10(most) + 0.04, LEFT, WIDTH - RIGHT)
    y = percent_scale([e.ends[0] for row in found.values() for _, _, e in row], 260 - BOTTOM, TOP)
    parts = [frame(x, y, "edits made before scoring", "%", [(math.log10(n), f"{n:,}") for n in _apart(numbers, x)])]
    for series, row in found.items():
        colour = f"s{series % SERIES}"
        dots = [
            tag(
                "g",
                tag("title", f"{arm.name}, {n} edits: {spaced(metric)} {percent(e)}, n = {e.n}"),
                tag(
                    "line",
                    x1=x(math.log10(n)),
                    x2=x(math.log10(n)),
                    y1=y(e.ends[0]),
                    y2=y(e.ends[1]),
                    class_=f"whisker {colour}",
                ),
                marker(series, x(math.log10(n)), y(e.mean), 4.5, hollow=not arm.alone),
            )
            for n, arm, e in row
        ]
        line = path([(x(math.log10(n)), y(e.mean)) for n, _, e in row])
        drawn = tag("path", d=line, class_=f"line {colour}", stroke_dasharray=dashes(series))
        parts.append(tag("g", drawn, *dots, class_="arm", data_arm=row[0][1].index))
    return drawing(WIDTH, 260, f"{spaced(metric)} against the number of edits; the figures stand in the table.", *parts)


def _apart(numbers: Sequence[int], x: Scale, pixels: float = 30) -> list[int]:
    """Those whose labels do not overlap; the last one is always kept."""
    kept: list[int] = []
    for number in reversed(numbers):
        if not kept or x(math.log10(kept[-1])) - x(math.log10(number)) >= pixels:
            kept.append(number)
    return kept[::-1]


REACH_LIMIT = 2.5
"""Distances are drawn up to so many radii; what is farther is counted in the last bin."""
_BINS = 75


def violin(reach: Reach, limit: float = REACH_LIMIT) -> Markup:
    """How the distances over radii of a cell are spread: mirrored counts, those within the radius in colour.

    It is stretched to its container, so it holds no text.
    """
    width, height = 300.0, 36.0
    # a distance equal to the radius fires, so it belongs below 1
    ratios = np.where(reach.ratios <= 1, np.maximum(reach.ratios - 1e-6, 0.0), np.minimum(reach.ratios, limit))
    counts, edges = np.histogram(ratios, bins=_BINS, range=(0.0, limit))
    smooth = np.convolve(counts, [0.25, 0.5, 0.25], mode="same")
    # no bin may spread over the radius: which side a probe is on is the point
    border = int(np.searchsorted(edges, 1.0 - 1e-9))
    smooth[border - 1 : border + 1] = counts[border - 1 : border + 1]
    scale = (height / 2 - 1) / max(float(smooth.max(initial=0.0)), 1e-9)
    x = Scale(0.0, limit, 0.0, width)
    bars = {"in": [], "out": []}
    for index, value in enumerate(smooth):
        if value > 0:
            left, right, tall = x(float(edges[index])), x(float(edges[index + 1])), max(float(value) * scale, 0.8)
            side = "in" if index < border else "out"
            bars[side].append(f"M{left:.1f} {18 - tall:.1f}H{right:.1f}V{18 + tall:.1f}H{left:.1f}Z")
    parts = [tag("rect", x=0, y=0, width=x(1.0), height=height, class_="zone")]
    parts += [tag("path", d="".join(found), class_=side) for side, found in bars.items() if found]
    parts.append(tag("line", x1=x(1.0), x2=x(1.0), y1=0, y2=height, class_="edge", vector_effect="non-scaling-stroke"))
    low, middle, high = (reach.quantile(q) for q in (0.05, 0.5, 0.95))
    label = f"Distances over radii: half are below {middle:.2f}, 90 % between {low:.2f} and {high:.2f}."
    if not len(reach.ratios):
        label = "No distances."
    return drawing(width, height, label, tag("title", label), *parts, preserveAspectRatio="none", class_="violin")
