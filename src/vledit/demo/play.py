"""Plays the demo: ask, edit, ask again, remove the edit, ask a third time and compare."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..data.case import EditRequest
from .story import Question, Story, is_right, write_story

if TYPE_CHECKING:
    from ..codebook import Decision, Entry
    from ..data.icons import IconData
    from ..editors.base import Edit

Verdict = Literal["follows", "stays", "missed", "leaked", "reported"]
Step = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Row:
    """One question with its three answers.

    Args:
        before, after, restored: the answer of the base, with the edit, and after the edit was removed.
        decision: what the router said while the edit was there.
        seconds: that the answer with the edit took.
    """

    question: Question
    before: str
    after: str
    restored: str
    decision: Decision
    seconds: float
    new: str

    @property
    def base_right(self) -> bool | None:
        """Whether the base answered rightly before the edit; None where no right answer is known."""
        return None if self.question.right is None else is_right(self.before, self.question.right)

    @property
    def changed(self) -> bool:
        return self.after != self.before

    @property
    def verdict(self) -> Verdict:
        """What became of the row, against what the method promises."""
        if self.question.expected == "open":
            return "reported"
        if self.question.expected == "new":
            return "follows" if is_right(self.after, self.new) else "missed"
        return "leaked" if self.changed else "stays"


@dataclass(frozen=True)
class Played:
    """Everything the table, the page and `--json` show."""

    story: Story
    rows: tuple[Row, ...]
    edit: Edit
    model_name: str
    data_version: str
    weights_before: str
    weights_after: str

    @property
    def entry(self) -> Entry:
        assert self.edit.entry is not None
        return self.edit.entry

    @property
    def undone(self) -> bool:
        """Whether after the removal every answer and every bit of the weights are as before."""
        return self.weights_before == self.weights_after and all(row.restored == row.before for row in self.rows)

    def tally(self, *kinds: str) -> tuple[int, int]:
        """(rows that did as promised, rows) of these kinds."""
        rows = [row for row in self.rows if row.question.kind in kinds]
        return sum(row.verdict in ("follows", "stays") for row in rows), len(rows)

    @property
    def seconds_per_answer(self) -> float:
        """Median over the rows, with the edit in place."""
        taken = sorted(row.seconds for row in self.rows)
        return taken[len(taken) // 2]


def play(
    model: Any,
    data: IconData,
    brand: str | None = None,
    answer: str | None = None,
    step: Step = lambda what, done, total: None,
    keep: Path | None = None,
) -> Played:
    """Plays it on an `EditedModel` without edits, which is as before when this returns.

    Args:
        brand, answer: whose mark is renamed to what; None: see `write_story`.
        keep: a file that a copy of the codebook is written to while the edit is in it.

    Raises: what `write_story` and `EditedModel.edit` raise.
    """
    looked = 0

    def ask(image: Any, question: str) -> str:
        nonlocal looked
        looked += 1
        step("choosing marks that the base knows", looked, 0)
        return model.answer(image, question).text

    story = write_story(data, ask, brand, answer)
    weights = weights_digest(model)
    before = [found.text for found, _ in _ask_all(model, story, step, "asking the base")]
    step("editing", 0, 1)
    request = EditRequest(story.edited.image, story.question, story.answer, story.rephrases, _slug(story))
    edit = model.edit(request)
    step("editing", 1, 1)
    if keep is not None:
        model.codebook.save(keep, overwrite=True)
    after = _ask_all(model, story, step, "asking with the edit")
    model.remove(edit.id)
    restored = [found.text for found, _ in _ask_all(model, story, step, "asking after removing the edit")]
    rows = tuple(
        Row(question, old, found.text, back, found.decision, seconds, story.answer)
        for question, old, (found, seconds), back in zip(story.questions, before, after, restored, strict=True)
    )
    return Played(story, rows, edit, model.vlm.name, data.version, weights, weights_digest(model))


def _ask_all(model: Any, story: Story, step: Step, what: str) -> list[tuple[Any, float]]:
    """(answer, seconds) for every question, one at a time as a user would ask."""
    found = []
    for index, question in enumerate(story.questions):
        step(what, index, len(story.questions))
        began = time.perf_counter()
        answer = model.answer(question.image, question.question)
        found.append((answer, time.perf_counter() - began))
    step(what, len(story.questions), len(story.questions))
    return found


def _slug(story: Story) -> str:
    return f"{story.brand}-to-{story.answer}".lower().replace(" ", "-")


def weights_digest(model: Any) -> str:
    """SHA-256 over every parameter of the base, 16 hex digits; "" for a model that has none to show."""
    inner = getattr(model.vlm, "model", None)
    if inner is None:
        return ""
    import torch

    digest = hashlib.sha256()
    for name, tensor in inner.named_parameters():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
