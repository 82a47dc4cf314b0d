"""Why an edited model gave an answer (BalancEdit, Fig. 4): the nearest entry of a question, its distance and its radius."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..vlm.pictures import open_picture

if TYPE_CHECKING:
    from ..data.case import EditCase, Probe
    from ..editors.edited_model import EditedModel

ASKED = (("generality", "image"), ("locality", "near_image"), ("locality", "other_question"))
"""A row's questions: the same fact about another picture, the same question about a similar thing, another question."""
SHOWN = {
    "edit": "the edit itself",
    "generality, image": "another picture of it",
    "locality, near_image": "a similar thing",
    "locality, other_question": "another question",
}


@dataclass(frozen=True)
class Explained:
    """One question to an edited model.

    Args:
        kind: "edit" for the fact itself; else the cell.
        before, after: the base's answer, and the edited model's.
        entry, fact: the nearest entry, and the question and answer it holds; "" where there is none.
        right: whether it was answered as it should be; None for the edit itself.
    """

    kind: str
    image: Any
    question: str
    before: str
    after: str
    entry: str
    fact: str
    distance: float | None
    radius: float | None
    fired: bool
    right: bool | None

    @property
    def asked(self) -> str:
        """What a column of such questions shows, in words."""
        return SHOWN.get(self.kind, self.kind.replace("_", " "))

    def text(self, own: str = "") -> str:
        """As it stands above its picture.

        Args:
            own: the entry of the row's own edit; another one that is nearest is named.
        """
        why = "no entry"
        if self.distance is not None and self.radius is not None:
            sign = "≤" if self.distance <= self.radius else ">"
            why = f"{'edit' if self.fired else 'base'}: distance {_plain(self.distance)} {sign} radius {_plain(self.radius)}"
        other = f"\nnearest: {self.fact}" if self.entry and self.entry != own else ""
        return f"{self.question}\n{self.before} → {self.after}\n{why}{other}"

    def row(self, case: str) -> dict[str, Any]:
        """For CSV."""
        shown = {name: value for name, value in vars(self).items() if name != "image"}
        return {"case": case, **shown}


def _plain(value: float) -> str:
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}" if value >= 0.05 else "0"


def explain(model: EditedModel, cases: Sequence[EditCase], editor: str, **settings: Any) -> list[list[Explained]]:
    """Makes the edits of some cases, all in one model, and asks each case's own question and some of its probes.

    Raises: EditFailedError and others; see `EditedModel.edit`.
    """
    for case in cases:
        model.edit(case.request, editor, **settings)
    return [_asked(model, case) for case in cases]


def _asked(model: EditedModel, case: EditCase) -> list[Explained]:
    from ..data.case import Probe

    request = case.request
    probes: list[tuple[str, Probe]] = [("edit", Probe(request.image, request.question))]
    for family, cell in ASKED:
        some = getattr(case, family).get(cell, ())
        probes += [(f"{family}, {cell}", some[0])] if some else []
    found = []
    for kind, probe in probes:
        image = None if probe.image is None else open_picture(probe.image)
        with model.disable():
            before = model.answers([image], [probe.question])[0].text
        answer = model.answers([image], [probe.question])[0]
        told = answer.decision
        new = answer.text.casefold().strip() == request.answer.casefold().strip()
        right = None if kind == "edit" else new if kind.startswith("generality") else answer.text == before
        fact = ""
        if told.nearest is not None:
            entry = model.codebook.get(told.nearest)
            fact = f"“{entry.question}” {entry.answer}"
        found.append(
            Explained(
                kind, image, probe.question, before, answer.text, told.nearest or "", fact, told.distance, told.radius,
                told.fired, right,
            )
        )  # fmt: skip
    return found
