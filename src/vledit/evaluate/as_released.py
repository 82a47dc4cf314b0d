"""Known mistakes of released code, reproduced on purpose: `vledit bench --as-released`.

Some printed figures of the papers cannot come from the methods they are printed for.  A variant with these mistakes, beside the
method itself on the same edits, shows which figures a mistake explains.  Nothing else in VLEdit contains these mistakes.

Sources: the code that was released with "transient blindness" (sev777/DE-VQA), qizhou000/LiveEdit, qizhou000/RECIPE,
zjunlp/EasyEdit, and BalancEdit's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..data.case import EditCase
from ..errors import InputError
from .manifest import Variant

if TYPE_CHECKING:
    from ..editors.base import Edit
    from .metrics import Estimate
    from .prepared import PreparedCase

SUFFIX = " as released"
INVERTED = ("liveedit", "recipe", "lte", "t_patcher", "lemoe")
"""Editors of "transient blindness" that were run in LiveEdit's harness: a De-VQA cell of theirs is printed as 1 − agreement."""


@dataclass(frozen=True)
class Way:
    """What the released code of one editor does.

    Args:
        says: the mistakes, a sentence each.
        blind: pictures are dropped from every request, before the edit and after it: the base is blind, too.
        until: no edit acts before so many were collected.
        words_only: which edit is cited is decided without the request's picture.
        answer_in_query: which edit is cited is decided from question and reference answer.
        answer_in_key: what an edit is found by is question and answer, too.
        shared: whichever entry is found, the newest edit's change acts.
        settings: of the editor, on top of the variant's own.
    """

    says: tuple[str, ...]
    blind: bool = False
    until: int = 0
    words_only: bool = False
    answer_in_query: bool = False
    answer_in_key: bool = False
    shared: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    def case(self, case: EditCase) -> EditCase:
        """The case as this code asks it."""
        return without_pictures(case) if self.blind else case

    def made(self, edit: Edit, memory: Any) -> None:
        """Changes what an edit is found by, in place, once a memory holds it."""
        if self.answer_in_key and edit.payload is not None:
            text = f"{edit.request.question} {edit.request.answer}"
            tensors: Any = edit.payload.tensors
            tensors["question"] = memory.features.questions([text])[0]
            memory.changed()

    def requests(self, prepared: PreparedCase) -> tuple[list[Any], list[str]]:
        """Pictures and questions as what decides on the edit sees them, row after row."""
        rows = range(len(prepared))
        pictures = [prepared.picture(0 if self.words_only else row) for row in rows]
        questions = [one.probe.question for one in prepared.asked]
        if self.answer_in_query:
            known = [one.base_answer if one.is_locality else one.target for one in prepared.asked]
            questions = [
                f"{question} {answer or ''}".strip() for question, answer in zip(questions, known, strict=True)
            ]
        return pictures, questions


WAYS: Mapping[str, Way] = {
    "lemoe": Way(
        ("an edit acts only when 20 are collected; with single edits the unedited model is scored",), until=20
    ),
    "recipe": Way(
        (
            "the wrapper drops the picture of every request, before and after the edit",
            "a request's text in the retrieval is question and reference answer",
        ),
        blind=True,
        answer_in_query=True,
    ),
    "serac": Way(
        (
            "the scope classifier does not see the picture",
            "its text is question and reference answer, so that a reliability probe is the stored fact word for word",
        ),
        words_only=True,
        answer_in_query=True,
        answer_in_key=True,
    ),
    "lte": Way(
        ("the descriptor is found by the question alone (cosine above 0.3)",),
        words_only=True,
        settings={"picture_weight": 0.0, "threshold": 0.3},
    ),
    "balancedit": Way(
        (
            "one transformation is shared by all keys: the newest edit's acts wherever any entry fires",
            "the key is measured with the answer in it, which no request has",
        ),
        shared=True,
        settings={"scope": "paper", "key_tokens": "prompt+answer"},
    ),
}
"""Editor → the way of its released code."""


@dataclass(frozen=True)
class Released(Variant):
    """A variant that makes the mistakes of `WAYS`."""

    released: bool = True

    @property
    def way(self) -> Way:
        return WAYS[self.editor]


def way_of(variant: Variant) -> Way | None:
    """The mistakes of a variant; None for a method as it is meant."""
    return variant.way if isinstance(variant, Released) else None


def beside(variants: Sequence[Variant]) -> list[Variant]:
    """Each variant, and after it the one with its released code's mistakes where such are known.

    Raises: InputError where none are known of any of them.
    """
    found: list[Variant] = []
    for one in variants:
        found.append(one)
        if one.editor in WAYS:
            settings = {**one.settings, **WAYS[one.editor].settings}
            found.append(Released(one.name + SUFFIX, one.editor, settings))
    if len(found) == len(variants):
        raise InputError(f"as-released: no mistakes are known of these editors, only of {', '.join(WAYS)}.")
    return found


def without_pictures(case: EditCase) -> EditCase:
    """The case with every picture dropped."""
    families = {
        family: {
            cell: tuple(replace(probe, image=None) for probe in probes)
            for cell, probes in getattr(case, family).items()
        }
        for family in ("generality", "locality", "portability")
    }
    return replace(case, request=replace(case.request, image=None), **families)


def as_printed(editor: str, row: Mapping[str, Estimate]) -> dict[str, float]:
    """De-VQA cell → the share that the released table script prints for it, from figures of ours.

    Of `INVERTED` editors that is 1 − agreement with the base by token (except T3 cells and T4I4); of the others 1 − accuracy
    on the edited answer by token.  Higher is better on the second scale and worse on the first; the tables do not say which
    is which.
    """
    found = {}
    for cell in cells(row):
        agreement, not_edited = row[f"{cell}_preserved_token"], row.get(f"{cell}_not_edited_answer_token")
        if editor in INVERTED:
            found[cell] = agreement.mean if cell.startswith("T3") or cell == "T4I4" else 1 - agreement.mean
        elif not_edited is not None:
            found[cell] = not_edited.mean
    return found


def cells(names: Iterable[str]) -> list[str]:
    """The De-VQA cells that there are figures of."""
    from ..data.devqa import LOCALITY_CELLS

    there = set(names)
    return [cell for cell in LOCALITY_CELLS if f"{cell}_preserved_token" in there]
