"""Attribution as pictures: the share of the picture over the layers, the flow from the answer down, and the patches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from .svg import SERIES, Scale, band, drawing, marker, path, tag, text

if TYPE_CHECKING:
    from ..analysis.attribution import Attribution
    from ..evaluate.bootstrap import Estimate

WIDTH, HEIGHT = 460.0, 300.0
STEP, ROW = 15.0, 13.0
FAINT = 0.05
"""Attention weights below it are not drawn."""


def layers_plot(lines: Mapping[str, Sequence[Estimate]], title: str) -> Markup:
    """A share in % against the layer, a line with its interval for each name; gaps where there is none."""
    count = max(len(estimates) for estimates in lines.values())
    x = Scale(0.0, max(count - 1.0, 1.0), 44.0, WIDTH - 14)
    most = max([e.high for found in lines.values() for e in found if not math.isnan(e.high)], default=1.0)
    y = Scale(0.0, min(max(0.1, math.ceil(most * 10) / 10), 1.2), HEIGHT - 44, 12.0)
    parts = []
    for value in y.ticks():
        parts.append(tag("line", x1=x.start, x2=x.end, y1=y(value), y2=y(value), class_="grid"))
        parts.append(text(x.start - 7, y(value) + 4, f"{100 * value:.0f}", text_anchor="end", class_="tick"))
    for value in x.ticks():
        parts.append(text(x(value), y.start + 18, f"{value:.0f}", text_anchor="middle", class_="tick"))
    parts.append(tag("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    parts.append(text((x.start + x.end) / 2, y.start + 37, "layer", text_anchor="middle", class_="title"))
    for series, (name, estimates) in enumerate(lines.items()):
        colour = f"s{series % SERIES}"
        pieces = []
        for piece in _pieces(estimates):
            pieces.append(tag("path", d=band([(x(i), y(e.low), y(e.high)) for i, e in piece]), class_=f"band {colour}"))
            pieces.append(tag("path", d=path([(x(i), y(e.mean)) for i, e in piece]), class_=f"line {colour}"))
            for i, e in piece:
                told = f"{name}, layer {i}: {100 * e.mean:.1f} % [{100 * e.low:.1f}, {100 * e.high:.1f}], {e.n} edits"
                pieces.append(tag("g", tag("title", told), marker(series, x(i), y(e.mean), 2.6)))
        parts.append(tag("g", *pieces, class_="arm"))
    label = f"{title}, over the layers, of {', '.join(lines)}; the figures stand in the table."
    return drawing(WIDTH, HEIGHT, label, *parts)


def _pieces(estimates: Sequence[Estimate]) -> list[list[tuple[int, Estimate]]]:
    """Runs of layers that have a share."""
    found: list[list[tuple[int, Estimate]]] = [[]]
    for index, estimate in enumerate(estimates):
        if math.isnan(estimate.mean):
            found.append([])
        else:
            found[-1].append((index, estimate))
    return [piece for piece in found if piece]


def flow(found: Attribution, tokens: Sequence[str]) -> Markup:
    """Tokens across, layers upwards; a dot is a key token (its area: the score), a line what it looks at.

    Lines to the picture's tokens have one colour, to the text's another.
    """
    layers = sorted(found.layers, key=lambda one: one.layer)
    left, top, foot = 34.0, 10.0, 92.0
    width, height = left + STEP * len(tokens) + 8, top + ROW * (len(layers) + 1) + foot

    def at(token: int, layer: int) -> tuple[float, float]:
        return left + STEP * (token + 0.5), top + ROW * (len(layers) - 1 - layer + 0.5)

    drawn: dict[bool, list[str]] = {True: [], False: []}
    dots: dict[bool, list[Markup]] = {True: [], False: []}
    for one in layers:
        for source, target, weight in one.looks:
            if weight >= FAINT:
                drawn[found.visual[target]].append(path([at(source, one.layer), at(target, one.layer - 1)]))
        for token, score in one.scores.items():
            px, py = at(token, one.layer)
            dots[found.visual[token]].append(tag("circle", cx=px, cy=py, r=min(5.5, 3.2 * math.sqrt(max(score, 0.1)))))
    base = top + ROW * (len(layers) + 1)
    parts = []
    for visual in (False, True):
        colour = "picture" if visual else "words"
        parts.append(tag("path", d=" ".join(drawn[visual]), class_=f"flow {colour}"))
        parts.append(tag("g", *dots[visual], class_=f"key-token {colour}"))
    for index, token in enumerate(tokens):
        px = left + STEP * (index + 0.5)
        name = "▪" if found.visual[index] else token.replace("\n", "⏎") or "·"
        turned = f"rotate(-60 {px:.1f} {base + 6:.1f})"
        parts.append(text(px + 3, base + 8, name[:14], text_anchor="end", transform=turned, class_="tick"))
    for layer in range(0, len(layers), 5):
        parts.append(text(left - 8, at(0, layer)[1] + 4, str(layer), text_anchor="end", class_="tick"))
    label = f"Flow of the attribution from token {found.start} of the top layer down to the prompt."
    return drawing(width, height, label, *parts, style=f"min-width:{width:.0f}px")


def patches(found: Attribution, grid: tuple[int, int] | None) -> Markup:
    """The visual tokens' scores over all layers: a grid to lay over the picture, or a row of bars where they are no patches."""
    totals = found.totals()
    scores = [totals.get(token, 0.0) for token, visual in enumerate(found.visual) if visual]
    most = max(scores, default=0.0) or 1.0
    if grid is not None:
        rows, columns = grid
        cells = [
            tag(
                "rect",
                tag("title", f"row {place // columns}, column {place % columns}: {score:.2f}"),
                x=float(place % columns),
                y=float(place // columns),
                width=1.0,
                height=1.0,
                fill_opacity=f"{0.85 * score / most:.3f}",
            )
            for place, score in enumerate(scores)
        ]
        return drawing(
            columns, rows, "Scores of the picture's patches", *cells, class_="patches", preserveAspectRatio="none"
        )
    bars = [
        tag(
            "rect",
            tag("title", f"visual token {place}: {score:.2f}"),
            x=6.0 * place,
            y=40 - 38 * score / most,
            width=5.0,
            height=38 * score / most + 0.5,
        )
        for place, score in enumerate(scores)
    ]
    return drawing(max(6.0 * len(scores), 6.0), 42.0, "Scores of the picture's visual tokens", *bars, class_="bars")
