"""Protocols: `single` (edit, score, undo) and `sequential` (all edits, then score them all).

The base is never touched, so nothing can accumulate: a single edit's codebook holds that edit alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..codebook import Codebook
from ..codebook.scope import distance
from ..editors.base import Edit
from ..editors.edited_model import new_codebook
from ..errors import VLEditError
from ..vlm.base import VLM
from .outcomes import Outcome
from .prepared import PreparedCase, score


@dataclass(frozen=True)
class Scored:
    """What one edit gave. `error`: why there is no edit, empty where there is one."""

    case: str
    outcomes: list[Outcome]
    edit: Edit | None = None
    error: str = ""


def outcomes_of(
    vlm: VLM, prepared: PreparedCase, editor: str, changes: Sequence[Any], routing: Sequence[Any]
) -> list[Outcome]:
    """Scores every probe of a case.

    Args:
        changes: per probe the transformation that would act on it, fired or not (None: nothing ever acts).
        routing: per probe (distance, radius, fired, entry id).
    """
    count = len(prepared.asked)
    rows = [i for i in range(count) if changes[i] is not None]
    acting = [changes[i] for i in rows]
    new, new_token = score(vlm, prepared.targets, prepared.site, acting, rows)
    same, same_token = score(vlm, prepared.sames, prepared.site, acting, rows)
    at = {row: i for i, row in enumerate(rows)}
    found = []
    for i, asked in enumerate(prepared.asked):
        gap, radius, fired, entry = routing[i]
        j = at.get(i)
        base_new = bool(prepared.base.exact[i])
        found.append(
            Outcome(
                case=prepared.case.id,
                editor=editor,
                family=asked.family,
                cell=asked.cell,
                index=asked.index,
                base_new=base_new,
                base_new_token=float(prepared.base.token[i]),
                changed_new=bool(new[j]) if j is not None else base_new,
                changed_same=bool(same[j]) and bool(asked.base_answer) if j is not None else True,
                changed_new_token=float(new_token[j]) if j is not None else float(prepared.base.token[i]),
                changed_same_token=float(same_token[j]) if j is not None else 1.0,
                distance=gap,
                radius=radius,
                fired=fired and j is not None,
                entry=entry,
                base_answer=asked.base_answer,
                tags=dict(asked.probe.tags),
            )
        )
    return found


def single(vlm: VLM, prepared: PreparedCase, editor: Any, name: str) -> Scored:
    """One edit alone.  A case that cannot be edited is reported, not skipped: its probes count as the base answers them."""
    count = len(prepared.asked)
    try:
        edit = editor.edit(vlm, prepared.request)
    except VLEditError as error:
        nothing = outcomes_of(vlm, prepared, name, [None] * count, [(math.nan, math.nan, False, "")] * count)
        return Scored(prepared.case.id, nothing, None, str(error))
    if edit.entry is None:
        change = edit.weights[str(prepared.site)]
        routing = [(math.nan, math.nan, True, edit.id)] * count
        return Scored(prepared.case.id, outcomes_of(vlm, prepared, name, [change] * count, routing), edit)
    entry = edit.entry
    gaps = distance(entry.key[None], prepared.keys[entry.key_tokens], entry.distance)[:, 0].tolist()
    routing = [(gap, entry.radius, gap <= entry.radius, entry.id) for gap in gaps]
    return Scored(prepared.case.id, outcomes_of(vlm, prepared, name, [entry.transformation] * count, routing), edit)


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
            routing = [(d.distance, d.radius, d.fired, d.nearest or "") for d in decisions]
        else:
            changes, routing = [None] * count, [(math.nan, math.nan, False, "")] * count
        outcomes = outcomes_of(vlm, prepared, name, changes, routing)
        scored.append(Scored(prepared.case.id, outcomes, edits[prepared.case.id], errors.get(prepared.case.id, "")))
    return scored, book
