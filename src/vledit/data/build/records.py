"""The records that pass between the steps of a build: sources, what was made for them, and rejections with reasons."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

IMAGE, NEAR = "image", "near_image"
"""Roles of made pictures: another picture of the edited thing; a picture of the third answer's thing."""


@dataclass(frozen=True)
class SourceRecord:
    """One (picture, question, answer) of the user's.

    Args:
        answers: all answers that count as right, `answer` among them.
        category: as the source names it, or "".
        object: what the picture shows, where the source says it; else the language model is asked.
    """

    id: str
    picture: Path
    question: str
    answer: str
    answers: tuple[str, ...]
    category: str = ""
    object: str = ""


@dataclass(frozen=True)
class Rejection:
    """Something that did not get into the benchmark.

    Args:
        record: id of the source record.
        step: the step that rejected it ("counterfactual", "rephrase", "image", "near_image", "known", ...).
        item: the wording, or the name of the picture; "" where it is the record itself.
        reason: a sentence.
    """

    record: str
    step: str
    item: str
    reason: str


@dataclass
class Texts:
    """What the language model gave for a record; a step that failed leaves its field empty and a rejection."""

    counterfactual: str = ""
    rephrasings: list[str] = field(default_factory=list)
    object: str = ""
    third: str = ""
    third_object: str = ""
    text_questions: list[tuple[str, str]] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)


@dataclass(frozen=True)
class MadePicture:
    """A picture that a picture model made.

    Args:
        role: `IMAGE` or `NEAR`.
        key: SHA-256 of the file's bytes.
        right: whether it shows what was asked for, where its picture model knows (drawings), else None.
    """

    record: str
    role: str
    number: int
    prompt: str
    path: Path
    key: str
    right: bool | None = None


@dataclass(frozen=True)
class JudgedPicture:
    """A made picture, what the verifier said of it, and the verdict; `reason` is "" where it is accepted.

    Args:
        by: "verifier" or "human".
    """

    picture: MadePicture
    expected: str
    answer: str
    reason: str
    by: str = "verifier"

    @property
    def accepted(self) -> bool:
        return not self.reason
