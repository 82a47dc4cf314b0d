"""Detects revisions that other processes committed: PostgreSQL sends a notification, a SQLite file is polled."""

from __future__ import annotations

import logging
import threading

from sqlalchemy.engine import Engine

from .store.book import EditStore
from .store.database import CHANNEL, StoreError
from .workers import Worker

log = logging.getLogger("vledit.serve")


class Watch:
    """Knows the newest revision.

    Args:
        poll_seconds: how often a SQLite file is looked at, and PostgreSQL where its word got lost.
    """

    def __init__(self, store: EditStore, poll_seconds: float = 0.25):
        self.store, self._poll = store, poll_seconds
        self.latest = store.revision()
        self.reachable = True
        self._end = threading.Event()
        work = self._listen if store.kind == "postgresql" else self._look
        self.thread = Worker("vledit-revisions", work)

    def tell(self, revision: int) -> None:
        """This process committed a revision."""
        self.latest = max(self.latest, revision)

    def close(self) -> None:
        """Stops watching."""
        self._end.set()
        self.thread.join(5)

    def _read(self) -> None:
        try:
            self.tell(self.store.revision())
            self.reachable = True
        except StoreError as error:
            if self.reachable:
                log.warning(
                    "the store cannot be reached; the edits of the last known revision go on acting",
                    extra={"reason": str(error)},
                )
            self.reachable = False

    def _look(self) -> None:
        while not self._end.wait(self._poll):
            self._read()

    def _listen(self) -> None:
        import psycopg

        while not self._end.is_set():
            try:
                with psycopg.connect(_dsn(self.store.engine), autocommit=True) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._read()  # what was committed before the listening began
                    while not self._end.is_set():
                        heard = list(connection.notifies(timeout=self._poll, stop_after=1))
                        for one in heard:
                            self.tell(int(one.payload))
                        if not heard:
                            connection.execute("SELECT 1")  # notices a connection that is gone
            except psycopg.Error as error:
                log.warning("listening to PostgreSQL failed; trying again", extra={"reason": str(error).strip()})
                self.reachable = False
                self._end.wait(self._poll)
                self._read()


def _dsn(engine: Engine) -> str:
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
