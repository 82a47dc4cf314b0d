"""Edits are made one after the other in a thread of their own; the client that asked for one can follow its progress."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..cli.output import plain
from ..codebook.entry import now
from ..data.case import EditRequest, Probe
from ..editors.base import EditReport
from ..errors import InputError, VLEditError
from ..report.records import entry_record
from .batching import BusyError, ClosingError
from .metrics import Metrics
from .model import Effect, Made, ServedModel
from .store.book import By, EditStore, MovedError
from .store.drafts import KEPT, DraftStore
from .store.jobs import JobStore
from .watching import Watch
from .workers import Worker

log = logging.getLogger("vledit.serve")


@dataclass
class Order:
    """An edit that was asked for.

    Args:
        probes: what it is previewed on; where there are none, nothing is previewed.
        live: whether it shall act once it is made; False keeps it as a draft.
    """

    request: EditRequest
    editor: str
    settings: Mapping[str, Any]
    by: By
    probes: Sequence[Probe] = ()
    names: Sequence[str] = ()
    live: bool = True
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    created: str = field(default_factory=now)


class Workshop:
    """The queue of orders and the thread that carries them out."""

    def __init__(
        self, model: ServedModel, store: EditStore, jobs: JobStore, watch: Watch, metrics: Metrics, most: int = 16
    ):
        self.model, self.store, self.jobs, self.watch, self.metrics, self._most = (
            model,
            store,
            jobs,
            watch,
            metrics,
            most,
        )
        self._waiting: deque[Order] = deque()
        self._documents: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._drafts = DraftStore(store.engine)
        self._changed = threading.Condition()
        self._closing = False
        self._busy = False
        self._seconds = 2.0
        self.take_in: Callable[[], None] = lambda: None
        self._current: Order | None = None
        self.thread = Worker("vledit-edits", self._work, self._fell)

    @property
    def waiting(self) -> int:
        """Orders that wait."""
        return len(self._waiting)

    def submit(self, order: Order) -> dict[str, Any]:
        """Puts an order into the queue; returns its document.

        Raises: BusyError, ClosingError; StoreError where it cannot be noted.
        """
        with self._changed:
            if self._closing:
                raise ClosingError("the server is about to stop. Ask another one, or try again in a while.")
            if len(self._waiting) >= self._most:
                raise BusyError(f"{len(self._waiting)} edits are waiting already", len(self._waiting) * self._seconds)
        document = {
            "id": order.id,
            "object": "vledit.job",
            "status": "queued",
            "phase": "queued",
            "progress": {"done": 0, "total": 0},
            "created": order.created,
            "finished": None,
            "author": order.by.author,
            "reason": order.by.reason,
            "question": order.request.question,
            "answer": order.request.answer,
            "picture": order.request.image is not None,
            "editor": order.editor,
            "preview": not order.live,
            "result": None,
            "error": None,
        }
        self._note(order.id, document)
        with self._changed:
            self._waiting.append(order)
            self._changed.notify_all()
        return document

    def document(self, id: str) -> dict[str, Any]:
        """What became of an order so far.  Raises: UnknownNameError."""
        with self._changed:
            known = self._documents.get(id)
        if known is not None and known["status"] in ("queued", "running"):
            return dict(known)  # what runs here is known best here
        return self.jobs.get(id)

    def commit(self, id: str, by: By) -> dict[str, Any]:
        """Lets a previewed edit act.  Raises: UnknownNameError; InputError where there is no draft of it."""
        document = self.document(id)
        found = self._drafts.get(id)
        if found is None:
            raise InputError(
                f"id: job '{id}' has no draft to commit (it is {document['status']}). The newest {KEPT} drafts are kept. "
                "Preview it again."
            )
        about, entry = found
        report = EditReport(**about["report"])
        made = Made(
            about["id"], entry, tuple(about["retires"]), about["kind"], about["why"], report, tuple(about["hides"])
        )
        shipped = self._ship(id, document["editor"], made, By(by.author, by.reason or document["reason"]))
        self._drafts.delete(id)
        document = {**document, "status": "done", "phase": "done", "finished": now()}
        document["result"] = {**(document["result"] or {}), **shipped}
        self._note(id, document)
        return document

    def discard(self, id: str) -> dict[str, Any]:
        """Forgets a draft.  Raises: UnknownNameError; InputError where there is none."""
        document = self.document(id)
        if not self._drafts.delete(id):
            raise InputError(f"id: job '{id}' has no draft (it is {document['status']}).")
        document = {**document, "status": "discarded", "phase": "discarded", "finished": now()}
        self._note(id, document)
        return document

    def drain(self, seconds: float) -> bool:
        """Takes nothing new and waits for what is there; returns whether all of it is done."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            while (self._waiting or self._busy) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return not (self._waiting or self._busy)

    def _note(self, id: str, document: dict[str, Any], keep: bool = True) -> None:
        """Remembers a document, and writes it down for other replicas where it is worth it."""
        with self._changed:
            self._documents[id] = document
            while len(self._documents) > 200:
                self._documents.popitem(last=False)
        if keep:
            self.jobs.save(document)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                order, self._busy = self._waiting.popleft(), True
                self._current = order
            began = time.monotonic()
            self._carry_out(order)
            self._seconds += 0.3 * (time.monotonic() - began - self._seconds)
            with self._changed:
                self._busy, self._current = False, None
                self._changed.notify_all()

    def _fell(self, error: BaseException) -> None:
        """The thread fell out of its work: what it was at has failed."""
        with self._changed:
            order, self._current, self._busy = self._current, None, False
            self._changed.notify_all()
        if order is not None:
            document = self._failed(
                order, "UnexpectedError", "the thread that makes edits failed; the server's log has more."
            )
            self._note(order.id, document)

    def _carry_out(self, order: Order) -> None:
        try:
            document = self._make(order)
            outcome = document["status"]
        except VLEditError as error:
            outcome, document = "failed", self._failed(order, type(error).__name__, str(error))
        except Exception:
            log.exception("an edit failed", extra={"job": order.id})
            text = "an error that was not foreseen; the server's log has more."
            outcome, document = "failed", self._failed(order, "UnexpectedError", text)
        self.metrics.edits.labels(outcome).inc()
        log.info("edit %s", outcome, extra={"job": order.id, "author": order.by.author})
        try:
            self._note(order.id, document)
        except VLEditError as error:
            log.error("what became of an edit could not be written down", extra={"job": order.id, "reason": str(error)})

    def _failed(self, order: Order, kind: str, text: str) -> dict[str, Any]:
        document = {**self.document(order.id), "status": "failed", "phase": "failed", "finished": now()}
        return {**document, "error": {"type": kind, "message": text}}

    def _make(self, order: Order) -> dict[str, Any]:
        document = {**self.document(order.id), "status": "running", "phase": "training"}
        self._note(order.id, document)
        self.take_in()
        began = time.monotonic()
        made = self.model.make(order.request, order.editor, order.settings)
        self.metrics.edit_seconds.observe(time.monotonic() - began)
        result: dict[str, Any] = {
            "edit": made.id,
            "entry": None if made.entry is None else plain(entry_record(made.entry)),
            "relation": {"kind": made.kind, "replaces": list(made.retires), "explanation": made.why},
            "hides": list(made.hides),
            "seconds": made.report.seconds,
            "steps": made.report.steps,
            "loss": made.report.loss,
            "margin": made.report.margin,
            "revision": None,
        }
        if order.probes:
            total = len(order.probes)

            def progress(done: int) -> None:
                now_at = {"phase": "previewing", "progress": {"done": done, "total": total}}
                self._note(order.id, {**document, **now_at}, keep=False)

            progress(0)
            effects = self.model.effects(made, order.probes, progress)
            result["preview"] = preview_record(order.probes, order.names, effects)
        document = {**self.document(order.id), "result": result}
        if not order.live:
            about = {name: getattr(made, name) for name in ("id", "retires", "kind", "why", "hides")}
            self._drafts.save(order.id, order.created, {**about, "report": asdict(made.report)}, made.entry)
            return {**document, "status": "previewed", "phase": "previewed"}
        self._note(order.id, {**document, "phase": "committing"}, keep=False)
        result |= self._ship(order.id, order.editor, made, order.by)
        return {**document, "status": "done", "phase": "done", "finished": now(), "result": result}

    def _ship(self, job: str, editor: str, made: Made, by: By) -> dict[str, Any]:
        """Lets an edit act; what is the same fact is decided on the edits that are there at the moment of writing."""
        detail = {"job": job, "editor": editor, "margin": made.report.margin, "steps": made.report.steps}
        while True:
            self.take_in()
            at, settled = self.model.settled(made)
            try:
                if settled.entry is not None:
                    revision = self.store.add(settled.entry, settled.retires, by, detail, at)
                elif settled.kind == "revert" and settled.retires:
                    revision = self.store.revert(settled.retires, by, detail, at)
                else:
                    revision = at
            except MovedError:
                self.watch.tell(self.store.revision())
                continue
            self.watch.tell(revision)
            relation = {"kind": settled.kind, "replaces": list(settled.retires), "explanation": settled.why}
            return {"edit": settled.id, "relation": relation, "revision": revision}


def preview_record(probes: Sequence[Probe], names: Sequence[str], effects: Sequence[Effect]) -> dict[str, Any]:
    """What a would-be edit changes, for JSON."""
    rows = [
        {
            "probe": name,
            "question": probe.question,
            "picture": probe.image is not None,
            "before": effect.before,
            "after": effect.after,
            "changed": effect.before != effect.after,
            "fires": effect.fired,
            "distance": effect.distance,
            "radius": effect.radius,
            "explanation": effect.explanation,
        }
        for probe, name, effect in zip(probes, names, effects, strict=True)
    ]
    return {"probes": len(rows), "changed": sum(row["changed"] for row in rows), "rows": rows}
