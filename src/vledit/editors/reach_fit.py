"""Fitting how far edits reach (`vledit fit-scope`): thresholds from edits of a training split, by where keys are read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..codebook.scope import distance, narrowed
from ..data.case import EditCase, Probe
from ..errors import InputError
from ..vlm.base import VLM, Site
from ..vlm.pictures import open_picture
from . import crowding, own_reach
from .own_reach import Asked
from .reach import EDITOR, ROWS, Reach, checked_key_site, measured, read_all, threshold
from .training import artefact
from .training.cases import training_case

LEAST = 5
"""Edits without a picture that a threshold of their own needs."""


def fit(
    vlm: VLM,
    cases: Sequence[EditCase],
    folder: Path,
    kind: str = "euclidean",
    per_cell: int = 2,
    others: Sequence[EditCase] = (),
    data: Mapping[str, Any] | None = None,
    progress: Callable[[], None] = lambda: None,
    key_sites: Sequence[Site] = (),
    choose: Sequence[EditCase] = (),
) -> Reach:
    """Fits how far edits reach, at the model's default site on edits of a training split, and writes it into a folder.

    Two rules are fitted for edits with a picture: one threshold, and a share of the way between what each edit makes for itself
    (`Reach`). The one that puts more on its right side is used; of several key sites only thresholds are compared and used.

    Args:
        cases: generality has to be inside, locality outside; edits without a picture make the threshold of such edits (where
            there are fewer than `LEAST`, theirs is measured without data): what has to be outside has to be outside of all of
            them, unless it asks for the very fact of one. Probes of the test split are left out.
        per_cell: most probes of each cell.
        others: further edits with a picture, whose keys alone are read, to find how radii narrow with the number of edits.
        data: where the cases come from, for the manifest.
        progress: called after each case.
        key_sites: where keys may be read; default: at the edited site. All are fitted and kept.
        choose: edits with a picture that none of the numbers is fitted on: of several key sites the one is used that does best on
            them, and on the edits without a picture among `cases` (`_Trial.value`).

    Raises: InputError where there are no edits with a picture, or one side has no probes; where a key site lies above the edited
        one, or there are several and nothing to choose on.
    """
    began = time.perf_counter()
    site = vlm.resolve_site(vlm.default_site)
    sites = [checked_key_site(vlm, one, site) for one in key_sites] or [site]
    choose = [case for case in choose if case.request.image is not None]
    if len(sites) > 1 and not choose:
        raise InputError("key_sites: there are several; give edits with a picture to choose one of them on.")
    fittings = [_Fitting(one, kind) for one in sites]
    counted = {True: 0, False: 0}
    edited = {case.id: case for case in (*cases, *others) if case.request.image is not None}
    for case in cases:
        chosen, request = training_case(case, per_cell), case.request
        pictured = request.image is not None
        probes = [(family != "generality", probe) for family, _, _, probe in chosen.probes()]
        if not pictured:  # a picture is far from any question without one
            probes = [(out, probe) for out, probe in probes if probe.image is None]
        near, far = own_reach.made(vlm, request) if pictured else ([], [])
        of_sites = _read(vlm, sites, [*_asked(request, probes), *near, *far])
        for fitting, keys in zip(fittings, of_sites, strict=True):
            fitting.add(case, probes, keys, len(near))
        counted[pictured] += 1
        progress()
    if not counted[True]:
        raise InputError("cases: none has a picture; the threshold of edits with a picture has to be fitted on some.")
    left = [case for id, case in edited.items() if id not in {case.id for case in cases}]
    for start in range(0, len(left), ROWS):
        some = left[start : start + ROWS]
        of_sites = _read(vlm, sites, [(case.request.image, case.request.question) for case in some])
        for fitting, keys in zip(fittings, of_sites, strict=True):
            for case, key in zip(some, keys, strict=True):
                fitting.pictured.edit(case.tags.get("fact", ""), key)
        progress()
    settled = [fitting.settle(vlm, counted[False], one_threshold=len(sites) > 1) for fitting in fittings]
    best = 0
    if len(sites) > 1:
        trials = [_Trial(fitting) for fitting in fittings]
        for case in choose:
            probes = [(family != "generality", probe) for family, _, _, probe in training_case(case, per_cell).probes()]
            for trial, keys in zip(trials, _read(vlm, sites, _asked(case.request, probes)), strict=True):
                trial.add(case, probes, keys)
            progress()
        texts = counted[False] >= LEAST
        values = [
            trial.value(found, about["right"].get("text_among_all", about["right"]["text"]) if texts else {})
            for trial, (found, about) in zip(trials, settled, strict=True)
        ]
        for (_, about), value in zip(settled, values, strict=True):
            about["chosen_by"] = value
        best = max(range(len(sites)), key=lambda number: values[number]["harmonic_mean"])
    return _write(
        vlm, folder, site, sites, best, settled, {"distance": kind, "per_cell": per_cell}, data, counted, began
    )


def _asked(request: Any, probes: Sequence[tuple[bool, Probe]]) -> list[Asked]:
    return [(request.image, request.question), *((one.image, one.question) for _, one in probes)]


def _read(vlm: VLM, sites: Sequence[Site], asked: Sequence[Asked]) -> list[np.ndarray]:
    pictures = [None if one is None else open_picture(one) for one, _ in asked]
    return read_all(vlm, sites, pictures, [text for _, text in asked])


def _write(
    vlm: VLM,
    folder: Path,
    site: Site,
    sites: Sequence[Site],
    best: int,
    settled: Sequence[tuple[Reach, dict[str, Any]]],
    settings: Mapping[str, Any],
    data: Mapping[str, Any] | None,
    counted: Mapping[bool, int],
    began: float,
) -> Reach:
    tensors: dict[str, torch.Tensor] = {}
    for number, (found, about) in enumerate(settled):
        before = "" if number == best else f"{sites[number]}/"
        single = {"picture": found.picture, "text": found.text, "share": about.pop("share")}
        tensors |= {f"{before}{name}": torch.tensor(value, dtype=torch.float64) for name, value in single.items()}
        for name, points in (("crowd", found.crowd), ("crowd_text", found.crowd_text)):
            tensors[f"{before}{name}"] = torch.tensor(points, dtype=torch.float64).reshape(-1, 2)
    about = {
        "data": dict(data or {}),
        "edits": {"picture": counted[True], "text": counted[False]},
        "seconds": round(time.perf_counter() - began, 1),
        "false_fires": crowding.FALSE_FIRES,
        **settled[best][1],
        "others": {str(sites[number]): about for number, (_, about) in enumerate(settled) if number != best},
    }
    artefact.write(folder, EDITOR, vlm, {"site": str(site), "key_site": str(sites[best]), **settings}, tensors, about)
    return settled[best][0]


class _Fitting:
    """The distances between keys that are read at one site."""

    def __init__(self, site: Site, kind: str):
        self.site, self.kind = site, kind
        self.picture, self.relative, self.text = _Sides(), _Sides(), _Sides()
        self.pictured, self.texts = crowding.Gathered(kind), crowding.Gathered(kind)

    def add(self, case: EditCase, probes: Sequence[tuple[bool, Probe]], keys: np.ndarray, near: int) -> None:
        """An edit.

        Args:
            keys: of the edit, of its probes, then (with a picture) of its own `near` rewordings and of the blank pictures.
        """
        pictured = case.request.image is not None
        gathered = self.pictured if pictured else self.texts
        gathered.edit(case.tags.get("fact", ""), keys[0])
        away = distance(keys[0], keys[1:], self.kind)[:, 0].tolist()
        count = len(probes)
        for (out, probe), key in zip(probes, keys[1:], strict=False):
            if out:
                gathered.request(probe.tags.get("fact", ""), key)
        if not pictured:
            self.text.inside += [one for (out, _), one in zip(probes, away, strict=True) if not out]
            return
        ends = own_reach.ends(away[count : count + near], away[count + near :])
        self.picture.add(probes, away[:count])
        self.relative.add(probes, [own_reach.share(one, *ends) for one in away[:count]])

    def settle(self, vlm: VLM, texts: int, one_threshold: bool = False) -> tuple[Reach, dict[str, Any]]:
        """The thresholds, and what is said of them in the manifest ("share" among it).

        Args:
            texts: number of edits without a picture.
            one_threshold: the other rule is not used, even if it is better.
        """
        within, share = self.picture.threshold(), min(max(self.relative.threshold(), 0.0), 1.0)
        by_share = not one_threshold and self.relative.right(share) > self.picture.right(within)
        crowd = crowding.crowd(self.pictured.away(), np.inf if by_share else within)
        away = self.texts.away()
        # what has to lie outside is told by the nearest edit that it does not ask for: another country in the same words is as
        # likely to be near a third edit as near its own
        self.text.outside = [one for one in away.min(axis=1).tolist() if np.isfinite(one)] if len(away) else []
        text_within = self.text.threshold() if texts >= LEAST else measured(vlm, self.site, self.kind)
        crowd_text = crowding.crowd(away, text_within) if len(away) else ()
        about = {
            "keys": len(self.pictured.edits),
            "rule": "share" if by_share else "threshold",
            "right": {
                "threshold": self.picture.shares(within),
                "share": self.relative.shares(share),
                "text": self.text.shares(text_within),
                **({"text_among_all": self.text.shares(crowd_text[-2][1])} if len(crowd_text) > 1 else {}),
            },
            "share": share,
        }
        fitted = share if by_share else None
        return Reach(within, text_within, "fitted", fitted, crowd, crowd_text, key_site=str(self.site)), about


class _Trial:
    """What a fitted threshold does to edits that it was not fitted on, beside the keys of those it was."""

    def __init__(self, fitting: _Fitting):
        self.kind, self.gathered = fitting.kind, fitting.pictured.only_edits()
        self.own = _Sides()

    def add(self, case: EditCase, probes: Sequence[tuple[bool, Probe]], keys: np.ndarray) -> None:
        """An edit, its key and those of its probes."""
        self.gathered.edit(case.tags.get("fact", ""), keys[0])
        self.own.add(probes, distance(keys[0], keys[1:], self.kind)[:, 0].tolist())
        for (out, probe), key in zip(probes, keys[1:], strict=True):
            if out:
                self.gathered.request(probe.tags.get("fact", ""), key)

    def value(self, found: Reach, texts: Mapping[str, float | None]) -> dict[str, float]:
        """Shares on the right side, of one edit alone and among all, and their harmonic mean; by one threshold.

        Args:
            texts: "inside" and "outside" of edits without a picture, which count too; empty: there are none.
        """
        among = narrowed(found.picture, found.crowd, len(self.gathered.edits))
        alone = self.own.shares(found.picture)
        nearest = _Sides()
        nearest.inside, nearest.outside = self.own.inside, self.gathered.away().min(axis=1).tolist()
        crowded = nearest.shares(among)
        shares = {
            "inside": alone["inside"] or 0.0,
            "outside": alone["outside"] or 0.0,
            "inside_among_all": crowded["inside"] or 0.0,
            "outside_among_all": crowded["outside"] or 0.0,
            **{f"text_{side}": one or 0.0 for side, one in texts.items()},
        }
        mean = len(shares) / sum(1 / one if one else math.inf for one in shares.values())
        return {**shares, "harmonic_mean": round(mean, 4), "entries": len(self.gathered.edits)}


class _Sides:
    """Distances of what has to lie inside, and of what has not."""

    def __init__(self) -> None:
        self.inside: list[float] = []
        self.outside: list[float] = []

    def add(self, probes: Sequence[tuple[bool, Probe]], away: Sequence[float]) -> None:
        for (out, _), one in zip(probes, away, strict=True):
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


def _share(distances: Sequence[float], within: float) -> float | None:
    """Share of the distances that lie within the threshold; None where there are none."""
    return round(float(np.mean(np.asarray(distances) <= within)), 4) if distances else None
