"""The probe set: questions that every edit is previewed on before it goes live."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from ...codebook.entry import now
from ...errors import InputError, UnknownNameError
from .database import reading, writing
from .tables import probes


@dataclass(frozen=True)
class StoredProbe:
    """A question with the bytes of its picture, or None; `note`: what it is there for."""

    id: str
    created: str
    question: str
    picture: bytes | None
    note: str


class ProbeStore:
    """The probe set of a store.

    Args:
        most: how many there may be.
    """

    def __init__(self, engine: Engine, most: int):
        self.engine, self.most = engine, most

    def all(self) -> list[StoredProbe]:
        """Oldest first."""
        with reading(self.engine) as connection:
            rows = connection.execute(sa.select(probes).order_by(probes.c.created, probes.c.id))
            return [
                StoredProbe(r.id, r.created, r.question, None if r.picture is None else bytes(r.picture), r.note)
                for r in rows
            ]

    def add(self, question: str, picture: bytes | None, note: str = "") -> StoredProbe:
        """Raises: InputError where there are too many."""
        probe = StoredProbe(secrets.token_hex(6), now(), question, picture, note)
        with writing(self.engine) as connection:
            count = connection.execute(sa.select(sa.func.count()).select_from(probes)).scalar_one()
            if count >= self.most:
                raise InputError(f"probes: there are {count} already, the most that are taken. Delete some first.")
            connection.execute(probes.insert(), vars(probe))
        return probe

    def delete(self, id: str) -> None:
        """Raises: UnknownNameError."""
        with writing(self.engine) as connection:
            if not connection.execute(probes.delete().where(probes.c.id == id)).rowcount:
                known = connection.execute(sa.select(probes.c.id).limit(20)).scalars().all()
                raise UnknownNameError("probe", id, known)
