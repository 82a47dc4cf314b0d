"""Blindness: how little an edited answer depends on the picture, calibrated on the base.

The edited question is asked again about other pictures and about none.  `blindness_edited` is the share of them for which the
edited model still gives the new answer.  `blindness_base` is the share for which the base keeps the answer that it gave
about the edited picture.  `blindness` is their difference, per edit: 0 if the edited answer depends on the picture as
much as the base's did, 1 if the base always used the picture and the edited model never does; negative if the edited answer
depends on the picture more than the base's.

Pictures for which the base itself gives the new answer carry no information and are left out. So are edits that did not
succeed, since they have no edited answer.  With De-VQA the pictures are I2, I3 and none; without it, all locality probes of the
benchmark that ask the edited question about another picture (on `icons`: near and black pictures, and none).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .outcomes import Outcome

NAMES = ("blindness", "blindness_edited", "blindness_base")
CELLS = ("T1I2", "T1I3", "T1I4")


def by_case(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Name → case id → value, from records as `read_results` gives them."""
    found: dict[str, dict[str, float]] = {name: {} for name in NAMES}
    for record in records:
        scores = blindness(record["outcomes"], record.get("base_answer", ""))
        if scores is not None:
            for name, value in zip(NAMES, scores, strict=True):
                found[name][record["case"]] = value
    return {name: values for name, values in found.items() if values}


def blindness(outcomes: Sequence[Outcome], base_answer: str = "") -> tuple[float, float, float] | None:
    """(blindness, of the edited model, of the base) of one edit; None where it cannot be told.

    Args:
        outcomes: of all probes of the edit.
        base_answer: what the data set says that the base answers, for files that do not hold what it said.
    """
    edit = next((outcome for outcome in outcomes if outcome.family == "reliability"), None)
    if edit is None or not edit.new:
        return None
    before = edit.base_answer or base_answer
    probes = [outcome for outcome in pictures_changed(outcomes, edit) if not outcome.base_new]
    if not before or not probes:
        return None
    edited = sum(probe.new for probe in probes) / len(probes)
    base = sum(_same(probe.base_answer, before) for probe in probes) / len(probes)
    return edited - base, edited, base


def pictures_changed(outcomes: Sequence[Outcome], edit: Outcome) -> list[Outcome]:
    """The probes that ask the edited question about another picture or none."""
    found = [
        outcome
        for outcome in outcomes
        if outcome.family == "locality" and outcome.question == edit.question and outcome.image != edit.image
    ]
    of_devqa = [outcome for outcome in found if outcome.cell in CELLS]
    return of_devqa or found


def _same(first: str, second: str) -> bool:
    return first.casefold().strip() == second.casefold().strip()
