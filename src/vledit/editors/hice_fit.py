"""Fitting the gates of HICE, in closed form: seconds, most of which go into looking at the training pictures."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..data.cache import sha256_json, write_atomic
from ..data.case import EditCase, Probe
from .demonstrations import spread_out, texts_of
from .features import Features, centred, mean_picture
from .hice import HiceFit, pair
from .random_features import fitted, lifted, random_matrix
from .training import artefact
from .training.cases import training_case
from .training.loop import LOG

if TYPE_CHECKING:
    from .training.fitting import Fitting


def fit(fitting: Fitting, editor: str) -> Path:
    """Solves for both gates and writes the artefact; returns the folder."""
    began = time.perf_counter()
    settings, vlm = fitting.settings, fitting.vlm
    assert isinstance(settings, HiceFit)
    cases = [training_case(case, settings.per_cell, settings.seed) for case in fitting.cases]
    rows = Requests(cases, Features(vlm, settings.encoder), fitting)
    tensors = {"picture_mean": rows.mean}
    log = []
    for gate, (x, classes) in (("paper", rows.by_question()), ("edit", rows.by_pair(settings.seed))):
        h = lifted(x, random_matrix(x.shape[1], settings.features, settings.seed))
        weights, errors = fitted(h, classes, settings.seed)
        tensors[gate] = torch.from_numpy(weights).float()
        log.append(errors)
        if gate == "paper":
            wrong = [n for n in rows.image_locality if (h[n] @ weights).argmax() == 1]
            # what another training edit asks is no hard question but one in scope
            hard = {rows.asked[n] for n in wrong} - {rows.asked[n] for n, inside in enumerate(classes) if inside}
            tensors["hard"] = rows.features.questions(sorted(hard)).reshape(-1, x.shape[1])
    facts = rows.features.questions([f"{case.request.question} {case.request.answer}" for case in cases])
    chosen = spread_out(facts.numpy(), max(8, round(settings.share * len(cases))))
    tensors["demonstrations"] = facts[chosen]
    _write_log(fitting.folder, log, time.perf_counter() - began)
    from ..evaluate.manifest import case_key, environment

    about = {
        "data": {**fitting.data, "cases": len(cases), "cases_hash": sha256_json([case_key(case) for case in cases])},
        "steps": settings.steps,
        "seconds": round(time.perf_counter() - began, 1),
        "demonstrations": texts_of(cases[number] for number in chosen),
        "environment": environment(vlm),
    }
    artefact.write(fitting.folder, editor, vlm, asdict(settings), tensors, about)
    return fitting.folder


class Requests:
    """What is asked in and out of the scope of training edits, as vectors.

    Attributes:
        asked: the questions that the gate 'paper' is fitted on.
        image_locality: numbers of those of them that are about a picture and out of scope.
        mean: (H,) mean picture vector.
    """

    def __init__(self, cases: list[EditCase], features: Features, fitting: Fitting):
        self.cases, self.features = cases, features
        self.requests: list[tuple[int, bool, Probe]] = []
        for number, case in enumerate(cases):
            self.requests.append((number, True, Probe(case.request.image, case.request.question)))
            self.requests += [(number, family == "generality", probe) for family, _, _, probe in case.probes()]
        self.texts = features.questions([probe.question for _, _, probe in self.requests])
        seen = []
        for _, _, probe in self.requests:
            seen.append(features.pictures([probe.image])[0])
        pictures = torch.stack(seen)
        self.mean = mean_picture(pictures)
        self.pictures = centred(pictures, self.mean)
        self.asked: list[str] = []
        self.image_locality: list[int] = []

    def by_question(self) -> tuple[np.ndarray, list[int]]:
        """Question vectors and classes (1: in scope).  A question out of scope that is asked of the edit itself as well cannot
        be told from it by its words and is left out."""
        own: dict[int, set[str]] = {}
        for number, inside, probe in self.requests:
            if inside:
                own.setdefault(number, set()).add(probe.question)
        chosen, classes = [], []
        for row, (number, inside, probe) in enumerate(self.requests):
            if inside or probe.question not in own[number]:
                if not inside and probe.image is not None:
                    self.image_locality.append(len(chosen))
                self.asked.append(probe.question)
                chosen.append(row)
                classes.append(int(inside))
        return self.texts[chosen].numpy(), classes

    def by_pair(self, seed: int) -> tuple[np.ndarray, list[int]]:
        """Comparisons of each request with its edit, and with the edit of another record, which is out of scope."""
        own = {}
        for row, (number, _, _) in enumerate(self.requests):
            own.setdefault(number, row)  # the edit itself comes first
        draw = torch.Generator().manual_seed(seed)
        found, classes = [], []
        for row, (number, inside, _) in enumerate(self.requests):
            found.append(self._pair(row, own[number]))
            classes.append(int(inside))
            if row == own[number] and len(own) > 1:
                other = (number + 1 + int(torch.randint(len(own) - 1, (1,), generator=draw))) % len(own)
                found.append(self._pair(row, own[other]))
                classes.append(0)
        return torch.stack(found).numpy(), classes

    def _pair(self, row: int, edit: int) -> torch.Tensor:
        return pair(self.texts[row], self.pictures[row], self.texts[edit], self.pictures[edit])


def _write_log(folder: Path, log: list[dict[float, float]], seconds: float) -> None:
    """The squared error on the held back rows for every strength that was tried, weakest first, as the learning curve."""
    paper, edit = log
    lines = [
        {
            "step": number + 1,
            "seconds": round(seconds, 2),
            "strength": strength,
            "paper": paper[strength],
            "edit": edit[strength],
        }
        for number, strength in enumerate(sorted(paper))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / LOG, "".join(json.dumps(line) + "\n" for line in lines).encode())
