"""The demo as one HTML page: pictures, answers before and after, the reach of the edit, and the codebook entry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..report.pages import data_uri, write_page
from .play import Played, Row
from .story import groups
from .words import VERDICTS, remarks

TEMPLATE = Path(__file__).with_name("page.html.j2")


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
        hero=uris[0],
        cards=_cards(played),
        groups=[
            (kind, heading, [_shown(played, i, uris, limit) for i in rows]) for kind, heading, rows in _groups(played)
        ],
        wide=_swarm(played, uris, limit, width=960, side=46),
        narrow=_swarm(played, uris, limit, width=350, side=30),
        entry=_entry(played),
        remarks=remarks(played),
        credits=sorted({row.question.source for row in played.rows if row.question.source}),
    )


def axis_limit(played: Played) -> float:
    """Where the axis of distances ends: a little beyond the farthest request, at least twice the radius."""
    found = [row.decision.distance for row in played.rows if _is_number(row.decision.distance)]
    return 1.04 * max([*found, 2 * played.entry.radius, 1e-12])  # type: ignore[type-var]


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _groups(played: Played) -> list[tuple[str, str, list[int]]]:
    return list(groups(played.story))


def _shown(played: Played, index: int, uris: list[str | None], limit: float) -> dict[str, Any]:
    row = played.rows[index]
    distance = row.decision.distance
    return {
        "row": row,
        "uri": uris[index],
        "verdict": VERDICTS[row.verdict],
        "at": 100 * distance / limit if distance is not None and math.isfinite(distance) else None,
        "zone": 100 * min(played.entry.radius / limit, 1.0),
        "ratio": distance / played.entry.radius if _is_number(distance) and distance and played.entry.radius else 0.0,
    }


def _cards(played: Played) -> list[tuple[str, str, bool]]:
    """(figure, what it counts, whether all is well)."""
    hands, wordings = played.tally("hand"), played.tally("wording")
    brands, rest = played.tally("brand"), played.tally("black", "text")
    same = sum(row.restored == row.before for row in played.rows)
    return [
        (f"{hands[0]}/{hands[1]}", "other hands’ drawings follow", hands[0] == hands[1]),
        (f"{wordings[0]}/{wordings[1]}", "other wordings follow", wordings[0] == wordings[1]),
        (f"{brands[0]}/{brands[1]}", "other brands stay", brands[0] == brands[1]),
        (f"{rest[0]}/{rest[1]}", "black picture and text questions stay", rest[0] == rest[1]),
        (f"{same}/{len(played.rows)}", "answers back after removal", played.undone),
    ]


def _swarm(played: Played, uris: list[str | None], limit: float, width: int, side: int) -> dict[str, Any]:
    """All requests on one axis, stacked where they would overlap."""
    gap, margin = 4, side / 2 + 2
    span = width - 2 * margin
    ends: list[float] = []
    marks: list[Mark] = []
    order = sorted(range(len(played.rows)), key=lambda index: played.rows[index].decision.distance or 0.0)
    for index in order:
        distance = played.rows[index].decision.distance
        if distance is None or not math.isfinite(distance):
            continue
        x = margin + span * distance / limit
        lane = next((lane for lane, end in enumerate(ends) if end <= x - side / 2), len(ends))
        ends[lane:] = [x + side / 2 + gap, *ends[lane + 1 :]]
        marks.append(Mark(x, lane, played.rows[index], uris[index]))
    height = max(len(ends), 1) * (side + gap) + 54
    return {
        "width": width,
        "height": height,
        "side": side,
        "gap": gap,
        "marks": marks,
        "radius_x": margin + span * min(played.entry.radius / limit, 1.0),
        "start": margin,
        "base": height - 30,
    }


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
