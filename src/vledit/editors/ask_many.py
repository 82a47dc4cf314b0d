"""`ask_many`: the questions of a table, answered in batches, each with its explanation; an interrupted run can be continued."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..codebook.relation import Fact
from ..data.answer_file import DIGEST, AnswerFile
from ..data.question_rows import Asked, QuestionTable, question_table
from ..data.tables import Unfit
from ..errors import InputError

if TYPE_CHECKING:
    from .edited_model import EditedModel

CHUNK = 32
"""Rows between two writes of the file.  A run goes on with whole chunks, so that every batch, and with it every bit of a
distance, is that of a run that was not cut off."""


@dataclass(frozen=True)
class Answered:
    """A row's question and what the model answered.

    Args:
        expected: what the row's column `answer` says; None where it says nothing.
        base: what the model answers without its edits; None where that was not asked.
        edit: id of the edit that fired, or of the nearest one; None where there is none.
        fired: whether it fired.
        distance, radius: between the question's key and the edit's, and how far the edit reaches.
    """

    line: int
    question: str
    answer: str
    expected: str | None
    base: str | None
    edit: str | None
    fired: bool
    distance: float | None
    radius: float | None
    explanation: str

    @property
    def right(self) -> bool | None:
        """Whether the answer is the expected one, without regard to case and spacing; None where none is expected."""
        return None if self.expected is None else Fact("", self.answer).answers_as(Fact("", self.expected))


@dataclass(frozen=True)
class ManyAnswers:
    """The answers to a table's questions.

    Args:
        rows: in the order of the table.
        unfit: rows that could not be asked.
        there: how many of the answers were in the file already.
    """

    rows: tuple[Answered, ...]
    unfit: tuple[Unfit, ...] = ()
    there: int = 0
    seconds: float = 0.0

    @property
    def wrong(self) -> list[Answered]:
        """Rows that were not answered as the table expects."""
        return [row for row in self.rows if row.right is False]

    def record(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        expected = [row for row in self.rows if row.right is not None]
        return {
            "asked": len(self.rows) - self.there,
            "there": self.there,
            "fired": sum(row.fired for row in self.rows),
            "expected": len(expected),
            "right": len(expected) - len(self.wrong),
            "unfit": [dataclasses.asdict(one) for one in self.unfit],
            "rows": [dataclasses.asdict(row) | {"right": row.right} for row in self.rows],
            "seconds": self.seconds,
        }


def ask_many(
    model: EditedModel,
    rows: Any,
    out: str | Path | None = None,
    *,
    images: Sequence[str | Path] = (),
    base: bool = False,
    skip_unfit: bool = False,
    overwrite: bool = False,
    max_new_tokens: int | None = None,
    progress: Callable[[str, int, int], object] = lambda what, done, of: None,
) -> ManyAnswers:
    """Ask the model every question of a table.

    Args:
        rows: path of a CSV, JSON Lines, JSON or YAML file, a pandas DataFrame, a `datasets` table, or any iterable of mappings.
            Columns: question; and optionally image, answer (the expected one), id.
        out: a CSV, TSV or JSON Lines file to which the answers are written as they come. If it contains answers of an
            interrupted run, these are kept and only the rest is asked.
        images: folders in which relative picture paths are looked up, after the table's own.
        base: also ask the model without its edits.
        skip_unfit: leave invalid rows out; otherwise nothing is asked if there are any.
        overwrite: discard what is in `out`.
        progress: called with the kind of work ("asking"), how much of it is done, and of how much.

    Raises:
        InputError: rows are invalid and `skip_unfit` is not set (each is named); `out` contains answers to other questions, or
            of another model or other edits; or the table as a whole is invalid.
    """
    began = time.perf_counter()
    table = _table(model, rows, images)
    if table.unfit and not skip_unfit:
        lines = "".join(f"\n  {one}" for one in table.unfit)
        total = len(table.unfit) + len(table.rows)
        raise InputError(
            f"{len(table.unfit)} of {total} rows cannot be asked. Correct them, or leave them out "
            "(--skip-unfit, skip_unfit=True)." + lines
        )
    state = _state(model, base, max_new_tokens)
    digests = {row.line: _digest(state, row) for row in table.rows}
    file = None if out is None else AnswerFile(out, _columns(table, base))
    found: dict[int, Answered] = {}
    if file is not None:
        kept = [] if overwrite else _kept(file, digests)
        file.begin(kept)
        found = {one.line: one for one in map(_from_row, kept)}
    there = len(found)
    todo = [row for row in table.rows if row.line not in found]
    for start in range(0, len(todo), CHUNK):
        chunk = todo[start : start + CHUNK]
        done = dict(_asked(model, chunk, base, max_new_tokens, _shifted(progress, start, len(todo))))
        found |= done
        if file is not None:
            file.add(_as_row(row, done[row.line], digests[row.line], base) for row in chunk)
    progress("asking", len(todo), len(todo))
    answered = tuple(found[row.line] for row in table.rows)
    return ManyAnswers(answered, table.unfit, there, time.perf_counter() - began)


def _shifted(progress: Callable[[str, int, int], object], start: int, of: int) -> Callable[[int], object]:
    return lambda done: progress("asking", start + done, of)


def _table(model: EditedModel, rows: Any, images: Sequence[str | Path]) -> QuestionTable:
    return question_table(rows, images).refusing(
        lambda probe: model.vlm.prompt(probe.question, with_image=probe.image is not None)
    )


def _asked(
    model: EditedModel,
    chunk: Sequence[Asked],
    base: bool,
    max_new_tokens: int | None,
    progress: Callable[[int], object],
) -> Iterator[tuple[int, Answered]]:
    probes = [row.probe for row in chunk]
    asked = 0
    for some in model.vlm.batches(probes):
        progress(asked)
        images, questions = [probes[i].image for i in some], [probes[i].question for i in some]
        answers = model.answers(images, questions, max_new_tokens)
        without: list[Any] = [None] * len(some)
        if base:
            with model.disable():
                without = [one.text for one in model.answers(images, questions, max_new_tokens)]
        for i, answer, plain in zip(some, answers, without, strict=True):
            decision = answer.decision
            yield (
                chunk[i].line,
                Answered(
                    chunk[i].line,
                    probes[i].question,
                    answer.text,
                    probes[i].answer,
                    plain,
                    decision.entry if decision.fired else decision.nearest,
                    decision.fired,
                    decision.distance,
                    decision.radius,
                    answer.explanation,
                ),
            )
        asked += len(some)


# --- what is in the file --------------------------------------------------------------------------------------------------

OURS = ("line", "answer", "base_answer", "edit", "fired", "distance", "radius", "explanation", "right", DIGEST)
"""Columns beside the table's own. Its column `answer` is called `expected`; another one of these names gets `given_` before."""


