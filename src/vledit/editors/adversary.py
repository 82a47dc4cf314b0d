"""The adversarial locality loss as a switch of any editor that trains one edit by gradient (Eqs. 9, 10 of "transient blindness").

With `adversarial=RI,NI,CI` (or some of them) an edit is trained on

    λ1 · L_edit + λ2 · L_locality + λ3 · Σ KL(base ‖ edited) over the terms

in place of L_edit.  L_locality is the editor's own where it has one (T-Patcher's memory loss); else KL(base ‖ edited) on an
unrelated question about its own picture (T3I3) and on one without a picture (T4I4).  Of all steps whose answer leads by the
margin, the one that is nearest to the base is kept.  Switched off, nothing is loaded and no bit of an edit changes.

The questions and pictures come from other records (`companions`), never from those that an edit is scored with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.case import EditCase, EditRequest, Probe
from ..errors import InputError
from ..vlm.acting import acting, layers_acting, lowest, prompt_acting
from ..vlm.base import VLM
from ..vlm.pictures import open_picture
from .adversarial import LONGEST, AdversarialProbes, Weights, parse_terms, plan, total_loss, wrap_request
from .base import EditorConfig, setting

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from ..data.devqa import DevQA

LOCALITY = {"I-Loc": "T3I3", "T-Loc": "T4I4"}
"""Locality term → De-VQA cell, for editors that have no locality loss of their own."""
CLOSE = 1e-2
"""Nats: a change that leads and whose divergences sum to less is not trained further."""


@dataclass(frozen=True)
class AdversarialSettings(EditorConfig):
    """The switch; the weights are the paper's."""

    adversarial: str = setting(
        "", "adversarial locality terms, separated by commas: RI, NI, CI; all; empty: none (De-VQA, Eq. 9)"
    )
    companions: str = setting(
        "icons",
        "source of their pictures and questions: a benchmark that comes with the package (its "
        "training split), or the path of a table of edits",
    )
    edit_weight: float = setting(Weights.edit, "with adversarial terms: weight of the answer's loss (λ1)")
    locality_weight: float = setting(Weights.locality, "with adversarial terms: weight of the locality loss (λ2)")
    adversarial_weight: float = setting(Weights.adversarial, "weight of each adversarial term (λ3)")

    def __post_init__(self) -> None:
        parse_terms(self.adversarial)
        _ = self.weights

    @property
    def weights(self) -> Weights:
        return Weights(self.edit_weight, self.locality_weight, self.adversarial_weight)


@lru_cache(maxsize=4)
def companions(source: str) -> DevQA:
    """The records of a benchmark's training split, or of a table of edits, with an index of their questions.

    Raises: UnknownNameError, InputError, MissingDataError for what cannot be read.
    """
    from pathlib import Path

    from ..data.benchmarks import load
    from ..data.devqa import DevQA, index_of
    from ..data.edit_rows import edit_table
    from ..data.reading import Files

    path = Path(source).expanduser()
    if path.is_file():
        rows = [one.request for one in edit_table(path).wanted]
        pool = [EditCase(replace(one, id=one.id or str(n)), {}, {}) for n, one in enumerate(rows)]
    else:
        pool = load(source, Files(split="train"))
    if not pool:
        raise InputError(f"companions: '{source}' holds no edit.")
    return DevQA(pool, index_of(pool))


def random_pictures(source: str) -> Callable[[np.random.Generator], Image]:
    """A function that draws a picture of the records of `companions`.  Raises: InputError where none has one."""
    pool = [case for case in companions(source).pool if case.request.image is not None]
    if not pool:
        raise InputError(f"companions: no edit of '{source}' has a picture to draw.")
    return lambda draw: open_picture(pool[int(draw.integers(len(pool)))].request.image)


