"""Small cases, variants and comparisons for tests of scoring; only mechanics, so tiny random models will do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.vlm.models import QUESTIONS, picture
from vledit.data.case import EditCase, EditRequest, Probe
from vledit.evaluate.manifest import Variant
from vledit.evaluate.outcomes import Outcome, decided
from vledit.evaluate.results import read_results

QUICK = {"steps": 200, "learning_rate": 0.05, "margin": 1.0}
BALANCED = Variant("balancedit", "balancedit", {**QUICK, "rephrase": "supplied", "alpha": 0.3})
FINE_TUNE = Variant("ft", "ft", QUICK)
VARIANTS = [BALANCED, FINE_TUNE]


def case(number: int = 0, near: int = 3) -> EditCase:
    """An edit with probes of every family; another one for every number."""
    request = EditRequest(
        picture(number), QUESTIONS[0], ("two cups", "the fox")[number % 2], ("What can be seen?",), f"case-{number}"
    )
    return EditCase(
        request,
        {
            "text": (Probe(request.image, "What can be seen?"), Probe(request.image, QUESTIONS[1])),
            "image": (Probe(picture(number + 20), QUESTIONS[0]),),
        },
        {
            "near_image": tuple(
                Probe(picture(number + 40 + i), QUESTIONS[0], "a cat", {"place": str(i)}) for i in range(near)
            ),
            "text": (Probe(None, QUESTIONS[2]),),
        },
        {"one_hop": (Probe(request.image, QUESTIONS[1], "tea"),)},
        base_answer="a cat",
    )


def content(path: Path) -> dict[str, Any]:
    """What a results file says, without times: bases, and records by key."""
    head, records = read_results(path)
    bases = {
        id: {name: value for name, value in base.items() if name != "seconds"} for id, base in head["bases"].items()
    }
    found = {}
    for record in records:
        edit = {name: value for name, value in (record.get("edit") or {}).items() if name != "seconds"}
        outcomes = [json.dumps(decided(o), sort_keys=True) for o in record["outcomes"]]
        key = (record["variant"], record["case"], record["after"])
        found[key] = (record["error"], record["order"], json.dumps(edit, sort_keys=True), outcomes)
    return {"bases": json.loads(json.dumps(bases)), "records": found}


def outcome(
    case: str, cell: str, new: bool, same: bool = True, distance: float = 1.0, fired: bool = True, **more: Any
) -> Outcome:
    """An outcome by hand."""
    family = {"edit": "reliability", "text": "generality", "image": "generality"}.get(cell, "locality")
    values: dict[str, Any] = {
        "case": case, "editor": "e", "family": family, "cell": cell, "index": 0, "base_new": False, "base_new_token": 0.0,
        "changed_new": new, "changed_same": same, "changed_new_token": float(new), "changed_same_token": float(same),
        "distance": distance, "radius": 2.0, "fired": fired,
    }  # fmt: skip
    return Outcome(**{**values, **more})