def _given_name(name: str) -> str:
    return "expected" if name == "answer" else f"given_{name}" if name in (*OURS, "expected") else name


def _columns(table: QuestionTable, base: bool) -> list[str]:
    own = [_given_name(name) for name in table.columns]
    if "expected" not in own:
        own.append("expected")
    ours = [name for name in OURS if name != "base_answer" or base]
    return [ours[0], *own, *ours[1:]]


def _as_row(row: Asked, one: Answered, digest: str, base: bool) -> dict[str, Any]:
    """A row of the file."""
    own = {_given_name(str(name)): value for name, value in row.values.items()}
    own = {name: row.picture if name == "image" else value for name, value in own.items()}
    ours = {
        "line": one.line,
        "answer": one.answer,
        "edit": one.edit,
        "fired": one.fired,
        "distance": one.distance,
        "radius": one.radius,
        "explanation": one.explanation,
        "right": one.right,
        DIGEST: digest,
    }
    return _WithGaps({**own, "expected": one.expected, **ours, **({"base_answer": one.base} if base else {})})


class _WithGaps(dict[str, Any]):
    """A row that need not have every column."""

    def __missing__(self, name: str) -> None:
        return None


def _from_row(row: dict[str, Any]) -> Answered:
    def number(name: str) -> float | None:
        return None if row[name] in (None, "") else float(row[name])

    def text(name: str) -> str | None:
        return None if row.get(name) in (None, "") else str(row[name])

    return Answered(
        int(row["line"]),
        str(row["question"]),
        str(row["answer"]),
        text("expected"),
        row.get("base_answer"),
        text("edit"),
        row["fired"] in (True, "yes"),
        number("distance"),
        number("radius"),
        str(row["explanation"]),
    )


def _kept(file: AnswerFile, digests: dict[int, str]) -> list[dict[str, Any]]:
    """The rows of an earlier run, in whole chunks.

    Raises: InputError where they are not of these questions and this model.
    """
    rows = file.read()
    for row, line in zip(rows, [*digests, *[None] * len(rows)], strict=False):
        if line is None or (str(line), digests[line]) != (str(row["line"]), row[DIGEST]):
            raise InputError(
                f"out: '{file.path}' holds answers to other questions, or of another model or other edits (line {row['line']}). "
                "Give another path, or ask for it to be overwritten (--overwrite, overwrite=True)."
            )
    return rows if len(rows) == len(digests) else rows[: len(rows) // CHUNK * CHUNK]


def _state(model: EditedModel, base: bool, max_new_tokens: int | None) -> str:
    """All that an answer depends on beside its question."""
    entries = [[entry.id, entry.created, entry.answer] for entry in model.codebook.active()]
    memories = {name: [one.edit.id for one in memory.active()] for name, memory in model.memories.items()}
    return json.dumps([model.vlm.fingerprint, entries, list(model.weights), memories, base, max_new_tokens])


def _digest(state: str, row: Asked) -> str:
    text = json.dumps([state, row.probe.question, row.key, row.probe.answer])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
