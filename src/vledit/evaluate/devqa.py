"""De-VQA's classes (RI, NI, CI, image, text) as metrics: means of cells, in each of the two locality families by its name.

`devqa_<class>_preserved`: the edited model answers what the base answered.  `devqa_<class>_not_edited_answer`: it does not
give the edit's new answer.  Both exactly, and by token with `_token` at the end.  Higher is better in all of them.  The
published table prints 1 less *preserved* for some editors and 1 less the accuracy of the new answer for others; here a name
always means one of them.

`devqa_adversarial_*`: mean of the seven cells of RI, NI and CI.  `devqa_mean_*`: of these and the image and text cells (nine,
as in the paper's Table 7).
"""

from __future__ import annotations

from collections.abc import Mapping

from ..data.devqa import ADVERSARIAL, CLASSES, LOCALITY_CELLS

KINDS = ("preserved", "not_edited_answer", "preserved_token", "not_edited_answer_token")
GROUPS: Mapping[str, tuple[str, ...]] = {
    **CLASSES,
    "adversarial": ADVERSARIAL,
    "mean": (*ADVERSARIAL, *CLASSES["image"], *CLASSES["text"]),
}
Table = Mapping[str, Mapping[str, float]]
"""Metric name → case id → value."""


def metric(group: str, kind: str) -> str:
    """The name of a class's metric."""
    return f"devqa_{group}_{kind}"


def is_devqa_cell(cell: str) -> bool:
    """Whether a locality cell is one of the 15 of De-VQA."""
    return cell in LOCALITY_CELLS


def class_columns(table: Table) -> dict[str, dict[str, float]]:
    """The classes' columns from those of the cells.

    A case counts with the cells that it has (an edit without a picture has fewer).  A cell that it has but that was not run
    for this kind of score leaves the case out: else the mean would be of other cells than its neighbours'.
    """
    present = {cell: table.get(f"{cell}_preserved", {}) for cell in LOCALITY_CELLS}
    cases = dict.fromkeys(case for column in present.values() for case in column)
    found: dict[str, dict[str, float]] = {}
    for group, cells in GROUPS.items():
        for kind in KINDS:
            columns = {cell: table.get(f"{cell}_{kind}", {}) for cell in cells}
            values = {}
            for case in cases:
                own = [cell for cell in cells if case in present[cell]]
                if own and all(case in columns[cell] for cell in own):
                    values[case] = sum(columns[cell][case] for cell in own) / len(own)
            if values:
                found[metric(group, kind)] = values
    return found
