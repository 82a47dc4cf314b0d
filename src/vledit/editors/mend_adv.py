"""MEND with the adversarial locality loss of the De-VQA paper: the edited question about other pictures, and without a picture.

Source: "transient blindness" (De-VQA), Eq. 9, 10: L = λ1 L_edit + λ2 L_loc + λ3 Σ KL(base ‖ edited) over T1I3 (the edited
question about an unrelated picture), T2I2 (the most similar other record with its own picture) and T1I4 (the edited question
without a picture); λ = 0.1, 1, 1; any subset (Table 10).  All three are teacher-forced on the edited answer, so that the
divergence also covers the positions after its first token.  The released code computes the weight change without gradient; ours
is that of `mend`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..errors import UnknownNameError
from ..vlm.surroundings import lasting
from .adversarial import TERMS, Weights, parse_terms
from .adversarial_fit import with_cells
from .base import setting
from .mend import Mend, MendFit, Term

if TYPE_CHECKING:
    from .training.fitting import Fitting

ANSWERS = ("new", "own")


@dataclass(frozen=True)
class MendAdvFit(MendFit):
    """Settings of the fitting: `mend`'s and those of the adversarial terms."""

    adversarial: str = setting("all", "adversarial terms, separated by commas: RI, NI, CI; all; empty: none")
    adversarial_weight: float = setting(Weights.adversarial, "weight of each of them (the paper's λ3)")
    adversarial_answer: str = setting(
        "new", "the answer that is teacher-forced on them: new (the edited answer, as released) or own (the base's)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        Weights(self.edit_weight, self.locality_weight, self.adversarial_weight)
        parse_terms(self.adversarial)
        if self.adversarial_answer not in ANSWERS:
            raise UnknownNameError("adversarial_answer", self.adversarial_answer, ANSWERS)

    def terms(self) -> tuple[str, ...]:
        """Names of the terms that count."""
        return parse_terms(self.adversarial) if self.adversarial_weight else ()

    def plan(self) -> list[Term]:
        """What a step asks after its edit: the adversarial probes come last, so that the others are drawn as `mend` does."""
        weight, forced = self.adversarial_weight, self.adversarial_answer
        return super().plan() + [Term(f"locality/{TERMS[name]}", weight, forced) for name in self.terms()]


class MendAdv(Mend):
    """Source: "transient blindness" (De-VQA), Sec. 4."""

    name: ClassVar[str] = "mend_adv"
    FitConfig: ClassVar[type[MendFit]] = MendAdvFit

    @classmethod
    @lasting
    def fit(cls, fitting: Fitting) -> Path:
        """As `Mend.fit`; similar records are looked for among all the cases that were given."""
        settings = fitting.settings
        assert isinstance(settings, MendAdvFit)
        if terms := settings.terms():
            fitting.cases = with_cells(fitting, terms)
        return super().fit(fitting)
