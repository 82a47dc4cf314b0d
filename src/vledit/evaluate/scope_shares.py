"""Of the edits that succeed: the shares whose scope is right, too narrow, too wide, or both.

HM describes generality and locality on average; these shares describe them per edit.  An edit is too narrow if in
some cell of generality fewer than half of its probes get the new answer, and too wide if in some cell of locality fewer than half
keep the base's answer.  It can be both: narrow for pictures of the thing, wide for other questions.  Edits that do not answer
their own question have no scope and are left out, and so are edits without probes of either family.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .outcomes import Outcome

NAMES = ("scope_right", "scope_too_narrow", "scope_too_wide", "scope_both")
ENOUGH = 0.5
"""Share of a cell's probes."""


def by_case(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Name → case id → 1 for the one that holds and 0 for the others; from records as `read_results` gives them."""
    found: dict[str, dict[str, float]] = {name: {} for name in NAMES}
    for record in records:
        kind = scope_of(record["outcomes"])
        if kind is not None:
            for name in NAMES:
                found[name][record["case"]] = float(name == kind)
    return {name: values for name, values in found.items() if values}


def scope_of(outcomes: Sequence[Outcome]) -> str | None:
    """Which of `NAMES` an edit is, from the outcomes of all its probes; None where it has no scope that can be told."""
    edit = next((outcome for outcome in outcomes if outcome.family == "reliability"), None)
    if edit is None or not edit.new:
        return None
    cells: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.family in ("generality", "locality"):
            right = outcome.new if outcome.family == "generality" else outcome.same
            cells[outcome.family, outcome.cell].append(right)
    if {family for family, _ in cells} != {"generality", "locality"}:
        return None
    lacking = {family for (family, _), kept in cells.items() if sum(kept) < ENOUGH * len(kept)}
    narrow, wide = "generality" in lacking, "locality" in lacking
    return NAMES[narrow + 2 * wide]
