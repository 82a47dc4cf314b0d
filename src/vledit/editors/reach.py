"""How far the last prompt token of a request may lie from an edit's own: one threshold for a model, not a radius for each edit.

The last prompt token has read picture and question, so one number tells the fact from another question about the same picture
and from another thing asked in the same words; `vledit analyze scope` shows by how much it beats the mean key of the paper.
The number is fitted on edits of a training split (`vledit fit-scope`), or, where there is no such fitting, measured on
everyday questions about plain pictures: no data set is needed then, and it is rougher.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..codebook.scope import distance
from ..data.case import EditCase, Probe
from ..errors import InputError, MissingDataError
from ..vlm.base import VLM, Site
from ..vlm.pictures import open_picture
from ..vlm.surroundings import lasting
from . import common_directions
from .answering import pool
from .rephrase import TEMPLATES
from .training import artefact
from .training.cases import training_case

EDITOR = "scope"
"""Under which name the fitting is kept."""
KEY = "last"
LEAST = 5
"""Edits without a picture that a threshold of their own needs."""
QUESTIONS = common_directions.QUESTIONS[:8]


@dataclass(frozen=True)
class Reach:
    """Thresholds for edits with and without a picture, in the unit of the distance, and where they come from."""

    picture: float
    text: float
    source: str

    def of(self, pictured: bool) -> float:
        return self.picture if pictured else self.text


def reach(vlm: VLM, site: Site, kind: str, folder: str | Path = "") -> Reach:
    """The thresholds of a model at a site: fitted where there is a fitting for them, else measured without data.

    Args:
        kind: the distance, euclidean or cosine.
        folder: of a fitting; then it has to fit.

    Raises: InputError where the given folder was fitted at another site or for another distance; else see `artefact.read`.
    """
    try:
        found = artefact.find(EDITOR, vlm, folder)
    except MissingDataError:
        if folder:
            raise
        return measured(vlm, site, kind)
    made_for = (found.settings["site"], found.settings["distance"])
    if made_for == (str(site), kind):
        return Reach(float(found.tensors["picture"]), float(found.tensors["text"]), f"fitted {found.sha256[:8]}")
    if folder:
        raise InputError(
            f"scope_fitted: '{folder}' was fitted at {made_for[0]} for the {made_for[1]} distance, this edit is at {site} with "
            f"{kind}; fit it for them with `vledit fit-scope`."
        )
    return measured(vlm, site, kind)


@lasting
def measured(vlm: VLM, site: Site, kind: str) -> Reach:
    """Thresholds between everyday questions' rewordings and other everyday questions, kept on the model object."""
    kept = vlm.__dict__.setdefault("_reach", {})
    if (site, kind) not in kept:
        if sys.stderr.isatty():
            print("scope: measuring how far rewordings lie, once for a loaded model …", file=sys.stderr)
        pictured, text = (threshold(*_between(vlm, site, kind, picture)) for picture in (vlm.black(), None))
        kept[site, kind] = Reach(pictured, text, "measured")
    return kept[site, kind]


def _between(vlm: VLM, site: Site, kind: str, picture: Any) -> tuple[list[float], list[float]]:
    """Distances of every question to its own rewordings, and to the other questions, about one picture."""
    asked = [text for question in QUESTIONS for text in (question, *(t.format(question=question) for t in TEMPLATES))]
    keys = read(vlm, site, [picture] * len(asked), asked)
    count = 1 + len(TEMPLATES)
    firsts = keys[::count]
    inside, outside = [], []
    for number in range(len(QUESTIONS)):
        own = slice(number * count + 1, (number + 1) * count)
        inside += distance(firsts[number], keys[own], kind)[:, 0].tolist()
        outside += distance(firsts[number], np.delete(firsts, number, axis=0), kind)[:, 0].tolist()
    return inside, outside


