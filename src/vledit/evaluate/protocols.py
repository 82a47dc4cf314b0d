"""Protocols: `single` (edit, score, undo) and `sequential` (all edits, then score them all).

The base is never touched, so nothing can accumulate: a single edit's codebook holds that edit alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..codebook import Codebook, Decision
from ..codebook.scope import distance
from ..editors.base import Edit
from ..editors.edited_model import new_codebook
from ..errors import VLEditError
from ..vlm.base import VLM
from .outcomes import Outcome
from .prepared import PreparedCase, TrunkRows

Routed = tuple[float, float, bool, str]
"""(distance, radius, fired, entry id) of one probe."""


@dataclass(frozen=True)
class Scored:
    """What one edit gave. `error`: why there is no edit, empty where there is one."""

    case: str
    outcomes: list[Outcome]
    edit: Edit | None = None
    error: str = ""


def outcomes_of(
    prepared: PreparedCase, editor: str, changes: Sequence[Any], routing: Sequence[Routed]
) -> list[Outcome]:
    """Scores every probe of a case.

    Args:
        changes: per probe the transformation that would act on it, fired or not (None: nothing ever acts).
        routing: per probe (distance, radius, fired, entry id).
    """
    asked = prepared.asked
    acting = [row for row in range(len(asked)) if changes[row] is not None]
    same = _scored(prepared, prepared.sames, [row for row in acting if row in prepared.sames], changes)
    # who answers as the base did does not give another answer; only the others may have the new one
    tried = [row for row in acting if not asked[row].is_locality or not same.get(row, (False, 0.0))[0]]
    prepared.need_targets(tried)
    new = _scored(prepared, prepared.targets, tried, changes)
    found = []
    for row, one in enumerate(asked):
        gap, radius, fired, entry = routing[row]
        acts = changes[row] is not None
        if not acts:
            changed_new, changed_new_token = one.base_new, one.base_new_token
            changed_same, changed_same_token = True, 1.0
        else:
            same_as_base = same.get(row, (False, 0.0))
            changed_same, changed_same_token = same_as_base if one.is_locality else (None, math.nan)
            changed_new, changed_new_token = new.get(row, (changed_same is True and one.base_new, math.nan))
        found.append(
            Outcome(
                case=prepared.case.id,
                editor=editor,
                family=one.family,
                cell=one.cell,
                index=one.index,
                base_new=one.base_new,
                base_new_token=one.base_new_token,
                changed_new=changed_new,
                changed_same=changed_same,
                changed_new_token=changed_new_token,
                changed_same_token=changed_same_token,
                distance=gap,
                radius=radius,
                fired=fired and acts,
                entry=entry,
                base_answer=one.base_answer or "",
                tags=dict(one.probe.tags),
            )
        )
    return found


def _scored(
    prepared: PreparedCase, kind: TrunkRows, rows: list[int], changes: Sequence[Any]
) -> dict[int, tuple[bool, float]]:
    return prepared.scored(kind, rows, [changes[row] for row in rows])


def single(vlm: VLM, prepared: PreparedCase, editor: Any, name: str) -> Scored:
    """One edit alone.  A case that cannot be edited is reported, not skipped: its probes count as the base answers them."""
    count = len(prepared.asked)
    try:
        edit = editor.edit(vlm, prepared.request)
    except VLEditError as error:
        nothing = outcomes_of(prepared, name, [None] * count, [(math.nan, math.nan, False, "")] * count)
        return Scored(prepared.case.id, nothing, None, str(error))
    if edit.entry is None:
        change = edit.weights[str(prepared.site)]
        routing = [(math.nan, math.nan, True, edit.id)] * count
        return Scored(prepared.case.id, outcomes_of(prepared, name, [change] * count, routing), edit)
    entry = edit.entry
    gaps = distance(entry.key[None], prepared.keys[entry.key_tokens], entry.distance)[:, 0].tolist()
    routing = [(gap, entry.radius, gap <= entry.radius, entry.id) for gap in gaps]
    return Scored(prepared.case.id, outcomes_of(prepared, name, [entry.transformation] * count, routing), edit)


def sequential(vlm: VLM, cases: Sequence[PreparedCase], editor: Any, name: str) -> tuple[list[Scored], Codebook]:
    """All edits one after the other, then every probe of every case (Table 4's setting)."""
    book = new_codebook(vlm)
    always = None
    edits: dict[str, Edit | None] = {}
    errors: dict[str, str] = {}
    for prepared in cases:
        try:
            if editor.name == "ft":
                edit = editor.edit(vlm, prepared.request, start=always)
                always = edit.weights[str(prepared.site)]
            else:
                edit = editor.edit(vlm, prepared.request, book)
                book.add(edit.entry, retires=edit.relation.retires if edit.relation else ())
            edits[prepared.case.id] = edit
        except VLEditError as error:
            edits[prepared.case.id] = None
            errors[prepared.case.id] = str(error)
    scored = []
    for prepared in cases:
        count = len(prepared.asked)
        if always is not None:
            changes, routing = [always] * count, [(math.nan, math.nan, True, "")] * count
        elif len(book):
            query = next(iter(book.router.queries()))
            decisions = book.decide(prepared.keys[query.key_tokens])
            changes = [book.get(d.nearest).transformation if d.fired and d.nearest else None for d in decisions]
            routing = [_routed(decision) for decision in decisions]
        else:
            changes, routing = [None] * count, [(math.nan, math.nan, False, "")] * count
        outcomes = outcomes_of(prepared, name, changes, routing)
        scored.append(Scored(prepared.case.id, outcomes, edits[prepared.case.id], errors.get(prepared.case.id, "")))
    return scored, book


def _routed(decision: Decision) -> Routed:
    """The decision as numbers: no distance is NaN."""
    distance = math.nan if decision.distance is None else decision.distance
    radius = math.nan if decision.radius is None else decision.radius
    return distance, radius, decision.fired, decision.nearest or ""
