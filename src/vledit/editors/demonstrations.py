"""Prompts for editing in context: demonstrations of how a new fact is used, and the new fact before the question.

Source: Zheng et al., IKE, EMNLP 2023, in the wording of EasyEdit: "New Fact: … / Prompt: …".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..data.case import EditCase
from ..errors import InputError
from ..vlm.base import VLM
from .effect import Insert


def new_fact(question: str, answer: str) -> str:
    """What stands before the question that is asked."""
    return f"New Fact: {question} {answer}\nPrompt: "


def of_case(case: EditCase) -> list[str]:
    """An "update" (the fact asked in other words) and a "copy" (the fact asked as it is) of a training edit."""
    request = case.request
    asked = [*request.rephrases[:1], request.question]
    return [f"{new_fact(request.question, request.answer)}{text} {request.answer}\n\n" for text in asked]


def spread_out(vectors: np.ndarray, count: int) -> list[int]:
    """Numbers of `count` rows that lie far from each other: each next one is farthest from those that are chosen."""
    if not len(vectors):
        return []
    chosen = [0]
    nearest = vectors @ vectors[0]
    while len(chosen) < min(count, len(vectors)):
        further = int(nearest.argmin())
        chosen.append(further)
        nearest = np.maximum(nearest, vectors @ vectors[further])
    return chosen


def chosen_for(fact: np.ndarray, vectors: np.ndarray, count: int) -> list[int]:
    """Numbers of the `count` nearest rows, nearest first, of equal ones the first."""
    similar = (vectors.astype(np.float64) * fact.astype(np.float64)).sum(1)
    return np.argsort(-similar, kind="stable")[:count].tolist()


def prompt_with(
    vlm: VLM, demonstrations: Sequence[str], fact: str, question: str, image: Any, max_characters: int
) -> Insert:
    """The demonstrations, nearest first, and the fact; the last ones are left out, whole, until the prompt fits.

    The fact itself is never cut: where it does not fit even alone, encoding the prompt says so.
    """
    for kept in range(len(demonstrations), -1, -1):
        insert = Insert(before="".join(demonstrations[:kept]) + fact)
        if kept == 0 or (len(insert.before) + len(question) <= max_characters and _fits(vlm, insert, question, image)):
            return insert
    raise AssertionError("unreachable")


def _fits(vlm: VLM, insert: Insert, question: str, image: Any) -> bool:
    try:
        vlm.prompt(insert.question(question), image is not None)
    except InputError:
        return False
    return True


def texts_of(cases: Iterable[EditCase]) -> list[list[str]]:
    """The demonstrations of each case."""
    return [of_case(case) for case in cases]
