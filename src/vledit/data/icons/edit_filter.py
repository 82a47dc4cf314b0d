"""Keep the edits whose question the base model answers rightly, and remember which in `edits.lock.json`.

An edit of something that the model never knew measures something else. The lock file is committed, so that everybody
scores the same cases; it names the data set and the model that it was made with.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vledit.data.cache import write_atomic
from vledit.data.case import EditCase
from vledit.data.icons.dataset import IconData, load
from vledit.data.icons.edits import EditSplit, candidates, make_case, split_concepts
from vledit.errors import MissingDataError

LOCK = Path(__file__).with_name("edits.lock.json")

Answer = Callable[[object, str], str]
"""(picture or None, question) -> the model's answer."""
AnswerMany = Callable[[Sequence[tuple[object, str]]], Sequence[str]]
"""The same for many (picture, question) at once, in order."""


@dataclass(frozen=True)
class EditLock:
    """Which edits are scored: ids by split, the seed, the data set's version and the model's name."""

    ids: dict[str, tuple[str, ...]]
    seed: int
    data_version: str
    model: str


def same_answer(given: str, truth: str) -> bool:
    """Tell whether two answers are one: case, accents, articles and full stops aside."""
    return _plain(given) == _plain(truth)


def answered_rightly(
    cases: Sequence[EditCase], answer: Answer | None = None, answer_many: AnswerMany | None = None
) -> list[EditCase]:
    """Return the cases whose request the base model answers with `base_answer`.

    Give either `answer` or `answer_many`. Raises: ValueError with neither or both, or a count that differs.
    """
    if (answer is None) == (answer_many is None):
        raise ValueError("give either answer or answer_many")
    asked = [(case.request.image, case.request.question) for case in cases]
    if answer_many is not None:
        given = list(answer_many(asked))
    else:
        assert answer is not None
        given = [answer(picture, question) for picture, question in asked]
    if len(given) != len(cases):
        raise ValueError(f"{len(cases)} questions were asked and {len(given)} answers came back")
    return [case for case, text in zip(cases, given, strict=True) if same_answer(text, case.base_answer)]


def write_lock(cases: Sequence[EditCase], data: IconData, model: str, seed: int = 0, path: Path = LOCK) -> EditLock:
    """Write the ids of the `cases` to keep, by split, one a line for readable diffs; return what was written."""
    ids: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for case in cases:
        ids[case.tags["split"]].append(case.id.removeprefix("icons/"))
    content = {"data": data.version, "model": model, "seed": seed, "ids": ids}
    write_atomic(path, (json.dumps(content, ensure_ascii=False, indent=0) + "\n").encode())
    return read_lock(path)


def read_lock(path: Path = LOCK) -> EditLock:
    """Return the committed choice of edits.

    Raises: MissingDataError where the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ids = {split: tuple(f"icons/{name}" for name in names) for split, names in content["ids"].items()}
        return EditLock(ids, content["seed"], content["data"], content["model"])
    except (OSError, ValueError, KeyError) as error:
        raise MissingDataError(f"no choice of edits in {path} ({error}); run: vledit data edits icons") from error


def load_edits(split: EditSplit, data: IconData | None = None, path: Path = LOCK) -> list[EditCase]:
    """Return the edits of `split` that the lock file names, in its order.

    Raises: MissingDataError where the lock or the data set is missing, or names a concept that this build lacks.
    """
    data = data or load()
    lock = read_lock(path)
    splits = split_concepts(data, lock.seed)
    cases = []
    for case_id in lock.ids.get(split, ()):
        concept_id, _, kind = case_id.removeprefix("icons/").rpartition("/")
        if concept_id not in data.concepts or splits[concept_id] != split:
            raise MissingDataError(
                f"{path.name} was made with another build of icons ({lock.data_version}, here {data.version}): "
                f"{case_id} does not fit; run: vledit data build icons"
            )
        cases.append(make_case(data, data.concepts[concept_id], kind, split, lock.seed))
    return cases


def filter_edits(
    data: IconData,
    model: str,
    answer: Answer | None = None,
    answer_many: AnswerMany | None = None,
    seed: int = 0,
    path: Path = LOCK,
) -> EditLock:
    """Ask a model every candidate's question and write the lock file of those that it answers rightly."""
    kept = answered_rightly(candidates(data, seed=seed), answer, answer_many)
    return write_lock(kept, data, model, seed, path)


def _plain(text: str) -> str:
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", " ", ascii_text).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in {"a", "an", "the"} else words)
