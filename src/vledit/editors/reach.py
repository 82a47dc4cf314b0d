"""How far the last prompt token of a request may lie from an edit's own: one threshold for a model, not a radius for each edit.

The last prompt token has attended to picture and question, so one number separates the fact both from another question about the
same picture and from the same words about another thing; `vledit analyze scope` compares it with the mean key of the paper.
The threshold is fitted on edits of a training split (`vledit fit-scope`; the result for `pocket` comes with the package). Without
such a fit, an edit with a picture finds its own radius (`own_reach`), and for edits without a picture the threshold is measured
on everyday questions.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..codebook.scope import distance
from ..errors import InputError, MissingDataError
from ..vlm.base import VLM, Site
from ..vlm.surroundings import lasting
from . import common_directions
from .answering import pool
from .crowding import Crowd
from .rephrase import TEMPLATES
from .training import artefact

EDITOR = "scope"
"""Under which name the fitting is kept."""
KEY = "last"
AUTO = "auto"
"""As a key site: the one that the fitted scope of the model names, or else the edited site."""
ROWS = 8
"""Requests that are read at a time."""
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
        key_site: where the keys are read that these distances are between; "" where the reach was given.
    """

    picture: float
    text: float
    source: str
    share: float | None = None
    crowd: Crowd = ()
    crowd_text: Crowd = ()
    key_site: str = ""

    @classmethod
    def given(cls, threshold: float) -> Reach:
        """The same for both, set by hand."""
        return cls(threshold, threshold, "given")

    def of(self, pictured: bool) -> float:
        return self.picture if pictured else self.text

    def crowd_of(self, pictured: bool) -> Crowd:
        return self.crowd if pictured else self.crowd_text


def reach(vlm: VLM, site: Site, kind: str, folder: str | Path = "", key_site: Site | None = None) -> Reach | None:
    """The thresholds of a model at a site as they were fitted; None where there is no fitting for them.

    Args:
        site: where edits are made.
        kind: the distance, euclidean or cosine.
        folder: of a fitting; then it has to fit.
        key_site: where keys are read; None: where the fitting chose to.

    Raises: InputError where the given folder was fitted at other sites or for another distance; else see `artefact.read`.
    """
    try:
        found = artefact.find(EDITOR, vlm, folder)
    except MissingDataError:
        if folder:
            raise
        return None
    settings = found.settings
    chosen = settings.get("key_site", settings["site"])
    read_at = chosen if key_site is None else str(key_site)
    before = "" if read_at == chosen else f"{read_at}/"
    if (settings["site"], settings["distance"]) == (str(site), kind) and f"{before}picture" in found.tensors:
        numbers = {name.removeprefix(before): one for name, one in found.tensors.items() if name.startswith(before)}
        rule = (found.about if not before else found.about["others"][read_at]).get("rule")
        share = float(numbers["share"]) if rule == "share" else None
        crowds = (_crowd(numbers.get(name)) for name in ("crowd", "crowd_text"))
        source = f"found by fit-scope ({found.sha256[:8]})"
        return Reach(float(numbers["picture"]), float(numbers["text"]), source, share, *crowds, key_site=read_at)
    if folder:
        sites = [chosen, *sorted(found.about.get("others", {}))]
        raise InputError(
            f"scope_fitted: '{folder}' was fitted for edits at {settings['site']}, keys read at {' or '.join(sites)}, and the "
            f"{settings['distance']} distance; this edit is at {site}, its key read at {read_at}, with {kind}. Fit it for them "
            "with `vledit fit-scope`."
        )
    return None


def checked_key_site(vlm: VLM, key_site: Site | str, site: Site) -> Site:
    """The site where keys are read, of edits at `site`.

    Raises: InputError where the model has no such place, or it would be seen only after the edited site.
    """
    found = vlm.resolve_site(key_site)
    vlm.site_place(found)
    if not found.known_before(site):
        raise InputError(
            f"key_site: '{found}' does not lie below the edited site '{site}', so that it would be decided too late whether the "
            "edit acts; name a site of a lower layer."
        )
    return found


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
    return read_all(vlm, [site], pictures, questions, rows)[0]


def read_all(
    vlm: VLM, sites: Sequence[Site], pictures: Sequence[Any], questions: Sequence[str], rows: int = ROWS
) -> list[np.ndarray]:
    """As `read`, of several sites from one pass."""
    found: list[list[np.ndarray]] = [[] for _ in sites]
    rising = sorted(range(len(sites)), key=lambda number: sites[number].layer)
    for start in range(0, len(questions), rows):
        encoded = vlm.encode(list(pictures[start : start + rows]), list(questions[start : start + rows]))
        trunk = vlm.trunk(encoded, sites[rising[0]].layer)
        for number in rising:
            trunk = vlm.raise_trunk(trunk, sites[number].layer)
            found[number].append(pool(vlm.site_input(trunk, sites[number]), encoded, KEY).numpy())
    return [np.concatenate(some) for some in found]


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


def _crowd(points: torch.Tensor | None) -> Crowd:
    return () if points is None else tuple((int(count), float(radius)) for count, radius in points.tolist())
