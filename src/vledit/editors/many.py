"""`edit_many`: the edits of a table, made one after the other; those that exist already are skipped, so a run can be resumed.

The only record of progress are the edits themselves: a row is done if an active edit gives its answer to its question
about its picture.  So a run that was killed and started again ends with the same edits as an undisturbed one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..codebook.entry import BY_HAND
from ..codebook.relation import Fact, holding
from ..data.case import Probe
from ..data.edit_rows import EditTable, Instead, Wanted, edit_table
from ..data.tables import Unfit
from ..errors import EditFailedError, InputError
from ..vlm.pictures import picture_key
from .registry import editor as make_editor
from .together import EDITS, begun_together

if TYPE_CHECKING:
    from .edited_model import Answer, EditedModel

DONE = ("made", "there", "not needed")
"""Outcomes after which the model gives the row's answer."""


@dataclass(frozen=True)
class RowResult:
    """The result of one row.

    Args:
        outcome: "made" | "there" (the edit existed before) | "not needed" (the base gives this answer) | "failed" (the
            model did not learn it, or it was refused; run again to retry).
        edit: id of the edit; "" if there is none.
        retired: ids of older edits that it replaced.
        inside: id of an older edit whose radius contains this one; both stay, and the nearer one answers.
        hides: ids of older edits that no longer answer their own request.
        reason: why it failed.
        answer: the answer of the edited model at the check; None if it was not asked.
        right: whether that is the row's answer.
    """

    line: int
    question: str
    wanted: str
    outcome: str
    edit: str = ""
    retired: tuple[str, ...] = ()
    inside: str | None = None
    hides: tuple[str, ...] = ()
    reason: str = ""
    seconds: float = 0.0
    answer: str | None = None
    right: bool | None = None


@dataclass(frozen=True)
class Unrelated:
    """A question that no edit is about: its answers without and with the edits."""

    question: str
    before: str
    after: str
    edit: str | None

    @property
    def changed(self) -> bool:
        return self.before != self.after


@dataclass(frozen=True)
class ManyEdits:
    """The report of `edit_many`.

    Args:
        rows: what became of every row that was fit, in the order of the table.
        unfit: rows that could not be used.
        instead: rows in whose place another row of the table stands.
        unused: columns that mean nothing to `edit_many`.
        unrelated: the sample of questions that no edit is about; empty where none was asked for.
        seconds: of the whole run.
    """

    rows: tuple[RowResult, ...]
    unfit: tuple[Unfit, ...] = ()
    instead: tuple[Instead, ...] = ()
    unused: tuple[str, ...] = ()
    unrelated: tuple[Unrelated, ...] = ()
    seconds: float = 0.0

    def count(self, outcome: str) -> int:
        """How many rows had this outcome."""
        return sum(row.outcome == outcome for row in self.rows)

    @property
    def wrong(self) -> list[RowResult]:
        """Rows that were asked at the end and not answered as they should be."""
        return [row for row in self.rows if row.right is False]

    @property
    def changed(self) -> list[Unrelated]:
        """Unrelated questions that are answered differently."""
        return [one for one in self.unrelated if one.changed]

    def record(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "made": self.count("made"),
            "there": self.count("there"),
            "not_needed": self.count("not needed"),
            "failed": self.count("failed"),
            "unfit": [dataclasses.asdict(one) for one in self.unfit],
            "instead": [dataclasses.asdict(one) for one in self.instead],
            "unused_columns": list(self.unused),
            "wrong": [row.line for row in self.wrong],
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "unrelated": [dataclasses.asdict(one) | {"changed": one.changed} for one in self.unrelated],
            "seconds": self.seconds,
        }


@dataclass
class Plan:
    """What a run would do, before it does it.

    Args:
        todo: rows whose edit is still to be made; `done`: rows with the id of the edit that is there.
    """

    table: EditTable
    todo: list[Wanted] = field(default_factory=list)
    done: dict[int, str] = field(default_factory=dict)
    replaces: dict[int, tuple[str, ...]] = field(default_factory=dict)


