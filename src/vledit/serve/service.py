"""`Service`: the parts of a server that outlive a request, started and stopped together."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..codebook import Codebook
from ..errors import InputError
from .asks import Ask, Reply
from .batching import Batcher
from .fixed import Fixed, codebook_in
from .jobs import Workshop
from .metrics import Metrics
from .model import ServedModel
from .settings import ServeSettings
from .store.book import By, EditStore
from .store.database import StoreError
from .store.jobs import JobStore
from .store.probes import ProbeStore
from .store.tokens import TokenStore
from .tracing import span
from .watching import Watch

if TYPE_CHECKING:
    from ..editors.edited_model import EditedModel

log = logging.getLogger("vledit.serve")
IMPORTER = "vledit serve"


class Service:
    """A served model with its store, its queues and its threads.

    Args:
        edited: the model, without edits: those of the store act.
    Raises: StoreError, ModelMismatchError, CodebookError where store or codebook cannot be used.
    """

    def __init__(self, settings: ServeSettings, edited: EditedModel):
        self.settings = settings
        self.metrics = Metrics()
        folder = settings.edits
        fixed = None if folder is None else Fixed.read(edited.vlm, folder)
        self.model = ServedModel(edited, fixed, settings.workers)
        self.store = EditStore(settings.store, self.model.fingerprint, self.model.name)
        self.probes = ProbeStore(self.store.engine, settings.limits.probes)
        self.tokens = TokenStore(self.store.engine)
        self.jobs = JobStore(self.store.engine)
        if settings.codebook is not None:
            added, known = self.take_codebook(Path(settings.codebook), By(IMPORTER, f"from '{settings.codebook}'"))
            log.info("codebook read", extra={"added": added, "known": known})
        if folder is not None:
            added, known = self.take_codebook(codebook_in(folder), By(IMPORTER, f"from '{folder}'"))
            unchangeable = len(self.model.fixed.records())
            log.info("saved model read", extra={"added": added, "known": known, "fixed": unchangeable})
        self.watch = Watch(self.store, settings.poll_seconds)
        self._taking = threading.Lock()
        self.take_in()
        limits = settings.limits
        self.batcher = Batcher(
            self._answer,
            limits.batch,
            limits.waiting,
            limits.gather_seconds,
            ran=self.metrics.batch,
            workers=len(self.model.lanes),
        )
        self.workshop = Workshop(self.model, self.store, self.jobs, self.watch, self.metrics, limits.waiting_edits)
        self.workshop.take_in = self.take_in
        self.draining = False
        log.info("answering", extra={"workers": len(self.model.lanes), "batch": limits.batch})

    def take_in(self) -> None:
        """Lets the edits of the newest known revision act; those of the last one where the store cannot be reached."""
        with self._taking:
            if self.model.revision >= self.watch.latest:
                return
            try:
                revision, active = self.store.active()
            except StoreError as error:
                log.warning("the newest edits cannot be read", extra={"reason": str(error)})
                return
            self.model.take_in(revision, active)
            self.metrics.revision.set(revision)
            self.metrics.active.set(len(active))

    def _answer(self, asks: Sequence[Ask], lane: int, beside: int) -> list[Reply]:
        self.take_in()
        with span("batch", size=len(asks), edited=asks[0].edited):
            replies = self.model.answer(asks, lane, beside)
        for reply in replies:
            fired = reply.decision is not None and reply.decision.fired
            self.metrics.answers.labels("edit" if fired else "base").inc()
            self.metrics.tokens.inc(reply.answer_tokens)
        return replies

    def take_codebook(self, path: Path, by: By) -> tuple[int, int]:
        """Adds the active edits of a codebook file that are not in the store yet.

        Returns: how many were added, and how many were there already.
        Raises: CodebookError, ModelMismatchError.
        """
        added = known = 0
        with Codebook.open(path, self.model.fingerprint, self.model.name, readonly=True) as book:
            _, kept = self.store.edits()
            there = {one.entry.id for one in kept}
            for entry in book.active():
                if entry.id in there:
                    known += 1
                    continue
                try:
                    revision = self.store.add(entry, (), by, {"codebook": path.name})
                except InputError:  # another server takes in the same file at this moment
                    known += 1
                    continue
                added += 1
                if hasattr(self, "watch"):
                    self.watch.tell(revision)
        return added, known

    def write_codebook(self, path: Path) -> int:
        """Writes the edits that act as a codebook file; returns how many.  Raises: CodebookError."""
        _, active = self.store.active()
        book = Codebook(fingerprint=self.model.fingerprint, model_name=self.model.name)
        for _, entry in active:
            book.add(entry)
        book.save(path)
        return len(active)

    @property
    def restarts(self) -> int:
        """How often a thread failed and started anew."""
        return self.batcher.restarts + self.workshop.thread.restarts + self.watch.thread.restarts

    def dead(self) -> str:
        """Which thread does not run any more, and why; empty while all of them do."""
        if self.batcher.dead:
            return f"a thread that answers has ended ({self.batcher.dead})"
        if why := self.workshop.thread.given_up:
            return f"the thread that makes edits has ended ({why})"
        if why := self.watch.thread.given_up:
            return f"the thread that looks for new revisions has ended ({why})"
        return ""

    def ready(self) -> str | None:
        """None where requests can be taken; else what is missing."""
        if self.draining:
            return "the server is about to stop"
        if dead := self.dead():
            return dead
        if not self.watch.reachable:
            return "the store cannot be reached"
        return None

    def close(self) -> None:
        """Takes nothing new, lets what runs come to its end, closes everything."""
        self.draining = True
        seconds = self.settings.drain_seconds
        answered, made = self.batcher.drain(seconds), self.workshop.drain(seconds)
        if not (answered and made):
            log.warning("stopping before everything is done", extra={"answered": answered, "edited": made})
        self.watch.close()
        self.store.close()
        log.info("ended", extra={"answered": answered, "edited": made})
