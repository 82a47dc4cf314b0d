"""De-VQA on the page: a 4 × 4 heat map for each editor and locality family, a radar of the classes, and blindness."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from ..data.devqa import CELLS, CLASSES, EDIT, LOCALITY_CELLS, PICTURES, TEXTS
from ..evaluate.devqa import metric
from .runs import Arm
from .scores import KINDS
from .svg import SERIES, dashes, drawing, marker, path, tag, text
from .text import percent, spaced

if TYPE_CHECKING:
    from ..evaluate.bootstrap import Estimate

CELL, LEFT, TOP = 74.0, 36.0, 30.0
PICTURE_WORDS = {"I1": "edited", "I2": "similar", "I3": "unrelated", "I4": "no picture"}
TEXT_WORDS = {"T1": "edited question", "T2": "similar", "T3": "unrelated", "T4": "asked without a picture"}
CLASS_OF = {cell: name for name, cells in CLASSES.items() for cell in cells}
RADAR = ("RI", "NI", "CI", "image", "text")


@dataclass(frozen=True)
class Section:
    """What the page shows.

    Args:
        maps: (arm, [(kind, heat map)]) for every arm with De-VQA's cells.
        radars: (kind, radar).
        columns: (kind, class) of the table. rows: (arm, estimates in the order of the columns, those of `BLINDNESS`).
    """

    maps: list[tuple[Arm, list[tuple[str, Markup]]]]
    radars: list[tuple[str, Markup]]
    columns: list[tuple[str, str]]
    rows: list[tuple[Arm, list[Estimate | None], list[Estimate | None]]]


BLINDNESS = ("blindness", "blindness_edited", "blindness_base")


def section(arms: Sequence[Arm], drawn: int) -> Section | None:
    """None where no arm was asked De-VQA's cells.  `drawn`: most editors in one radar."""
    asked = [arm for arm in arms if any(f"{cell}_preserved" in arm.estimates for cell in LOCALITY_CELLS)]
    blind = [arm for arm in arms if "blindness" in arm.estimates]
    if not asked:
        return None
    columns = [(kind, group) for kind in KINDS for group in (*RADAR, "adversarial", "mean")]
    rows = [
        (
            arm,
            [arm.estimates.get(metric(group, kind)) for kind, group in columns],
            [arm.estimates.get(name) for name in BLINDNESS],
        )
        for arm in dict.fromkeys([*asked, *blind])
    ]
    maps = [(arm, [(kind, heat_map(arm, kind)) for kind in KINDS]) for arm in asked]
    return Section(maps, [(kind, class_radar(asked[:drawn], kind)) for kind in KINDS], columns, rows)


def heat_map(arm: Arm, kind: str) -> Markup:
    """Questions down, pictures across; the darker, the lower. T1I1 is reliability: the edit itself, which should change.

    A frame of the class's colour is around the cells of RI, NI and CI.
    """
    width, height = LEFT + 4 * CELL + 2, TOP + 4 * CELL + 2
    parts: list[Markup] = []
    for column, picture in enumerate(PICTURES):
        x = LEFT + (column + 0.5) * CELL
        parts.append(text(x, 12.0, picture, text_anchor="middle", class_="title"))
        parts.append(text(x, 24.0, PICTURE_WORDS[picture], text_anchor="middle", class_="iso-label"))
    for row, words in enumerate(TEXTS):
        parts.append(
            tag(
                "text",
                tag("title", TEXT_WORDS[words]),
                words,
                x=LEFT - 10,
                y=TOP + (row + 0.5) * CELL + 4,
                text_anchor="end",
                class_="title",
            )
        )
    for cell in CELLS:
        x, y = LEFT + PICTURES.index(cell[2:]) * CELL, TOP + TEXTS.index(cell[:2]) * CELL
        parts.append(_cell(arm, cell, kind, x, y))
    label = f"{arm.label}: De-VQA's 16 cells, {spaced(kind)}; the figures are written in the cells."
    return drawing(width, height, label, *parts, class_="heat")


