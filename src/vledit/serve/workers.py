"""Threads that go on: what fails in one is logged, and the thread does its work again; one that cannot go on is seen.

A thread whose function raises ends without a word to anybody but stderr, and a server without its thread takes questions that
nobody answers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger("vledit.serve")
MOST = 5
"""Failures in a row, each less than `APART` seconds after the one before, after which a thread is given up."""
APART = 10.0


class Worker:
    """A thread that runs `work` until it returns.

    Args:
        name: of the thread, for the log.
        failed: told of every failure, before `work` is called again.
        ended: called once the thread is given up.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        failed: Callable[[BaseException], None] = lambda error: None,
        ended: Callable[[], None] = lambda: None,
        apart: float = APART,
    ):
        self.name = name
        self.restarts = 0
        self.given_up = ""
        """Why the thread does not run any more; empty while it does, and where `work` has returned."""
        self._work, self._failed, self._ended, self._apart = work, failed, ended, apart
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive() and not self.given_up

    def join(self, seconds: float) -> None:
        """Waits for the thread's end."""
        self._thread.join(seconds)

    def _run(self) -> None:
        row, last = 0, float("-inf")
        while True:
            try:
                self._work()
                return
            except BaseException as error:  # an interpreter's own, such as SystemExit, would end the thread as well
                row = row + 1 if time.monotonic() - last < self._apart else 1
                last = time.monotonic()
                reason = f"{type(error).__name__}: {error}"
                self._tell(error)
                if row >= MOST:
                    self.given_up = reason
                    log.critical(
                        "a thread is given up", extra={"thread_name": self.name, "reason": reason, "failures": row}
                    )
                    self._ended()
                    return
                self.restarts += 1
                log.exception("a thread failed and starts anew", extra={"thread_name": self.name, "reason": reason})

    def _tell(self, error: BaseException) -> None:
        try:
            self._failed(error)
        except Exception:
            log.exception("cleaning up after a failed thread failed", extra={"thread_name": self.name})
