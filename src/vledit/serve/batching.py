"""Questions that arrive at the same time are answered together: one thread takes all that wait and runs the model on them.

A batch runs to its end before the next one starts; questions that arrive in the meantime form the next batch.  Short answers in
a batch wait for the longest.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from ..errors import VLEditError
from .asks import Ask, Reply

log = logging.getLogger("vledit.serve")


class BusyError(VLEditError):
    """Too much at once.  `retry_after`: whole seconds after which there may be room."""

    def __init__(self, what: str, retry_after: float):
        self.retry_after = max(1, math.ceil(retry_after))
        super().__init__(f"{what}. Try again in {self.retry_after} s.")


class ClosingError(VLEditError):
    """The server is about to stop and takes nothing new."""


class Batcher:
    """The queue of questions and the thread that answers them.

    Args:
        answer: asks of one kind → replies; called from one thread only.
        most: questions in a batch.
        waiting: questions that may wait.
        gather_seconds: how long the first of a batch waits for others.
        ran: told of every batch: its size and seconds.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Ask]], Sequence[Reply]],
        most: int = 8,
        waiting: int = 64,
        gather_seconds: float = 0.004,
        ran: Callable[[int, float], None] = lambda size, seconds: None,
    ):
        self._answer, self._most, self._limit, self._gather, self._ran = answer, most, waiting, gather_seconds, ran
        self._waiting: deque[Ask] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._running = 0
        self._seconds = 1.0
        """Of a batch, as a running mean; what a refused client is told to wait is guessed from it."""
        self._thread = threading.Thread(target=self._work, name="vledit-answers", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Questions that wait, those in work not among them."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, ask: Ask) -> None:
        """Puts a question into the queue; its `reply` is set later.

        Raises: BusyError where the queue is full; ClosingError where the server is about to stop.
        """
        with self._changed:
            if self._closing:
                raise ClosingError("the server is about to stop. Ask another one, or try again in a while.")
            if len(self._waiting) >= self._limit:
                batches = len(self._waiting) / self._most + 1
                raise BusyError(f"{len(self._waiting)} questions are waiting already", batches * self._seconds)
            self._waiting.append(ask)
            self._changed.notify()

    def drain(self, seconds: float) -> bool:
        """Takes nothing new and waits for what is there; returns whether all of it was answered."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            while (self._waiting or self._running) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            done = not (self._waiting or self._running)
            for ask in self._waiting:
                ask.reply.cancel()
            self._waiting.clear()
        return done

    def _take(self) -> list[Ask]:
        """The next batch: the first question that waits, and those behind it that can be answered with it."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            if self._waiting and len(self._waiting) < self._most and not self._closing:
                self._changed.wait_for(lambda: len(self._waiting) >= self._most or self._closing, self._gather)
            taken: list[Ask] = []
            left: deque[Ask] = deque()
            for ask in self._waiting:
                fits = not taken or (ask.kind == taken[0].kind and len(taken) < self._most)
                if not fits:
                    left.append(ask)
                elif ask.reply.set_running_or_notify_cancel():  # a client that has gone away is not answered
                    taken.append(ask)
            self._waiting = left
            self._running = len(taken)
            return taken

    def _work(self) -> None:
        while True:
            taken = self._take()
            if taken:
                began = time.monotonic()
                self._run(taken)
                seconds = time.monotonic() - began
                self._seconds += 0.2 * (seconds - self._seconds)
                self._ran(len(taken), seconds)
            with self._changed:
                self._running = 0
                self._changed.notify_all()
                if self._closing and not self._waiting:
                    return

    def _run(self, taken: list[Ask]) -> None:
        try:
            replies = self._answer(taken)
        except VLEditError as error:
            if len(taken) == 1:
                taken[0].reply.set_exception(error)
                return
            for ask in taken:  # one unfit question must not take the others with it
                self._run([ask])
            return
        except Exception as error:
            log.exception("a batch failed", extra={"batch": len(taken)})
            for ask in taken:
                ask.reply.set_exception(error)
            return
        for ask, reply in zip(taken, replies, strict=True):
            ask.reply.set_result(reply)