def _cell(arm: Arm, cell: str, kind: str, x: float, y: float) -> Markup:
    name = "reliability" if cell == EDIT else f"{cell}_{kind}"
    estimate = arm.estimates.get(name)
    group = CLASS_OF.get(cell, "")
    known = estimate is not None and not math.isnan(estimate.mean)
    shown = f"{100 * estimate.mean:.1f}" if known and estimate is not None else "–"
    told = (
        f"{cell}{f' ({group})' if group else ''}, {spaced(name)}: {percent(estimate) if estimate is not None else '–'}"
    )
    bad = 1 - estimate.mean if known and estimate is not None else 0.0
    edge = f"cell {group}" if group in ("RI", "NI", "CI") else "cell"
    box = {"x": x + 2, "y": y + 2, "width": CELL - 4, "height": CELL - 4, "rx": 6}
    parts = [
        tag("title", told),
        tag("rect", **box, class_="ground edit" if cell == EDIT else "ground"),
        tag("rect", **box, class_="heat-fill", fill_opacity=f"{min(bad, 1.0):.3f}"),
        tag("rect", **box, class_=edge),
        text(
            x + CELL / 2,
            y + CELL / 2 + 3,
            shown,
            text_anchor="middle",
            class_="heat-figure" + (" dark" if bad > 0.55 else ""),
        ),
        text(x + 9, y + 16, group if cell != EDIT else "edit", class_="heat-class" + (" dark" if bad > 0.55 else "")),
    ]
    if known and estimate is not None and not math.isnan(estimate.low):
        bounds = f"{100 * estimate.low:.0f}–{100 * estimate.high:.0f}"
        parts.append(
            text(
                x + CELL / 2,
                y + CELL - 12,
                bounds,
                text_anchor="middle",
                class_="heat-class" + (" dark" if bad > 0.55 else ""),
            )
        )
    return tag("g", *parts)


def class_radar(arms: Sequence[Arm], kind: str) -> Markup:
    """RI, NI, CI, image and text on an axis each; 0 in the middle, 100 % outside."""
    width, height, reach = 460.0, 330.0, 118.0
    cx, cy = width / 2, height / 2 + 8
    angles = [2 * math.pi * i / len(RADAR) - math.pi / 2 for i in range(len(RADAR))]

    def at(share: float, angle: float) -> tuple[float, float]:
        return cx + reach * share * math.cos(angle), cy + reach * share * math.sin(angle)

    parts = []
    for ring in (0.25, 0.5, 0.75, 1.0):
        parts.append(tag("path", d=path([at(ring, a) for a in angles], close=True), class_="grid ring"))
        parts.append(text(cx + 4, cy - reach * ring + 11, f"{100 * ring:.0f}", class_="iso-label"))
    for group, angle in zip(RADAR, angles, strict=True):
        (x1, y1), (x2, y2), (tx, ty) = at(0, angle), at(1, angle), at(1.1, angle)
        parts.append(tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="grid"))
        anchor = "middle" if abs(tx - cx) < 8 else "start" if tx > cx else "end"
        parts.append(text(tx, ty + (10 if ty > cy + 8 else 0), group, text_anchor=anchor, class_="title"))
    parts += [_shape(arm, kind, angles, at) for arm in arms]
    label = f"Radar of De-VQA's classes, {spaced(kind)}; the figures stand in the table."
    return drawing(width, height, label, *parts)


def _shape(arm: Arm, kind: str, angles: Sequence[float], at: Callable[[float, float], tuple[float, float]]) -> Markup:
    names = [metric(group, kind) for group in RADAR]
    found = [(arm.estimates[n].mean, a, g) for n, a, g in zip(names, angles, RADAR, strict=True) if n in arm.estimates]
    points = [at(mean, angle) for mean, angle, _ in found]
    told = f"{arm.label}: " + ", ".join(f"{group} {100 * mean:.1f}" for mean, _, group in found)
    return tag(
        "g",
        tag("title", told),
        tag(
            "path",
            d=path(points, close=len(points) > 2),
            class_=f"shape s{arm.series % SERIES}",
            stroke_dasharray=dashes(arm.series) if arm.alone else "2 3",
        ),
        *(marker(arm.series, px, py, 2.8, hollow=not arm.alone) for px, py in points),
        class_="arm",
        data_arm=arm.index,
    )
