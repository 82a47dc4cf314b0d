"""The cases of results files as compact data for the page's browser of cases.

Repeated strings are stored once; the outcome of a probe is one letter (`why.REASONS`).  The page's script draws from this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import VLEditError
from .gallery import EDITED, FAILED, OTHER, CaseSource, Gallery
from .runs import Arm, Run
from .scores import cells_of
from .why import PASSED, REASONS, UNKNOWN, gap, letter

if TYPE_CHECKING:
    from ..data.case import EditCase, Probe
    from ..evaluate.outcomes import Outcome

NO_PICTURE, NOT_HERE = -1, -2
"""In place of a picture's number: the question has none; it has one, which is not on the page."""

Place = tuple[str, str, int]
"""(family, cell, index) of a probe in its case."""


class Strings:
    """Each string once; `strings(text)` is its number."""

    def __init__(self) -> None:
        self.all: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.all.setdefault(text, len(self.all))


def browser(
    arms: Sequence[Arm], source: CaseSource, most: int, picture_budget: int
) -> tuple[dict[str, Any], list[str], dict[str, int]]:
    """Everything that the browser of cases shows.

    Args:
        most: cases, spread evenly over those that there are.
        picture_budget: bytes of pictures on the page.

    Returns:
        (data for the page, remarks on what is not there, {"cases", "shown", "pictures", "with_picture"}).
    """
    data_sets, remarks = _data_sets(arms, source)
    groups = _grouped(arms)
    keys = list(groups)
    chosen = keys if len(keys) <= most else [keys[i * len(keys) // most] for i in range(most)]
    strings, gallery = Strings(), Gallery(picture_budget)
    cells = cells_of(arms)
    models = sorted({arm.run.model for arm in arms})
    cases = []
    strangers = 0
    for key in chosen:
        case = data_sets[_data_set(groups[key][0][0].run)].get(key[2])
        built, fits = _case(groups[key], case, cells, strings, gallery)
        strangers += not fits
        cases.append({**built, **({"model": groups[key][0][0].run.model} if len(models) > 1 else {})})
    uris = gallery.uris()
    if strangers:
        remarks.append(
            f"{strangers} cases are not those of the data set that is here (another build?); they are shown without pictures."
        )
    data = {
        "arms": [_arm(arm) for arm in arms],
        "cells": [list(pair) for pair in cells],
        "reasons": {kind: [*words, kind in PASSED] for kind, words in REASONS.items()},
        "unknown": UNKNOWN,
        "strings": list(strings.all),
        "pictures": uris,
        "cases": cases,
    }
    counts = {"cases": len(keys), "shown": len(chosen), "wanted": len(uris), "pictures": sum(map(bool, uris))}
    return data, remarks, counts


def _arm(arm: Arm) -> dict[str, Any]:
    return {"label": arm.label, "series": arm.series, "alone": arm.alone}


def _data_sets(
    arms: Sequence[Arm], source: CaseSource
) -> tuple[dict[tuple[str, str], Mapping[str, EditCase]], list[str]]:
    """(benchmark, split) → case id → case; and why there is none where that is so."""
    runs: dict[tuple[str, str], Run] = {}
    for arm in arms:
        runs.setdefault(_data_set(arm.run), arm.run)
    found: dict[tuple[str, str], Mapping[str, EditCase]] = {}
    told: dict[str, str] = {}
    for key, run in runs.items():
        try:
            found[key] = source(run)
        except VLEditError as error:
            found[key] = {}
            told[str(error)] = f"No pictures of {run.benchmark}: {str(error).rstrip('.')}."
    return found, list(told.values())


def _data_set(run: Run) -> tuple[str, str]:
    return run.benchmark, str(run.manifest.get("split"))


Scored = list[tuple[Arm, dict[str, Any]]]


def _grouped(arms: Sequence[Arm]) -> dict[tuple[str, str, str], Scored]:
    """(fingerprint, benchmark, case id) → what each arm recorded of it."""
    groups: dict[tuple[str, str, str], Scored] = {}
    for arm in arms:
        for record in arm.records:
            groups.setdefault((arm.run.fingerprint, arm.run.benchmark, record["case"]), []).append((arm, record))
    return groups


def _case(
    scored: Scored, case: EditCase | None, cells: Sequence[tuple[str, str]], strings: Strings, gallery: Gallery
) -> tuple[dict[str, Any], bool]:
    """One case; and whether the data set's case is the one that was scored."""
    outcomes: dict[Place, Outcome] = {}
    letters: list[tuple[Arm, dict[str, Any], dict[Place, str]]] = []
    for arm, record in scored:
        edited = not record.get("error")
        row = {_place(o): letter(o, edited, arm.alone) for o in record["outcomes"]}
        letters.append((arm, record, row))
        for outcome in record["outcomes"]:
            outcomes.setdefault(_place(outcome), outcome)
    fits = case is None or _fits(case, outcomes)
    known = case if fits else None
    probes = _probes(known)
    ranks = {pair: i for i, pair in enumerate(cells)}
    places = sorted(outcomes, key=lambda p: (ranks[p[:2]], p[2]))
    failed = {place for _, _, row in letters for place, kind in row.items() if kind not in PASSED}
    first = next((o for o in outcomes.values() if o.family == "reliability"), None)
    request = _request(scored[0][0].run, scored[0][1]["case"], known)
    question, answer = request["question"], request["answer"]
    picture = NOT_HERE
    if known is not None:
        picture = NO_PICTURE if known.request.image is None else gallery.want(known.request.image, EDITED)
    rows = []
    for place in places:
        outcome, probe = outcomes[place], probes.get(place)
        shown = picture if place[0] == "reliability" else _picture(outcome, probe, place in failed, gallery)
        target = outcome.target if outcome.target not in ("", answer) else ""
        asked = outcome.question or (probe.question if probe else "")
        tags = ", ".join(f"{k}: {v}" for k, v in outcome.tags.items())
        rows.append([ranks[place[:2]], *map(strings, (asked, outcome.base_answer, tags, target)), shown])
    built = {
        "id": scored[0][1]["case"],
        "question": question,
        "new": answer,
        "before": (first.base_answer if first else "") or request["base_answer"],
        "picture": picture,
        "probes": rows,
        "arms": [_row(arm, record, row, places) for arm, record, row in letters],
    }
    return built, fits


def _request(run: Run, case_id: str, case: EditCase | None) -> dict[str, str]:
    """The edited question, its new answer and the one held for right before: as stored, else as the data set has them."""
    stored = (run.bases.get(case_id) or {}).get("request") or {}
    known = {} if case is None else {"question": case.request.question, "answer": case.request.answer}
    if case is not None:
        known["base_answer"] = case.base_answer
    return {name: str(stored.get(name) or known.get(name) or "") for name in ("question", "answer", "base_answer")}


def _place(outcome: Outcome) -> Place:
    return outcome.family, outcome.cell, outcome.index


def _probes(case: EditCase | None) -> dict[Place, Probe]:
    return {} if case is None else {(f, c, i): probe for f, c, i, probe in case.probes()}


def _fits(case: EditCase, outcomes: Mapping[Place, Outcome]) -> bool:
    """Whether these outcomes are of this case: no more probes per cell, and the same questions where they were kept."""
    probes = _probes(case)
    for place, outcome in outcomes.items():
        if place[0] == "reliability":
            if outcome.target not in ("", case.request.answer) or outcome.question not in ("", case.request.question):
                return False
        elif place not in probes or outcome.question not in ("", probes[place].question):
            return False
    return True


def _picture(outcome: Outcome, probe: Probe | None, failed: bool, gallery: Gallery) -> int:
    if probe is None:
        return NOT_HERE if outcome.image or not outcome.question else NO_PICTURE
    return NO_PICTURE if probe.image is None else gallery.want(probe.image, FAILED if failed else OTHER)


def _row(arm: Arm, record: Mapping[str, Any], letters: Mapping[Place, str], places: Sequence[Place]) -> dict[str, Any]:
    """What one arm made of a case; lists and strings run along the case's probes ("." and "" where it has none)."""
    outcomes = {_place(o): o for o in record["outcomes"]}
    row: dict[str, Any] = {"arm": arm.index, "letters": "".join(letters.get(place, ".") for place in places)}
    if arm.scoped:
        row["gaps"] = [gap(outcomes[place]) if place in outcomes else "" for place in places]
    said, shares, entries = {}, {}, {}
    for index, place in enumerate(places):
        outcome, kind = outcomes.get(place), letters.get(place, ".")
        if outcome is None:
            continue
        if outcome.shown_answer and kind in "mxwefck":
            said[index] = outcome.shown_answer
        if kind in "we" and math.isfinite(outcome.new_token):
            shares[index] = round(100 * outcome.new_token)
        if kind in "xek":
            entries[index] = outcome.entry
    row |= {name: value for name, value in (("said", said), ("shares", shares), ("entries", entries)) if value}
    if record.get("error"):
        row["error"] = record["error"]
    if record.get("edit"):
        row["edit"] = edit_words(record["edit"])
    return row


def edit_words(edit: Mapping[str, Any]) -> str:
    """What making an edit took, in a line."""
    words = [f"{edit['seconds']:.2f} s"] if _is_number(edit.get("seconds")) else []
    if _is_number(edit.get("steps")):
        words.append(f"{edit['steps']} step{'s' if edit['steps'] != 1 else ''}")
    if _is_number(edit.get("margin")):
        words.append(f"weakest token leads by {edit['margin']:.2g} logits")
    if edit.get("trained") is False:
        words.append("not trained to the end")
    if all(_is_number(edit.get(name)) for name in ("radius", "alpha", "d_positive", "d_negative")):
        alpha, near, far = edit["alpha"], edit["d_positive"], edit["d_negative"]
        words.append(f"radius {edit['radius']:.4g} = {alpha:g} · {near:.4g} + {1 - alpha:.4g} · {far:.4g}")
    return ", ".join(words)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