def edit_many(
    model: EditedModel,
    rows: Any,
    editor: str = "balancedit",
    *,
    images: Sequence[str | Path] = (),
    columns: Mapping[str, str] | None = None,
    skip_unfit: bool = False,
    check: bool = True,
    unrelated: Sequence[Probe] = (),
    progress: Callable[[str, int, int], object] = lambda what, done, of: None,
    **settings: Any,
) -> ManyEdits:
    """Make the edits that a table asks for and add them to the model.

    Args:
        rows: path of a CSV, JSON Lines, JSON or YAML file, a pandas DataFrame, a `datasets` table, any iterable of mappings or of
            `EditRequest`s, or an `EditTable`. Columns: question, answer; and optionally image, rephrases, id, note.
        images: folders in which relative picture paths are looked up, after the table's own.
        columns: name → the table's own name for it.
        skip_unfit: leave invalid rows out; otherwise nothing is edited if there are any.
        check: ask the model every row's question once at the end, in batches.
        unrelated: questions that no edit is about, asked without and with the edits at the end.
        progress: called with the kind of work ("editing", "checking"), how much of it is done, and of how much.
        settings: of the editor.

    Raises:
        InputError: rows are invalid and `skip_unfit` is not set (each is named), or the table or a setting is invalid.
    """
    began = time.perf_counter()
    method = make_editor(editor, **settings)
    plan = planned(model, rows, images, columns)
    if plan.table.unfit and not skip_unfit:
        raise InputError(unfit_text(plan.table))
    found: dict[int, RowResult] = {}
    for one in plan.table.wanted:
        if one.line in plan.done:
            found[one.line] = _result(one, "there", plan.done[one.line])
    for number, (one, begun) in enumerate(_begun(model, method, plan)):
        progress("editing", number, len(plan.todo))
        found[one.line] = _make(model, method, one, begun)
    progress("editing", len(plan.todo), len(plan.todo))
    results = [found[one.line] for one in plan.table.wanted]
    if check:
        results = _checked(model, plan.table.wanted, results, progress)
    sample = _unrelated(model, unrelated) if unrelated else []
    return ManyEdits(
        tuple(results),
        plan.table.unfit,
        plan.table.instead,
        plan.table.unused,
        tuple(sample),
        time.perf_counter() - began,
    )


def planned(
    model: EditedModel, rows: Any, images: Sequence[str | Path] = (), columns: Mapping[str, str] | None = None
) -> Plan:
    """What `edit_many` would do; nothing is changed."""
    table = rows if isinstance(rows, EditTable) else edit_table(rows, images, columns)
    entries = model.codebook.entries()
    taken = {entry.id: entry for entry in entries}
    ids = set(model.edits())
    other = dict(_other_facts(model))
    done: dict[int, str] = {}

    def check(one: Wanted) -> None:
        with_image = one.request.image is not None
        model.vlm.prompt(one.request.question, with_image)
        model.vlm.answer_tokens(one.request.question, one.request.answer, with_image)
        alike = [entry for entry in entries if entry.status == "active" and entry.image_key == one.fact.image_key]
        same = holding(alike, one.fact)
        held = same.same if same is not None else next((i for i, f in other.items() if _same(f, one.fact)), None)
        if held is not None:
            done[one.line] = held
        elif one.request.id in ids:
            status = taken[one.request.id].status if one.request.id in taken else "active"
            way = "give the row another id" if status == "active" else "`restore` it, or give the row another id"
            raise InputError(f"id: '{one.request.id}' is taken by an edit that is {status}: {way}")

    plan = Plan(table.refusing(check))
    for one in plan.table.wanted:
        if one.line in done:
            plan.done[one.line] = done[one.line]
            continue
        plan.todo.append(one)
        rivals = tuple(e.id for e in entries if e.status == "active" and Fact.of(e).asks_as(one.fact))
        if rivals:
            plan.replaces[one.line] = rivals
    return plan


def unfit_text(table: EditTable, most: int = 50) -> str:
    """Every unfit row, one a line."""
    lines = [f"  {one}" for one in table.unfit[:most]]
    if len(table.unfit) > most:
        lines.append(f"  … and {len(table.unfit) - most} more")
    left_out = "Correct them, or leave them out (--skip-unfit, skip_unfit=True)."
    text = f"{len(table.unfit)} of {table.rows} rows cannot be used. {left_out}"
    return "\n".join([text, *lines])


def _same(first: Fact, second: Fact) -> bool:
    return first.asks_as(second) and first.answers_as(second)


