"""Questions that arrive at the same time are answered together: a thread takes some of those that wait and runs the model on
them.

A batch runs to its end; questions that arrive in the meantime form the next batch.  Short answers in a batch wait for the
longest.  Where several threads answer, each runs a batch of its own, and what waits is divided among them: on a processor, two
batches on one core each are faster than one batch on two cores.
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
from .workers import Worker

log = logging.getLogger("vledit.serve")


class BusyError(VLEditError):
    """Too much at once.  `retry_after`: whole seconds after which there may be room."""

    def __init__(self, what: str, retry_after: float):
        self.retry_after = max(1, math.ceil(retry_after))
        super().__init__(f"{what}. Try again in {self.retry_after} s.")


class ClosingError(VLEditError):
    """The server is about to stop and takes nothing new."""


Answering = Callable[[Sequence[Ask], int, int], Sequence[Reply]]
"""Asks of one kind, the number of the thread that calls, and how many batches run at this time (this one counts) → replies."""


class Batcher:
    """The queue of questions and the threads that answer them.

    Args:
        answer: see `Answering`; called by `workers` threads, each with its own number.
        most: questions in a batch.
        waiting: questions that may wait.
        gather_seconds: how long the first of a batch waits for others.
        ran: told of every batch: its size and seconds.
        workers: threads.
    """

    def __init__(
        self,
        answer: Answering,
        most: int = 8,
        waiting: int = 64,
        gather_seconds: float = 0.004,
        ran: Callable[[int, float], None] = lambda size, seconds: None,
        workers: int = 1,
    ):
        self._answer, self._most, self._limit, self._gather, self._ran = answer, most, waiting, gather_seconds, ran
        self._waiting: deque[Ask] = deque()
        self._changed = threading.Condition()
        self._closing = self._gathering = False
        self._taken: list[list[Ask]] = [[] for _ in range(workers)]
        self._last = 0
        """Questions in the last batch."""
        self._seconds = 1.0
        """Of a batch, as a running mean; what a refused client is told to wait is guessed from it."""
        self._workers = [self._worker(number) for number in range(workers)]

    def _worker(self, number: int) -> Worker:
        name = "vledit-answers" if len(self._taken) == 1 else f"vledit-answers-{number + 1}"
        return Worker(name, lambda: self._work(number), lambda error: self._failed(number), self._ended)

    @property
    def waiting(self) -> int:
        """Questions that wait, those in work not among them."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Questions in work."""
        return sum(map(len, self._taken))

    @property
    def restarts(self) -> int:
        """How often a thread failed and started anew."""
        return sum(worker.restarts for worker in self._workers)

    @property
    def dead(self) -> str:
        """Why a thread does not run any more; empty while all of them do."""
        for worker in self._workers:
            if not worker.alive and not self._closing:
                return worker.given_up or "it ended without a reason"
        return ""

    def submit(self, ask: Ask) -> None:
        """Puts a question into the queue; its `reply` is set later.

        Raises: BusyError where the queue is full; ClosingError where the server is about to stop, or no thread answers.
        """
        with self._changed:
            if self._closing:
                raise ClosingError("the server is about to stop. Ask another one, or try again in a while.")
            if not any(worker.alive for worker in self._workers):
                raise ClosingError("the thread that answers has ended. The server has to be started again.")
            if len(self._waiting) >= self._limit:
                batches = len(self._waiting) / (self._most * len(self._workers)) + 1
                raise BusyError(f"{len(self._waiting)} questions are waiting already", batches * self._seconds)
            self._waiting.append(ask)
            self._changed.notify_all()

    def drain(self, seconds: float) -> bool:
        """Takes nothing new and waits for what is there; returns whether all of it was answered."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            while (self._waiting or self.running) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            done = not (self._waiting or self.running)
            for ask in self._waiting:
                ask.reply.cancel()
            self._waiting.clear()
            self._changed.notify_all()
        return done

    def _take(self, number: int) -> int:
        """Takes the next batch: the first question that waits, and those behind it that can be answered with it, as many as
        are this thread's share.

        Returns: how many batches run at this time, or are about to start.
        """
        with self._changed:
            while (not self._waiting or self._gathering) and not self._closing:
                self._changed.wait()
            if self._waiting and len(self._waiting) < self._most and not self._closing:
                self._gathering = True
                self._wait_for_others()
                self._gathering = False
            taken: list[Ask] = []
            left: deque[Ask] = deque()
            kind = self._waiting[0].kind if self._waiting else None
            alike = sum(ask.kind == kind for ask in self._waiting)
            share = min(self._most, math.ceil((alike + self.running) / len(self._workers)))
            for ask in self._waiting:
                if ask.kind != kind or len(taken) >= share:
                    left.append(ask)
                elif ask.reply.set_running_or_notify_cancel():  # a client that has gone away is not answered
                    taken.append(ask)
            self._waiting, self._taken[number], self._last = left, taken, len(taken)
            self._changed.notify_all()
            busy = sum(map(bool, self._taken))
            return min(len(self._taken), busy + len(left))

    def _wait_for_others(self) -> None:
        """Waits a moment for questions that could come into the batch.

        Where several are in work, or were in the last batch, their clients ask again one shortly after the other: as long as they
        do, and a twentieth of a batch's time is not over, it is worth waiting for the next one.
        """
        crowd = self.running > 0 or self._last > 1
        gap = 3 * self._gather if crowd else self._gather
        until = time.monotonic() + max(self._gather, self._seconds / 20 if crowd and self._gather else 0)
        while len(self._waiting) < self._most and not self._closing:
            there, left = len(self._waiting), min(gap, until - time.monotonic())
            more = lambda there=there: len(self._waiting) > there or self._closing  # noqa: E731
            if left <= 0 or not self._changed.wait_for(more, left):
                return

    def _work(self, number: int) -> None:
        while True:
            together = self._take(number)
            taken = self._taken[number]
            if taken:
                began = time.monotonic()
                self._run(taken, number, together)
                seconds = time.monotonic() - began
                self._seconds += 0.2 * (seconds - self._seconds)
                self._ran(len(taken), seconds)
            with self._changed:
                self._taken[number] = []
                self._changed.notify_all()
                if self._closing and not self._waiting:
                    return

    def _failed(self, number: int) -> None:
        """The thread fell out of its work: who waits for it is told, and others can go on."""
        with self._changed:
            taken, self._taken[number], self._gathering = self._taken[number], [], False
            self._changed.notify_all()
        for ask in taken:
            if not ask.reply.done():
                ask.reply.set_exception(RuntimeError("the thread that answers failed; the server's log has more"))

    def _ended(self) -> None:
        """A thread is given up; where it was the last one, nobody answers what waits."""
        with self._changed:
            if any(worker.alive for worker in self._workers):
                return
            waiting, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        for ask in waiting:
            if ask.reply.set_running_or_notify_cancel():
                ask.reply.set_exception(ClosingError("the thread that answers has ended; the server's log has more."))

    def _run(self, taken: list[Ask], number: int, together: int) -> None:
        try:
            replies = self._answer(taken, number, together)
        except VLEditError as error:
            if len(taken) == 1:
                taken[0].reply.set_exception(error)
                return
            for ask in taken:  # one unfit question must not take the others with it
                self._run([ask], number, together)
            return
        except Exception as error:
            log.exception("a batch failed", extra={"batch": len(taken)})
            for ask in taken:
                ask.reply.set_exception(error)
            return
        for ask, reply in zip(taken, replies, strict=True):
            ask.reply.set_result(reply)
