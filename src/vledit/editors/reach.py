"""How far the last prompt token of a request may lie from an edit's own: one threshold for a model, not a radius for each edit.

The last prompt token has read picture and question, so one number tells the fact from another question about the same picture
and from another thing asked in the same words; `vledit analyze scope` shows by how much it beats the mean key of the paper.
The number is fitted on edits of a training split (`vledit fit-scope`; the fitting of `pocket` comes with the package). Where
there is none, an edit with a picture makes its own (`own_reach`); for edits without one it is measured on everyday questions.
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
from . import common_directions, crowding, own_reach
from .answering import pool
from .crowding import Crowd
from .own_reach import Asked
from .rephrase import TEMPLATES
from .training import artefact
from .training.cases import training_case

EDITOR = "scope"
"""Under which name the fitting is kept."""
KEY = "last"
ROWS = 8
"""Requests that are read at a time."""
LEAST = 5
"""Edits without a picture that a threshold of their own needs."""
QUESTIONS = common_directions.QUESTIONS[:8]


@dataclass(frozen=True)
class Reach:
    """How far edits of a model reach, and where that comes from.

    Args:
        picture, text: thresholds for edits with and without a picture, in the unit of the distance.
        share: where set, an edit with a picture takes no threshold, but the radius that lies so far on the way from its own
            farthest rewording to its nearest blank picture, see `own_reach`.
        crowd: how radii of edits with a picture narrow with the number of edits, see `crowding`.
        crowd_text: the same for edits without one.
    """

    picture: float
    text: float
    source: str
    share: float | None = None
    crowd: Crowd = ()
    crowd_text: Crowd = ()

    @classmethod
    def given(cls, threshold: float) -> Reach:
        """The same for both, set by hand."""
        return cls(threshold, threshold, "given")

    def of(self, pictured: bool) -> float:
        return self.picture if pictured else self.text

    def crowd_of(self, pictured: bool) -> Crowd:
        return self.crowd if pictured else self.crowd_text


def reach(vlm: VLM, site: Site, kind: str, folder: str | Path = "") -> Reach | None:
    """The thresholds of a model at a site as they were fitted; None where there is no fitting for them.

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
        return None
    made_for = (found.settings["site"], found.settings["distance"])
    if made_for == (str(site), kind):
        picture, text = (float(found.tensors[name]) for name in ("picture", "text"))
        share = float(found.tensors["share"]) if found.about.get("rule") == "share" else None
        crowds = (_crowd(found.tensors.get(name)) for name in ("crowd", "crowd_text"))
        return Reach(picture, text, f"found by fit-scope ({found.sha256[:8]})", share, *crowds)
    if folder:
        raise InputError(
            f"scope_fitted: '{folder}' was fitted at {made_for[0]} for the {made_for[1]} distance, this edit is at {site} with "
            f"{kind}; fit it for them with `vledit fit-scope`."
        )
    return None


@lasting
def measured(vlm: VLM, site: Site, kind: str) -> float:
    """The threshold of edits without a picture: between everyday questions' rewordings and other everyday questions.

    Measured once for a loaded model; no data set is needed.
    """
    kept = vlm.__dict__.setdefault("_reach", {})
    if (site, kind) not in kept:
        if sys.stderr.isatty():
            print("scope: measuring how far rewordings lie, once for a loaded model …", file=sys.stderr)
        kept[site, kind] = threshold(*_between(vlm, site, kind))
    return kept[site, kind]


def _between(vlm: VLM, site: Site, kind: str) -> tuple[list[float], list[float]]:
    """Distances of every question to its own rewordings, and to the other questions."""
    asked = [text for question in QUESTIONS for text in (question, *(t.format(question=question) for t in TEMPLATES))]
    keys = read(vlm, site, [None] * len(asked), asked)
    count = 1 + len(TEMPLATES)
    firsts = keys[::count]
    inside, outside = [], []
    for number in range(len(QUESTIONS)):
        own = slice(number * count + 1, (number + 1) * count)
        inside += distance(firsts[number], keys[own], kind)[:, 0].tolist()
        outside += distance(firsts[number], np.delete(firsts, number, axis=0), kind)[:, 0].tolist()
    return inside, outside