class Adversary:
    """The terms of one edit, with the base's part run once.

    Args:
        probes: of the terms and, where the editor has none of its own, of the locality cells.
        start: what earlier edits do, by point; it acts beside what is trained.
    """

    def __init__(self, vlm: VLM, probes: AdversarialProbes, weights: Weights, start: Mapping[str, Any] | None = None):
        self.vlm, self.probes, self.weights = vlm, probes, weights
        self.trunk = probes.trunk
        if start:
            with prompt_acting(vlm, [start] * len(self.trunk), self.trunk.encoded):
                self.trunk = vlm.trunk(self.trunk.encoded, self.trunk.layer)

    @classmethod
    def of(
        cls,
        vlm: VLM,
        request: EditRequest,
        settings: AdversarialSettings,
        points: list[str],
        start: Mapping[str, Any] | None = None,
        own_locality: bool = False,
        pool: DevQA | None = None,
    ) -> Adversary | None:
        """The terms that the settings ask for; None where they ask for none, or none can say anything of the edit.

        Args:
            request: with an opened picture. points: where the edit acts.
            own_locality: the editor has a locality loss of its own.
            pool: the records to take; default: as `companions` says.

        Raises: UnknownNameError, InputError, MissingDataError; see `companions`.
        """
        planned = planned_probes(vlm, request, settings, own_locality, pool)
        if all(point.startswith("vision:") for point in points):  # without a picture the vision side changes nothing
            planned = {term: probe for term, probe in planned.items() if probe.image is not None}
        if not planned:
            return None
        layer = lowest(vlm, [*points, *(start or {})])
        return cls(vlm, AdversarialProbes.of(vlm, planned, layer), settings.weights, start)

    def divergences(self, changes: Mapping[str, Any]) -> dict[str, Tensor]:
        """Term → KL(base ‖ edited) in nats, where `changes` (by point, earlier edits included) act in the decoder layers."""
        encoded = self.trunk.encoded
        with layers_acting(self.vlm, [changes] * len(self.trunk), encoded):
            logits = self.vlm.head(self.trunk, positions=encoded.predict_mask)
        return self.probes.divergences(logits.float())

    def divergences_of_whole(self, changes: Mapping[str, Any]) -> dict[str, Tensor]:
        """As `divergences`, from a whole pass, for changes on the vision side."""
        encoded = self.trunk.encoded
        with acting(self.vlm, [changes] * len(self.trunk), encoded):
            inputs = self.vlm.language_inputs(encoded)
            logits = self.vlm.anatomy.causal(**inputs, use_cache=False).logits[encoded.predict_mask]
        return self.probes.divergences(logits.float())

    def loss(self, edit: Tensor, apart: Mapping[str, Tensor], locality: Tensor | None = None) -> Tensor:
        """Eq. 10.

        Args:
            edit: loss of the new answer. apart: as `divergences` gives it. locality: the editor's own loss.
        """
        for term in LOCALITY:
            if term in apart:
                locality = apart[term] if locality is None else locality + apart[term]
        terms = {term: value for term, value in apart.items() if term not in LOCALITY}
        return total_loss(edit, locality, terms, self.weights)


def planned_probes(
    vlm: VLM, request: EditRequest, settings: AdversarialSettings, own_locality: bool = False, pool: DevQA | None = None
) -> dict[str, Probe]:
    """Term → its probe, of an edit; none where nothing is asked for."""
    terms = parse_terms(settings.adversarial) if settings.adversarial_weight else ()
    if not terms:
        return {}
    pool = companions(settings.companions) if pool is None else pool
    said = vlm.answer([request.image], [request.question], LONGEST)[0]
    case = wrap_request(pool, request, said)
    planned = plan(case, terms)
    if settings.locality_weight and not own_locality:
        planned |= {term: case.locality[cell][0] for term, cell in LOCALITY.items() if case.locality.get(cell)}
    return planned


def total(apart: Mapping[str, Tensor]) -> float:
    """The sum of divergences, in nats."""
    return float(torch.stack([value.detach() for value in apart.values()]).sum())
