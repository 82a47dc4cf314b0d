"""A radius that an edit finds for itself, for models without a fitted threshold, and for a folder of your own pictures.

Rewordings of the question must lie inside; a black picture and noise with the same question must lie outside. The radius is put
between the farthest rewording and the nearer of these two. A folder of traffic adds its pictures with the edit's question, and
its questions about the edit's picture. These have no labels, and some may show the edited thing itself, so up to `LET_IN` of
them may lie inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..codebook.scope import anchor_picture
from ..data.case import EditRequest
from ..errors import InputError, PictureError
from ..paths import local
from ..vlm.base import VLM
from ..vlm.pictures import open_picture
from .rephrase import TEMPLATES

LET_IN = 0.01
"""Share of unlabelled traffic that may lie inside of an edit."""
MOST = 64
"""Pictures, and questions, of a folder that an edit looks at, spread evenly over it."""
QUESTIONS = "questions.txt"
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
BETWEEN = 0.3
"""Where the radius is put on the way from the farthest inside to the nearest outside; chosen in docs/experiments.md."""
Asked = tuple[Any, str]
"""(picture or None, question)."""


@dataclass(frozen=True)
class Traffic:
    """Unlabelled pictures and questions of a user's own."""

    pictures: tuple[Path, ...]
    questions: tuple[str, ...]


@lru_cache(maxsize=8)
def traffic(folder: str) -> Traffic:
    """The pictures of a folder, and the lines of its `questions.txt` where it has one.

    Raises: InputError where it is no folder or holds neither.
    """
    place = local(folder)
    if not place.is_dir():
        raise InputError(f"negatives: '{folder}' is no folder; give one with pictures of your own.")
    pictures = sorted(path for path in place.rglob("*") if path.suffix.lower() in PICTURES)
    listed = place / QUESTIONS
    lines = listed.read_text(encoding="utf-8", errors="replace").splitlines() if listed.is_file() else []
    questions = [line.strip() for line in lines if line.strip()]
    if not pictures and not questions:
        raise InputError(f"negatives: '{folder}' holds neither pictures nor a {QUESTIONS} with a question a line.")
    return Traffic(_spread(pictures), _spread(questions))


def inside(request: EditRequest, positive: str) -> list[Asked]:
    """What has to get the new answer: the picture with other wordings, supplied ones among them."""
    wordings = [positive, *request.rephrases, *(template.format(question=request.question) for template in TEMPLATES)]
    return [(request.image, wording) for wording in dict.fromkeys(wordings) if wording != request.question]


def outside(vlm: VLM, request: EditRequest) -> list[Asked]:
    """What must not: pictures in which nothing is to be seen."""
    return [(anchor_picture(name, vlm.image_size, seed=0), request.question) for name in ("black", "noise")]


def of_traffic(request: EditRequest, folder: str) -> list[Asked]:
    """The traffic as requests: its pictures with the edit's question, its questions about the edit's picture.

    Raises: InputError as `traffic`, or for a file that is no picture.
    """
    found = traffic(folder)
    pictures = [] if request.image is None else [_opened(path) for path in found.pictures]
    asked = {request.question.casefold(), *(text.casefold() for text in request.rephrases)}
    questions = [text for text in found.questions if text.casefold() not in asked]
    rows = [*((picture, request.question) for picture in pictures), *((request.image, text) for text in questions)]
    if not rows:
        raise InputError(
            f"negatives: '{folder}' holds nothing that could be asked beside this edit; without a picture it needs a "
            f"{QUESTIONS} with other questions."
        )
    return rows


def made(vlm: VLM, request: EditRequest) -> tuple[list[Asked], list[Asked]]:
    """What an edit with a picture makes for itself without being given other wordings: (inside, outside)."""
    alone = replace(request, rephrases=())
    return inside(alone, TEMPLATES[0].format(question=request.question)), outside(vlm, request)


def ends(near: Sequence[float], far: Sequence[float]) -> tuple[float, float]:
    """(distance of the farthest rewording, of the nearest blank picture); rewordings beyond that one do not count."""
    limit = min(far)
    return max((one for one in near if one < limit), default=0.0), limit


def own(near: Sequence[float], far: Sequence[float], between: float = BETWEEN) -> float:
    """The radius between rewordings (distances `near`) and pictures in which nothing is to be seen (`far`)."""
    held, limit = ends(near, far)
    return float(held + between * (limit - held))


def share(away: float, held: float, limit: float) -> float:
    """Where a distance lies between the two `ends`: 0 at the rewording, 1 at the blank picture."""
    return (away - held) / (limit - held) if limit > held else float(away > held)


def kept_out(radius: float, near: Sequence[float], seen: Sequence[float]) -> float:
    """The radius, narrowed until at most `LET_IN` of the traffic (distances `seen`) lies inside, but never below `near`."""
    ranked = np.sort(np.asarray(seen, dtype=float))
    first_out = ranked[int(LET_IN * len(ranked))]  # so many may lie inside, this one not
    return float(max(min(radius, np.nextafter(first_out, 0)), min(max(near, default=0.0), radius)))


def _opened(path: Path) -> Any:
    try:
        return open_picture(path)
    except (InputError, PictureError) as error:
        raise InputError(f"negatives: {error}") from error


def _spread(found: Sequence[Any]) -> tuple[Any, ...]:
    if len(found) <= MOST:
        return tuple(found)
    return tuple(found[int(place)] for place in np.linspace(0, len(found) - 1, MOST))
