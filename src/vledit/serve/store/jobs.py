"""What became of edits that were asked for: documents that every replica can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from ...errors import UnknownNameError
from .database import reading, writing
from .tables import jobs

KEPT = 1000
"""Older documents are deleted."""


class JobStore:
    """The documents of a store."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def save(self, document: Mapping[str, Any]) -> None:
        """Writes a job's document over the one that was there."""
        text = json.dumps(document, ensure_ascii=False)
        with writing(self.engine) as connection:
            changed = connection.execute(jobs.update().where(jobs.c.id == document["id"]).values(document=text))
            if not changed.rowcount:
                row = {"id": document["id"], "created": document["created"], "document": text}
                connection.execute(jobs.insert(), row)
                old = sa.select(jobs.c.id).order_by(jobs.c.created.desc()).offset(KEPT)
                connection.execute(jobs.delete().where(jobs.c.id.in_(old.scalar_subquery())))

    def get(self, id: str) -> dict[str, Any]:
        """Raises: UnknownNameError."""
        with reading(self.engine) as connection:
            found = connection.execute(sa.select(jobs.c.document).where(jobs.c.id == id)).scalar()
        if found is None:
            raise UnknownNameError("job", id, [])
        return json.loads(found)

    def latest(self, most: int = 50) -> list[dict[str, Any]]:
        """Newest first."""
        asked = sa.select(jobs.c.document).order_by(jobs.c.created.desc()).limit(most)
        with reading(self.engine) as connection:
            return [json.loads(text) for text in connection.execute(asked).scalars()]