def read(vlm: VLM, site: Site, pictures: Sequence[Any], questions: Sequence[str], rows: int = 8) -> np.ndarray:
    """(N, in) float32: the site's input at the last prompt token."""
    found = []
    for start in range(0, len(questions), rows):
        encoded = vlm.encode(list(pictures[start : start + rows]), list(questions[start : start + rows]))
        found.append(pool(vlm.site_input(vlm.trunk(encoded, site.layer), site), encoded, KEY).numpy())
    return np.concatenate(found)


def threshold(inside: Sequence[float], outside: Sequence[float]) -> float:
    """The number that puts as large a share of `inside` within it as of `outside` beyond it, the sum of both shares largest.

    In the middle between the two values that it lies between.  Raises: InputError where one of them is empty.
    """
    if not len(inside) or not len(outside):
        raise InputError("threshold: distances of what is inside and of what is outside are both needed.")
    values = np.unique(np.concatenate([inside, outside]))
    cuts = np.concatenate([values[:-1] + np.diff(values) / 2, values[-1:]])
    near, far = np.sort(np.asarray(inside, dtype=float)), np.sort(np.asarray(outside, dtype=float))
    right = np.searchsorted(near, cuts, "right") / len(near) - np.searchsorted(far, cuts, "right") / len(far)
    best = np.flatnonzero(right >= right.max() - 1e-12)
    return float(cuts[best[len(best) // 2]])


def fit(
    vlm: VLM,
    cases: Sequence[EditCase],
    folder: Path,
    kind: str = "euclidean",
    per_cell: int = 2,
    data: Mapping[str, Any] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Reach:
    """Fits the thresholds at the model's default site on edits of a training split, and writes them into a folder.

    Args:
        cases: generality has to be inside, locality outside; edits without a picture make the threshold of such edits (where
            there are fewer than `LEAST`, theirs is measured without data). Probes of the test split are left out.
        per_cell: most probes of each cell.
        data: where the cases come from, for the manifest.
        progress: called after each case.

    Raises: InputError where there are no edits with a picture, or one side has no probes.
    """
    site = vlm.resolve_site(vlm.default_site)
    found: dict[bool, tuple[list[float], list[float]]] = {True: ([], []), False: ([], [])}
    counted = {True: 0, False: 0}
    for case in cases:
        chosen = training_case(case, per_cell)
        request, pictured = case.request, case.request.image is not None
        probes = [(family != "generality", probe) for family, _, _, probe in chosen.probes()]
        asked = [Probe(request.image, request.question), *(probe for _, probe in probes)]
        pictures = [None if one.image is None else open_picture(one.image) for one in asked]
        keys = read(vlm, site, pictures, [one.question for one in asked])
        away = distance(keys[0], keys[1:], kind)[:, 0].tolist()
        for (outside, _), one in zip(probes, away, strict=True):
            found[pictured][outside].append(one)
        counted[pictured] += 1
        progress()
    if not counted[True]:
        raise InputError("cases: none has a picture; the threshold of edits with a picture has to be fitted on some.")
    picture = threshold(*found[True])
    text = threshold(*found[False]) if counted[False] >= LEAST else measured(vlm, site, kind).text
    about = {
        "data": dict(data or {}),
        "edits": {"picture": counted[True], "text": counted[False]},
        "inside": {"picture": _share(found[True][0], picture), "text": _share(found[False][0], text)},
        "outside": {"picture": _share(found[True][1], picture), "text": _share(found[False][1], text)},
    }
    settings = {"site": str(site), "distance": kind, "per_cell": per_cell}
    tensors = {"picture": torch.tensor(picture, dtype=torch.float64), "text": torch.tensor(text, dtype=torch.float64)}
    artefact.write(folder, EDITOR, vlm, settings, tensors, about)
    return Reach(picture, text, "fitted")


def _share(distances: Sequence[float], within: float) -> float | None:
    """Share of the distances that lie within the threshold; None where there are none."""
    return round(float(np.mean(np.asarray(distances) <= within)), 4) if distances else None
