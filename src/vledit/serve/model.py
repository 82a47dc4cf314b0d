"""The served model: the only module of the server that knows how edits are made and how an edited model is run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ..codebook import Codebook, Entry
from ..data.case import EditRequest, Probe
from ..editors.edited_model import EditedModel
from ..editors.registry import editor as make_editor
from ..editors.registry import editor_class
from ..errors import InputError
from .asks import Ask, Reply
from .fixed import Fixed
from .lanes import open_lanes

if TYPE_CHECKING:
    from ..editors.base import EditorConfig, EditReport

EVERYWHERE = 1e30
"""A radius that every request lies within: what an edit would answer if it fired."""


@dataclass(frozen=True)
class Made:
    """An edit that was made but acts on nothing yet.

    Args:
        id: of the edit; of the one that is there already where `kind` is "same".
        entry: key, transformation, radius; None where nothing has to be kept.
        retires: ids of the edits whose place it takes.
        kind, why: how it relates to the edits that are there: "new", "overlap", "conflict", "same" (the fact is there
            already) or "revert" (the base gives this answer; the old edits have only to go).
        hides: ids of edits whose own request it answers instead, as their keys are equal.
    """

    id: str
    entry: Entry | None
    retires: tuple[str, ...]
    kind: str
    why: str
    report: EditReport
    hides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Effect:
    """What an edit does to one probe.

    Args:
        before, after: the answers without and with it.
        fired_before, fired: ids of the edits that answer, or None for the base.
        distance, radius: of the probe to the nearest edit, with it.
    """

    before: str
    after: str
    fired_before: str | None
    fired: str | None
    distance: float | None
    radius: float | None
    explanation: str


class ServedModel:
    """A base with the edits of one revision.

    `answer` runs in one thread for each lane, edits are made in another; the locks of the model objects keep their passes apart.

    Args:
        edited: a model without edits.
        fixed: edits beside those of the revision, which stay as they are.
        lanes: how many batches can be answered at once; 0: see `lanes.usual_lanes`.
    Raises: InputError where so many lanes cannot be opened.
    """

    def __init__(self, edited: EditedModel, fixed: Fixed | None = None, lanes: int = 1):
        self.vlm = edited.vlm
        self.fixed = fixed or Fixed()
        self.created = int(time.time())
        self.revision = -1
        self._edited = self.fixed.model(self.vlm, self._empty())
        self.lanes = open_lanes(self.vlm, self.fixed, lanes, self._edited.codebook)
        self._changing = threading.RLock()
        self._last = -1

    @property
    def name(self) -> str:
        return self.vlm.name

    @property
    def fingerprint(self) -> str:
        return self.vlm.fingerprint

    @property
    def most_tokens(self) -> int:
        """Tokens of an answer where the request names no number."""
        return self.vlm.max_answer_tokens

    def _empty(self) -> Codebook:
        return Codebook(fingerprint=self.vlm.fingerprint, model_name=self.vlm.name)

    def _with(self, entries: Iterable[Entry]) -> Codebook:
        book = self._empty()
        for entry in entries:
            book.add(entry)
        return book

    # --- which edits act --------------------------------------------------------------------------------------------

    def take_in(self, revision: int, active: Sequence[tuple[int, Entry]]) -> None:
        """Lets exactly these edits act.

        Args:
            active: (order, entry) of all active edits, oldest first: of equally near ones the newest answers.
        """
        with ExitStack() as stack:
            for lock in (self._changing, self.vlm.lock, *(lane.vlm.lock for lane in self.lanes)):
                stack.enter_context(lock)
            book = self._edited.codebook
            wanted = {entry.id: entry for _, entry in active}
            gone = [entry.id for entry in book.active() if wanted.get(entry.id) is not entry]
            fresh = [(order, entry) for order, entry in active if entry.id not in book or entry.id in gone]
            if all(order > self._last for order, _ in fresh):
                for id in gone:
                    book.purge(id)
                for _, entry in fresh:
                    book.add(entry)
            else:  # an older edit has come back, which must stand behind newer ones
                self._edited = self.fixed.model(self.vlm, self._with(entry for _, entry in active))
                for lane in self.lanes:
                    lane.show(self._edited.codebook)
            self._last = max([self._last, *(order for order, _ in active)])
            self.revision = revision

    # --- asking -----------------------------------------------------------------------------------------------------

    def answer(self, asks: Sequence[Ask], lane: int = 0, beside: int = 1) -> list[Reply]:
        """Answers asks of one kind together (`Ask.kind`) in one of the lanes; see `Lane.answer`."""
        return self.lanes[lane].answer(asks, lambda: self.revision, beside)

    def check_text(self, field: str, text: str) -> None:
        """Raises: InputError that names `field` where the model cannot be given this text."""
        try:
            text.encode()
            self.vlm.prompt(text, with_image=False)
        except UnicodeEncodeError:
            raise InputError(f"{field}: holds half of a character (a lone surrogate). Remove it.") from None
        except InputError as error:
            raise InputError(f"{field}: {error}") from error

    # --- editing ----------------------------------------------------------------------------------------------------

    def check_edit(self, request: EditRequest, editor: str, settings: Mapping[str, Any]) -> None:
        """Refuses what cannot be made, before anything is computed.

        Raises: InputError, UnknownNameError.
        """
        method = editor_class(editor)
        if not method.gated or hasattr(method, "memory"):
            raise InputError(
                f"editor: edits of '{editor}' are no codebook entries; only such can be made here. Make it with EditedModel, "
                "save it with save_pretrained, and start the server with --edits FOLDER."
            )
        self.fixed.check_id(request.id)
        check_settings(method.Config, settings)
        self.check_text("question", request.question)
        self.vlm.answer_tokens(request.question, request.answer, request.image is not None)

    def make(self, request: EditRequest, editor: str, settings: Mapping[str, Any]) -> Made:
        """Makes an edit; it acts on nothing yet.  Raises: InputError, EditFailedError."""
        method = make_editor(editor, **settings)
        book = self._edited.codebook
        made = method.edit(self.vlm, request, book)
        relation = made.relation
        if made.entry is None and (relation is None or relation.kind not in ("same", "revert")):
            raise InputError(f"editor: '{editor}' made no codebook entry; it cannot be served.")
        retires = () if relation is None else tuple(id for id in relation.retires if id in book)
        if self.fixed and (relation is None or relation.kind != "same"):
            left = [one for one in book.active() if one.id not in retires] + ([made.entry] if made.entry else [])
            with_it = self.fixed.model(self.vlm, self._with(left))
            self.fixed.check_answers(with_it, request, made.id if made.entry else None)
        return Made(
            made.id,
            made.entry,
            retires,
            "new" if relation is None else relation.kind,
            "The first edit." if relation is None else relation.explanation,
            made.report,
            () if made.entry is None else tuple(id for id in book.hidden_by(made.entry) if id not in retires),
        )

    def settled(self, made: Made) -> tuple[int, Made]:
        """The same edit, related to the edits that act now, where others may have come since it was made.

        Returns: the revision that this holds for, and the edit: of kind "same" where the fact has come meanwhile.
        """
        with self._changing:
            revision, book = self.revision, self._with(self._edited.codebook.active())
        if made.entry is None:
            return revision, replace(made, retires=tuple(id for id in made.retires if id in book))
        if made.entry.id in book:
            raise InputError(f"id: '{made.entry.id}' is taken by an edit. Choose another, or none.")
        held = book.add(made.entry, same_fact=str(made.entry.notes.get("same_fact", "record")))
        if held.id != made.entry.id:
            why = f"Edit '{held.id}', which came meanwhile, gives this answer already."
            return revision, replace(made, id=held.id, entry=None, retires=(), kind="same", why=why)
        retires = tuple(one.id for one in book.entries() if one.retired_by == held.id)
        return revision, replace(made, retires=retires)

    def effects(self, made: Made, probes: Sequence[Probe], progress: Callable[[int], object]) -> list[Effect]:
        """What an edit that does not act yet would change, probe by probe.

        Args:
            progress: called with the number of probes that are done.
        """
        with self._changing:
            kept = [one for one in self._edited.codebook.active() if one.id not in made.retires and one.id != made.id]
            kept += [] if made.entry is None else [made.entry]
        kept = kept if made.kind != "same" else list(self._edited.codebook.active())
        changed = self.fixed.model(self.vlm, self._with(kept))
        effects: list[Effect] = []
        for start in range(0, len(probes), 4):
            part = probes[start : start + 4]
            images, questions = [probe.image for probe in part], [probe.question for probe in part]
            before = self._edited.answers(images, questions)
            decisions = changed.route(images, questions)
            acts = any(new.entry != old.decision.entry for new, old in zip(decisions, before, strict=True))
            after = changed.answers(images, questions) if acts else before
            for old, new, decision in zip(before, after, decisions, strict=True):
                effects.append(
                    Effect(
                        old.text, new.text, old.decision.entry, decision.entry,
                        decision.distance, decision.radius, decision.explanation,
                    )
                )  # fmt: skip
            progress(len(effects))
        return effects

    def reach(self, entry: Entry, probes: Sequence[Probe]) -> list[tuple[float, str, str]]:
        """How far every probe lies from an edit, and what is answered there without and with it.

        Returns: per probe (distance, answer of the other edits or the base, answer where the edit fires).
        """
        with self._changing:
            others = [one for one in self._edited.codebook.active() if one.id != entry.id]
        wide = replace(entry, scopes=(replace(entry.scopes[0], radius=EVERYWHERE), *entry.scopes[1:]))
        without, alone = self.fixed.model(self.vlm, self._with(others)), EditedModel(self.vlm, self._with([wide]))
        found = []
        for start in range(0, len(probes), 4):
            part = probes[start : start + 4]
            images, questions = [probe.image for probe in part], [probe.question for probe in part]
            before, after = without.answers(images, questions), alone.answers(images, questions)
            for old, new in zip(before, after, strict=True):
                distance = new.decision.distance
                found.append((float("inf") if distance is None else distance, old.text, new.text))
        return found


def check_settings(config: type[EditorConfig], settings: Mapping[str, Any]) -> None:
    """Raises: UnknownNameError for a setting that the method has not, InputError for a value of another type or range."""
    hints = get_type_hints(config)
    for name, value in settings.items():
        if name in hints:
            try:
                TypeAdapter(hints[name]).validate_python(value, strict=True)
            except ValidationError as error:
                raise InputError(f"settings.{name}: {value!r} is not valid. {error.errors()[0]['msg']}.") from None
    config.from_settings(settings)