def read(vlm: VLM, site: Site, pictures: Sequence[Any], questions: Sequence[str], rows: int = ROWS) -> np.ndarray:
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
    others: Sequence[EditCase] = (),
    data: Mapping[str, Any] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Reach:
    """Fits how far edits reach, at the model's default site on edits of a training split, and writes it into a folder.

    Two rules are fitted for edits with a picture: one threshold, and a share of the way between what each edit makes for itself
    (`Reach`). The one that puts more on its right side is used.

    Args:
        cases: generality has to be inside, locality outside; edits without a picture make the threshold of such edits (where
            there are fewer than `LEAST`, theirs is measured without data): what has to be outside has to be outside of all of
            them, unless it asks for the very fact of one. Probes of the test split are left out.
        per_cell: most probes of each cell.
        others: further edits with a picture, whose keys alone are read, to find how radii narrow with the number of edits.
        data: where the cases come from, for the manifest.
        progress: called after each case.

    Raises: InputError where there are no edits with a picture, or one side has no probes.
    """
    site = vlm.resolve_site(vlm.default_site)
    text, picture, relative = _Texts(kind), _Sides(), _Sides()
    counted = {True: 0, False: 0}
    requests: list[np.ndarray] = []
    facts: list[str] = []
    edited = {case.id: case for case in (*cases, *others) if case.request.image is not None}
    own_keys: dict[str, np.ndarray] = {}
    for case in cases:
        chosen, request = training_case(case, per_cell), case.request
        pictured = request.image is not None
        probes = [(family != "generality", probe) for family, _, _, probe in chosen.probes()]
        if not pictured:  # a picture is far from any question without one
            probes = [(out, probe) for out, probe in probes if probe.image is None]
        asked: list[Asked] = [(request.image, request.question), *((one.image, one.question) for _, one in probes)]
        near, far = own_reach.made(vlm, request) if pictured else ([], [])
        asked = [(None if one is None else open_picture(one), text) for one, text in [*asked, *near, *far]]
        keys = read(vlm, site, [one for one, _ in asked], [text for _, text in asked])
        if not pictured:
            text.add_edit(case.tags.get("fact", ""), keys[0], probes, keys[1:])
        else:
            away = distance(keys[0], keys[1:], kind)[:, 0].tolist()
            picture.add(probes, away)
            own_keys[case.id] = keys[0]
            outside = [row for row, (out, _) in enumerate(probes) if out]
            requests.append(keys[1:][outside])
            facts += [probes[row][1].tags.get("fact", "") for row in outside]
            ends = own_reach.ends(away[len(probes) : len(probes) + len(near)], away[len(probes) + len(near) :])
            relative.add(probes, [own_reach.share(one, *ends) for one in away])
        counted[pictured] += 1
        progress()
    if not counted[True]:
        raise InputError("cases: none has a picture; the threshold of edits with a picture has to be fitted on some.")
    within, share = picture.threshold(), min(max(relative.threshold(), 0.0), 1.0)
    by_share = relative.right(share) > picture.right(within)
    left = [case for id, case in edited.items() if id not in own_keys]
    for start in range(0, len(left), ROWS):
        some = left[start : start + ROWS]
        pictures = [open_picture(case.request.image) for case in some]
        found = read(vlm, site, pictures, [case.request.question for case in some])
        own_keys |= {case.id: key for case, key in zip(some, found, strict=True)}
        progress()
    named = [edited[id].tags.get("fact", "") for id in own_keys]
    away_from = crowding.foreign(np.concatenate(requests), facts, np.stack(list(own_keys.values())), named, kind)
    crowd = crowding.crowd(away_from, np.inf if by_share else within)
    text_away = text.settle()
    text_within = text.threshold() if counted[False] >= LEAST else measured(vlm, site, kind)
    crowd_text = crowding.crowd(text_away, text_within) if len(text_away) else ()
    about = {
        "data": dict(data or {}),
        "edits": {"picture": counted[True], "text": counted[False]},
        "keys": len(own_keys),
        "false_fires": crowding.FALSE_FIRES,
        "rule": "share" if by_share else "threshold",
        "right": {
            "threshold": picture.shares(within),
            "share": relative.shares(share),
            "text": text.shares(text_within),
            **({"text_among_all": text.shares(crowd_text[-2][1])} if len(crowd_text) > 1 else {}),
        },
    }
    settings = {"site": str(site), "distance": kind, "per_cell": per_cell}
    numbers = {"picture": within, "text": text_within, "share": share}
    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}
    for name, points in (("crowd", crowd), ("crowd_text", crowd_text)):
        tensors[name] = torch.tensor(points, dtype=torch.float64).reshape(-1, 2)
    artefact.write(folder, EDITOR, vlm, settings, tensors, about)
    return Reach(within, text_within, "fitted", share if by_share else None, crowd, crowd_text)


def _crowd(points: torch.Tensor | None) -> Crowd:
    return () if points is None else tuple((int(count), float(radius)) for count, radius in points.tolist())


class _Sides:
    """Distances of what has to lie inside, and of what has not."""

    def __init__(self) -> None:
        self.inside: list[float] = []
        self.outside: list[float] = []

    def add(self, probes: Sequence[tuple[bool, Probe]], away: Sequence[float]) -> None:
        for (out, _), one in zip(probes, away, strict=False):  # what stands behind the probes is not counted
            (self.outside if out else self.inside).append(one)

    def threshold(self) -> float:
        return threshold(self.inside, self.outside)

    def shares(self, within: float) -> dict[str, float | None]:
        """Share of the inside that lies within, and of the outside that does not; None where there are none."""
        held, out = _share(self.inside, within), _share(self.outside, within)
        return {"inside": held, "outside": None if out is None else round(1 - out, 4)}

    def right(self, within: float) -> float:
        """Sum of the two shares."""
        return sum(one or 0.0 for one in self.shares(within).values())


class _Texts(_Sides):
    """As `_Sides`, for edits without a picture: what has to lie outside is told by the nearest edit that it does not ask for."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.keys: list[np.ndarray] = []
        self.edited: list[str] = []
        self.away: list[np.ndarray] = []
        self.asked: list[str] = []

    def add_edit(self, fact: str, key: np.ndarray, probes: Sequence[tuple[bool, Probe]], keys: np.ndarray) -> None:
        """An edit's key, and the keys of its probes; counted by `settle`, when all edits are there."""
        self.keys.append(key)
        self.edited.append(fact)
        for (out, probe), found in zip(probes, keys, strict=True):
            if out:
                self.away.append(found)
                self.asked.append(probe.tags.get("fact", ""))
            else:
                self.inside += distance(key, found[None], self.kind)[:, 0].tolist()

    def settle(self) -> np.ndarray:
        """Fills the outside.  Returns the (requests, edits) distances of `crowding.foreign`."""
        if not self.away:
            return np.empty((0, len(self.keys)))
        far = crowding.foreign(np.stack(self.away), self.asked, np.stack(self.keys), self.edited, self.kind)
        self.outside = [one for one in far.min(axis=1).tolist() if np.isfinite(one)]
        return far


def _share(distances: Sequence[float], within: float) -> float | None:
    """Share of the distances that lie within the threshold; None where there are none."""
    return round(float(np.mean(np.asarray(distances) <= within)), 4) if distances else None
