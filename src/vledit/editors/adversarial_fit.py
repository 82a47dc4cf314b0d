"""The adversarial locality loss of "transient blindness" (Eqs. 9, 10) as a switch of fittings: `lte`, `recipe`, `liveedit`.

With `adversarial=RI,NI,CI` (or some of them) a fitting minimises

    λ1 · L_edit + λ2 · L_locality + λ3 · Σ KL(base ‖ edited) over the terms  (+ what it learns about routing, unchanged)

where "edited" is the model with the edit at work: `lte`'s descriptor, `recipe`'s embeddings, `liveedit`'s expert.  As in
`mend_adv`, the terms' probes are forced to say the edited answer, so that the divergence also counts behind its first token;
they come from the other training records, never from those that an edit is scored with.  Switched off, De-VQA's cells take no
part in a fitting, whether its cases have them or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data.case import EditCase, Probe
from .adversarial import TERMS, Weights, cells_of, parse_terms
from .base import setting
from .training.cases import training_case
from .training.settings import FitSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .training.fitting import Fitting


@dataclass(frozen=True)
class AdversarialFit(FitSettings):
    """Settings of a fitting with the switch; the weights are the paper's."""

    adversarial: str = setting(
        "", "adversarial locality terms, separated by commas: RI, NI, CI; all; empty: none (De-VQA, Eq. 9)"
    )
    edit_weight: float = setting(Weights.edit, "with adversarial terms: weight of the answer's loss (λ1)")
    locality_weight: float = setting(Weights.locality, "with adversarial terms: weight of the locality loss (λ2)")
    adversarial_weight: float = setting(Weights.adversarial, "weight of each adversarial term (λ3)")

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_terms(self.adversarial)
        Weights(self.edit_weight, self.locality_weight, self.adversarial_weight)

    def terms(self) -> tuple[str, ...]:
        """Names of the terms that count."""
        return parse_terms(self.adversarial) if self.adversarial_weight else ()

    @property
    def weights(self) -> Weights:
        """λ1, λ2, λ3; without terms the first two are 1, as the editor's authors have them."""
        if not self.terms():
            return Weights(1.0, 1.0, self.adversarial_weight)
        return Weights(self.edit_weight, self.locality_weight, self.adversarial_weight)


def with_cells(fitting: Fitting, terms: Sequence[str]) -> list[EditCase]:
    """The fitting's cases with the De-VQA cells of the terms; those that have one of them already are left as they are.

    Similar records are looked for among all the cases that were given.  Raises: see `vledit.data.devqa.index_of`.
    """
    from ..data.devqa import DevQA, index_of

    cells = cells_of(terms)
    bare = [case for case in fitting.cases if not any(cell in case.locality for cell in cells)]
    if not bare:
        return list(fitting.cases)
    wrapped = dict(
        zip(
            (case.id for case in bare),
            DevQA(fitting.pool, index_of(fitting.pool), fitting.settings.seed).wrap_all(bare),
            strict=True,
        )
    )
    return [wrapped.get(case.id, case) for case in fitting.cases]


def fitting_cases(fitting: Fitting) -> list[EditCase]:
    """The cases as a fitting sees them, with De-VQA's cells of the terms that its settings ask for, and no others."""
    settings = fitting.settings
    assert isinstance(settings, AdversarialFit)
    if terms := settings.terms():
        fitting.cases = with_cells(fitting, terms)
    return [training_case(case, settings.per_cell, settings.seed) for case in fitting.cases]


def usual_probes(case: EditCase) -> Iterator[tuple[bool, Probe]]:
    """(in scope?, probe) of a case, without De-VQA's cells."""
    from ..data.devqa import CELLS

    for family, cell, _, probe in case.probes():
        if family == "generality" or cell not in CELLS:
            yield family == "generality", probe


def term_probes(case: EditCase, terms: Sequence[str]) -> Mapping[str, Probe]:
    """Term → its probe; an edit without a picture has no NI, and a pool may have no fit CI."""
    return {term: case.locality[TERMS[term]][0] for term in terms if case.locality.get(TERMS[term])}