def _other_facts(model: EditedModel) -> Iterator[tuple[str, Fact]]:
    """Facts of active edits that are no codebook entries."""
    held = [*model.weights.values(), *(one.edit for memory in model.memories.values() for one in memory.active())]
    for edit in held:
        request = edit.request
        key = edit.image_key or (None if request.image is None else picture_key(request.image))
        yield edit.id, Fact(request.question, request.answer, key, tuple(request.rephrases))


def _begun(model: EditedModel, method: Any, plan: Plan) -> Iterator[tuple[Wanted, Any]]:
    """Rows that are still to be made, each with what the method begins of it together with the rows beside it in the table.

    Rows that are done are begun with the others: so a run that goes on has the bits of one that was not interrupted.
    """
    todo, rows = {one.line for one in plan.todo}, plan.table.wanted
    for start in range(0, len(rows), EDITS):
        block = rows[start : start + EDITS]
        if any(one.line in todo for one in block):
            begun = begun_together(model.vlm, method, [one.request for one in block])
            yield from ((one, made) for one, (_, made) in zip(block, begun, strict=True) if one.line in todo)


def _make(model: EditedModel, method: Any, one: Wanted, begun: Any = None) -> RowResult:
    began = time.perf_counter()
    if _base_was_enough(model, one):
        return _result(one, "not needed")
    try:
        made = model.make(method, one.request, begun)
        if one.note and made.entry is not None:
            notes = {**made.entry.notes, "note": one.note}
            made = dataclasses.replace(made, entry=dataclasses.replace(made.entry, notes=notes))
        made = model.add(made)
    except (EditFailedError, InputError) as error:
        return _result(one, "failed", reason=str(error), seconds=time.perf_counter() - began)
    kind = "new" if made.relation is None else made.relation.kind
    outcome = {"same": "there", "revert": "not needed"}.get(kind, "made")
    relation = made.relation
    return _result(
        one,
        outcome,
        "" if kind == "revert" else made.id,
        retired=() if relation is None else relation.retires,
        inside=None if relation is None else relation.inside,
        hides=() if made.entry is None else tuple(model.codebook.hidden_by(made.entry)),
        seconds=time.perf_counter() - began,
    )


def _base_was_enough(model: EditedModel, one: Wanted) -> bool:
    """Whether an earlier run retired an edit for this row because the base gives the answer: then nothing is left to do."""
    entries = model.codebook.entries()
    about = [entry for entry in entries if entry.image_key == one.fact.image_key and Fact.of(entry).asks_as(one.fact)]
    if not any(entry.retired_by == BY_HAND for entry in about) or any(entry.status == "active" for entry in about):
        return False
    return bool(model.verify([one.request.image], [one.request.question], [one.request.answer]).exact[0])


def _result(one: Wanted, outcome: str, edit: str = "", **more: Any) -> RowResult:
    return RowResult(one.line, one.request.question, one.request.answer, outcome, edit, **more)


def _checked(
    model: EditedModel, wanted: Sequence[Wanted], results: list[RowResult], progress: Callable[[str, int, int], object]
) -> list[RowResult]:
    rows = [number for number, row in enumerate(results) if row.outcome in DONE]
    requests = [wanted[number].request for number in rows]
    asked = 0
    for some in model.vlm.batches(requests) if requests else ():
        progress("checking", asked, len(rows))
        part = [requests[i] for i in some]
        answers: list[Answer] = model.answers([one.image for one in part], [one.question for one in part])
        for i, answer in zip(some, answers, strict=True):
            text = answer.text
            right = Fact("", text).answers_as(Fact("", requests[i].answer))
            results[rows[i]] = dataclasses.replace(results[rows[i]], answer=text, right=right)
        asked += len(some)
    progress("checking", len(rows), len(rows))
    return results


def _unrelated(model: EditedModel, probes: Sequence[Probe]) -> list[Unrelated]:
    found: dict[int, Unrelated] = {}
    for some in model.vlm.batches(probes):
        images, questions = [probes[i].image for i in some], [probes[i].question for i in some]
        with model.disable():
            before = model.answers(images, questions)
        for i, old, new in zip(some, before, model.answers(images, questions), strict=True):
            found[i] = Unrelated(probes[i].question, old.text, new.text, new.decision.entry)
    return [found[i] for i in range(len(probes))]
