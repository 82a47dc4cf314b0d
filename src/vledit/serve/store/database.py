"""Opening the database: SQLite with one writer at a time, or PostgreSQL, brought to the newest schema by Alembic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from ...errors import InputError, VLEditError

CHANNEL = "vledit_revisions"
"""On which PostgreSQL tells that there is a new revision."""
_WRITERS = 0x564C4564
"""The advisory lock that PostgreSQL's writers take, so that revisions are committed in the order of their numbers."""


class StoreError(VLEditError):
    """The store cannot be read or written; the message says what to do.  What was there before is still there."""


def open_engine(where: str) -> Engine:
    """A file is a SQLite database; a URL is taken as SQLAlchemy reads it.

    Raises: InputError for a URL of another database; StoreError where it cannot be opened.
    """
    url = address(where)
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(url, connect_args={"timeout": 20, "check_same_thread": False})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        engine = sa.create_engine(url, pool_pre_ping=True, pool_size=8, pool_timeout=10)
    return engine


def address(where: str) -> sa.URL:
    """Raises: InputError for a database that is not known."""
    if "://" not in where:
        path = Path(where).expanduser().absolute()
        if not path.parent.is_dir():
            raise InputError(f"--store: there is no folder '{path.parent}' to put '{path.name}' into.")
        if path.is_dir():
            raise InputError(f"--store: '{path}' is a folder. Give a file, or the URL of a PostgreSQL database.")
        return sa.URL.create("sqlite", database=str(path))
    try:
        url = sa.make_url(where)
    except SQLAlchemyError:
        raise InputError("--store: the URL cannot be read. Give one like postgresql://user@host/name.") from None
    if url.drivername in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise InputError(f"--store: '{url.drivername}' is not known. Give a file (SQLite) or a postgresql:// URL.")
    return url


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy's own events say when a transaction begins
    cursor = connection.cursor()
    for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One state of the database for all that is read inside."""
    with _guard("read"), engine.connect() as connection, connection.begin():
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """All that is written inside is there after the block, or nothing is; one writer at a time."""
    with _guard("written"), engine.connect() as plain:
        connection = plain.execution_options(writes=True)
        with connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITERS})
            yield connection


@contextmanager
def _guard(doing: str) -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise StoreError(_advice(error, doing)) from error
    except DBAPIError as error:
        raise StoreError(f"the store could not be {doing}: {_first_line(error)}. Nothing was changed.") from error


def _advice(error: OperationalError, doing: str) -> str:
    reason = _first_line(error)
    if "disk is full" in reason or "No space left" in reason or "could not extend file" in reason:
        return f"the store could not be {doing}: the disk is full. Nothing was changed; free some space and try again."
    if "locked" in reason:
        return f"the store could not be {doing}: another process is writing to it. Nothing was changed; try again."
    if "readonly" in reason or "read-only" in reason:
        return f"the store could not be {doing}: it is read-only. Nothing was changed; check its permissions."
    return f"the store could not be {doing}: {reason}. Nothing was changed; check the database and the disk."


def _first_line(error: DBAPIError) -> str:
    return (str(error.orig).strip().splitlines() or [type(error).__name__])[0]


def migrate(engine: Engine) -> None:
    """Brings the database to the newest schema; several processes may do so at once.

    Raises: StoreError where it cannot be written, or is of a newer VLEdit.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(resources.files("vledit.serve.store") / "migrations"))
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StoreError(f"the store is of a newer VLEdit ({error}). Upgrade VLEdit.") from error
