"""The demo as one HTML page: pictures, answers before and after, the reach of the edit, and the codebook entry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..report.pages import data_uri, write_page
from ..report.text import against, share
from .play import Played, Row
from .story import groups
from .words import remarks, verdict

TEMPLATE = Path(__file__).with_name("page.html.j2")
MOST_LANES, SMALLEST, GAP = 6, 22, 4
"""Of the picture of distances: pictures above one another, their smallest side and the gap between them."""


@dataclass(frozen=True)
class Mark:
    """One request on the axis of distances; `x` in 0..1 of the axis, `lane` counts from the axis upwards."""

    x: float
    lane: int
    row: Row
    uri: str | None


def write(played: Played, out: Path) -> Path:
    """Writes the page to `out`.  Returns: `out`."""
    uris = [None if row.question.image is None else data_uri(row.question.image) for row in played.rows]
    limit = axis_limit(played)
    return write_page(
        TEMPLATE,
        out,
        version=__version__,
        played=played,
        story=played.story,
        model=Path(played.model_name).name,
        hero=uris[0],
        cards=_cards(played),
        groups=[
            (kind, heading, [_shown(played, i, uris, limit) for i in rows])
            for kind, heading, rows in groups(played.story)
        ],
        wide=_swarm(played, uris, limit, width=960, side=46),
        narrow=_swarm(played, uris, limit, width=350, side=30),
        entry=_entry(played),
        remarks=remarks(played),
        credits=sorted({row.question.source for row in played.rows if row.question.source}),
    )


def axis_limit(played: Played) -> float:
    """Where the axis of distances ends: a little beyond the farthest request, at least twice the radius."""
    found = [row.decision.distance for row in played.rows if row.decision.distance is not None]
    return 1.04 * max([*filter(math.isfinite, found), 1.5 * played.entry.radius, 1e-12])


def _shown(played: Played, index: int, uris: list[str | None], limit: float) -> dict[str, Any]:
    row = played.rows[index]
    distance, radius = row.decision.distance, played.entry.radius
    near = distance if distance is not None and math.isfinite(distance) else None
    return {
        "row": row,
        "uri": uris[index],
        "verdict": verdict(row),
        "near": against(near, radius),
        "at": None if near is None else 100 * near / limit,
        "zone": 100 * min(radius / limit, 1.0),
        "ratio": None if near is None or not radius else share(near / radius),
    }


def _cards(played: Played) -> list[tuple[str, str, bool]]:
    """(figure, what it counts, whether all is well)."""
    hands, wordings = played.tally("hand"), played.tally("wording")
    brands, rest = played.tally("brand"), played.tally("black", "text")
    same = sum(row.restored == row.before for row in played.rows)
    counted = [
        (hands, "other hands’ drawings follow", hands[0] == hands[1]),
        (wordings, "other wordings follow", wordings[0] == wordings[1]),
        (brands, "other brands stay", brands[0] == brands[1]),
        (rest, "black picture and text questions stay", rest[0] == rest[1]),
        ((same, len(played.rows)), "answers back after removal", played.undone),
    ]
    return [(f"{did}/{total}", what, good) for (did, total), what, good in counted if total]


def _swarm(played: Played, uris: list[str | None], limit: float, width: int, side: int) -> dict[str, Any]:
    """All requests on one axis, stacked where they would overlap; smaller pictures where the stack would be too high."""
    marks = _stack(played, uris, limit, width, side)
    while side > SMALLEST and max((mark.lane for mark in marks), default=0) >= MOST_LANES:
        side -= 2
        marks = _stack(played, uris, limit, width, side)
    lanes = 1 + max((mark.lane for mark in marks), default=0)
    height = lanes * (side + GAP) + 54
    start, span = _axis(width, side)
    return {
        "width": width,
        "height": height,
        "side": side,
        "gap": GAP,
        "marks": marks,
        "radius_x": start + span * min(played.entry.radius / limit, 1.0),
        "start": start,
        "base": height - 30,
    }


def _axis(width: int, side: int) -> tuple[float, float]:
    """Where the axis starts and how long it is; half a picture is left free at both ends."""
    return side / 2 + 2, width - side - 4


def _stack(played: Played, uris: list[str | None], limit: float, width: int, side: int) -> list[Mark]:
    """Puts every request at its distance, into the lowest lane where it is free."""
    start, span = _axis(width, side)
    ends: list[float] = []
    marks: list[Mark] = []
    found = [(row.decision.distance, index) for index, row in enumerate(played.rows)]
    for distance, index in sorted((d, i) for d, i in found if d is not None and math.isfinite(d)):
        x = start + span * distance / limit
        lane = next((lane for lane, end in enumerate(ends) if end <= x - side / 2), len(ends))
        ends[lane : lane + 1] = [x + side / 2 + GAP]
        marks.append(Mark(x, lane, played.rows[index], uris[index]))
    return marks


def _entry(played: Played) -> dict[str, Any]:
    entry, report = played.entry, played.edit.report
    anchors, alpha = entry.anchors, entry.alpha
    formula = None
    if anchors is not None and alpha is not None:
        formula = {
            "alpha": alpha,
            "rest": 1 - alpha,
            "positive": anchors.d_positive,
            "negative": anchors.d_negative,
            "radius": entry.radius,
        }
    return {
        "entry": entry,
        "anchors": anchors,
        "formula": formula,
        "report": report,
        "key": _key_picture(entry.key),
        "relation": played.edit.relation.kind if played.edit.relation is not None else "new",
    }


def _key_picture(key: Any, columns: int = 96) -> list[float]:
    """The key's numbers averaged into `columns` bars, -1..1, for a picture of what is compared."""
    values = [float(value) for value in key]
    step = max(1, math.ceil(len(values) / columns))
    means = [sum(part) / len(part) for part in (values[i : i + step] for i in range(0, len(values), step))]
    top = max((abs(mean) for mean in means), default=0.0) or 1.0
    return [mean / top for mean in means]
