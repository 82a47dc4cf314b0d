"""Edits that were made and previewed but do not act: every replica can let them act, or drop them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from ...codebook import Entry
from ...codebook.record import Row, pack, transformation_of, unpack
from .database import reading, writing
from .tables import draft_tensors, drafts

KEPT = 32
"""The oldest are forgotten first."""


class DraftStore:
    """The drafts of a store."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def save(self, job: str, created: str, about: Mapping[str, Any], entry: Entry | None) -> None:
        """Keeps the draft of a job.

        Args:
            about: whatever JSON can hold.
            entry: what would act; None where nothing has to be kept.
        """
        row, parts = (None, {}) if entry is None else pack(entry)
        text = json.dumps({"about": about, "row": None if row is None else {**row._asdict(), "thumbnail": None}})
        kept = {"job": job, "created": created, "document": text}
        kept |= {"thumbnail": None if row is None else row.thumbnail, "digest": None if row is None else row.digest()}
        with writing(self.engine) as connection:
            connection.execute(drafts.insert(), kept)
            if parts:
                listed = [{"job": job, "part": part, "data": data} for part, data in parts.items()]
                connection.execute(draft_tensors.insert(), listed)
            newest = sa.select(drafts.c.job).order_by(drafts.c.created.desc())
            for old in connection.execute(newest.offset(KEPT)).scalars().all():
                _delete(connection, old)

    def get(self, job: str) -> tuple[dict[str, Any], Entry | None] | None:
        """What was kept, or None where there is no draft of this job."""
        with reading(self.engine) as connection:
            found = connection.execute(sa.select(drafts).where(drafts.c.job == job)).first()
            if found is None:
                return None
            table = draft_tensors
            rows = connection.execute(sa.select(table.c.part, table.c.data).where(table.c.job == job))
            parts = {part: bytes(data) for part, data in rows}
        document = json.loads(found.document)
        if document["row"] is None:
            return document["about"], None
        picture = None if found.thumbnail is None else bytes(found.thumbnail)
        row = Row(**{**document["row"], "thumbnail": picture})
        keys = {part: data for part, data in parts.items() if part.startswith("key/")}
        entry = unpack(row, bytes(found.digest), keys, lambda manifest: transformation_of(manifest, parts, row.id))
        return document["about"], entry

    def delete(self, job: str) -> bool:
        """Forgets a draft; returns whether there was one."""
        with writing(self.engine) as connection:
            return _delete(connection, job)


def _delete(connection: sa.Connection, job: str) -> bool:
    connection.execute(draft_tensors.delete().where(draft_tensors.c.job == job))
    return bool(connection.execute(drafts.delete().where(drafts.c.job == job)).rowcount)
