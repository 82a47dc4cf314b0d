"""Who may do what: tokens with scopes, of which only a hash is kept."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from ...codebook.entry import now
from ...errors import InputError, UnknownNameError
from .database import reading, writing
from .tables import meta, tokens

SCOPES = ("read", "edit", "admin")
"""read: ask and look; edit: change edits and probes, too; admin: tokens, too.  Each holds those before it."""
_PREFIX = "vle_"


@dataclass(frozen=True)
class Token:
    """What is known of a token, which is not the token itself."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created: str
    revoked: str | None = None


class TokenStore:
    """The tokens of a store."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def create(self, name: str, scopes: Sequence[str]) -> tuple[str, Token]:
        """Returns the token, which cannot be read again, and what is kept of it.

        Raises: InputError for no name; UnknownNameError for an unknown scope.
        """
        if not name.strip() or len(name) > 200 or not name.isprintable():
            raise InputError("name: 1 to 200 printable characters are expected: who the token is for.")
        for scope in scopes:
            if scope not in SCOPES:
                raise UnknownNameError("scope", scope, SCOPES)
        if not scopes:
            raise InputError(f"scopes: at least one of {', '.join(SCOPES)} is expected.")
        secret = _PREFIX + secrets.token_urlsafe(32)
        kept = Token(secrets.token_hex(6), name.strip(), tuple(one for one in SCOPES if one in scopes), now())
        with writing(self.engine) as connection:
            row = {"id": kept.id, "name": kept.name, "created": kept.created, "revoked": None}
            connection.execute(tokens.insert(), {**row, "scopes": ",".join(kept.scopes), "hash": _hash(secret)})
        return secret, kept

    def find(self, secret: str) -> Token | None:
        """The token, unless it is unknown or revoked."""
        asked = sa.select(tokens).where(tokens.c.hash == _hash(secret), tokens.c.revoked.is_(None))
        with reading(self.engine) as connection:
            row = connection.execute(asked).first()
        return None if row is None else _token(row)

    def get(self, id: str) -> Token | None:
        """The token of this id, unless it is unknown or revoked."""
        asked = sa.select(tokens).where(tokens.c.id == id, tokens.c.revoked.is_(None))
        with reading(self.engine) as connection:
            row = connection.execute(asked).first()
        return None if row is None else _token(row)

    def all(self) -> list[Token]:
        """Oldest first, revoked ones among them."""
        with reading(self.engine) as connection:
            return [_token(row) for row in connection.execute(sa.select(tokens).order_by(tokens.c.created))]

    def any(self) -> bool:
        """Whether there is a token that counts."""
        with reading(self.engine) as connection:
            return (
                connection.execute(sa.select(tokens.c.id).where(tokens.c.revoked.is_(None)).limit(1)).first()
                is not None
            )

    def revoke(self, id: str) -> None:
        """Raises: UnknownNameError."""
        with writing(self.engine) as connection:
            asked = tokens.update().where(tokens.c.id == id, tokens.c.revoked.is_(None)).values(revoked=now())
            if not connection.execute(asked).rowcount:
                known = connection.execute(sa.select(tokens.c.id).where(tokens.c.revoked.is_(None))).scalars().all()
                raise UnknownNameError("token", id, known)

    def signing_key(self) -> bytes:
        """The key that session cookies are signed with; the same for all replicas."""
        with writing(self.engine) as connection:
            found = connection.execute(sa.select(meta.c.value).where(meta.c.name == "signing_key")).scalar()
            if found is None:
                found = secrets.token_hex(32)
                connection.execute(meta.insert(), {"name": "signing_key", "value": found})
        return bytes.fromhex(found)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _token(row: sa.Row) -> Token:
    return Token(row.id, row.name, tuple(row.scopes.split(",")), row.created, row.revoked)
