"""Entries, decisions and the like as plain dictionaries, for `--json` and for pages.  Loads no torch."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..codebook import Decision, Entry, Relation
    from ..codebook.record import Row
    from ..editors.base import Edit


def entry_record(entry: Entry) -> dict[str, Any]:
    """All of an entry but its tensors and its picture."""
    return {
        "id": entry.id,
        "status": entry.status,
        "question": entry.question,
        "answer": entry.answer,
        "image_key": entry.image_key,
        "site": entry.site,
        "key_site": entry.key_site,
        "scopes": [_scope_record(scope) for scope in entry.scopes],
        "transformation": {"kind": entry.transformation.kind, "bytes": entry.transformation.nbytes},
        "bytes": entry.nbytes,
        "parent": entry.parent,
        "retired_by": entry.retired_by,
        "created": entry.created,
        "notes": dict(entry.notes),
    }


def row_record(row: Row) -> dict[str, Any]:
    """As `entry_record`, from a row of the file alone: neither its keys nor its change are read."""
    record = json.loads(row.record)
    scopes = [
        SimpleNamespace(
            **{**scope, "anchors": scope["anchors"] and SimpleNamespace(**scope["anchors"])},
            width=scope["key"]["shape"][0],
        )
        for scope in record["scopes"]
    ]
    change = record["transformation"]
    size = sum(one["nbytes"] for one in change["tensors"].values())
    keys = sum(scope["key"]["nbytes"] for scope in record["scopes"])
    return {
        "id": row.id,
        "status": row.status,
        "question": row.question,
        "answer": row.answer,
        "image_key": record["image_key"],
        "site": row.site,
        "key_site": record.get("key_site", row.site),
        "scopes": [_scope_record(scope) for scope in scopes],
        "transformation": {"kind": change["kind"], "bytes": size},
        "bytes": keys + size + len(row.thumbnail or b""),
        "parent": record["parent"],
        "retired_by": row.retired_by,
        "created": record["created"],
        "notes": record["notes"],
    }


def _scope_record(scope: Any) -> dict[str, Any]:
    anchors = scope.anchors
    return {
        "name": scope.name,
        "prompt": scope.prompt,
        "key_tokens": scope.key_tokens,
        "key_width": scope.width,
        "distance": scope.distance,
        "radius": scope.radius,
        "alpha": scope.alpha,
        "d_positive": None if anchors is None else anchors.d_positive,
        "d_negative": None if anchors is None else anchors.d_negative,
        "positive_source": None if anchors is None else anchors.positive_source,
        "positive_question": None if anchors is None else anchors.positive_question,
        "negative": None if anchors is None else anchors.negative,
    }


def decision_record(decision: Decision) -> dict[str, Any]:
    """What the router said: which entry fired or was nearest, distance and radius."""
    return {
        "fired": decision.fired,
        "entry": decision.entry,
        "nearest": decision.nearest,
        "distance": decision.distance,
        "radius": decision.radius,
        "site": decision.site,
        "explanation": decision.explanation,
    }


def relation_record(relation: Relation | None) -> dict[str, Any]:
    """How an edit relates to those before it; no relation means that it is the first."""
    if relation is None:
        return {"kind": "new", "inside": None, "retires": [], "explanation": "The first edit of this codebook."}
    return {
        "kind": relation.kind,
        "inside": relation.inside,
        "retires": list(relation.retires),
        "explanation": relation.explanation,
    }


def edit_record(edit: Edit) -> dict[str, Any]:
    """An edit with what it took."""
    report = edit.report
    return {
        "id": edit.id,
        "editor": edit.editor,
        "seconds": report.seconds,
        "steps": report.steps,
        "loss": report.loss,
        "margin": report.margin,
        "bytes": report.nbytes,
        "relation": relation_record(edit.relation),
        "entry": None if edit.entry is None else entry_record(edit.entry),
    }
