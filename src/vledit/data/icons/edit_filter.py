"""Keep the edits whose question the base model answers rightly, and remember which in `edits.lock.json`.

An edit of something that the model never knew measures something else. The lock file is committed, so that everybody
scores the same cases; it names the data set and the model that it was made with. It has three parts (`PARTS`), each of
which can be chosen anew without asking for the others again.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from vledit.data.cache import write_atomic
from vledit.data.case import EditCase
from vledit.data.icons.dataset import IconData, load
from vledit.data.icons.edits import HELD_OUT, candidates, make_case
from vledit.data.icons.kinds import NAME_KIND, split_concepts
from vledit.data.icons.model import Concept
from vledit.data.icons.splits import EditSplit
from vledit.data.icons.text_edits import general_case, text_candidates, text_case
from vledit.errors import MissingDataError

LOCK = Path(__file__).with_name("edits.lock.json")

Part = Literal["ids", "held_out", "text"]
"""Of the lock: edits of drawings that training saw; of drawings by held-out hands; of questions without a picture."""
PARTS: tuple[Part, ...] = ("ids", "held_out", "text")

Answer = Callable[[object, str], str]
"""(picture or None, question) -> the model's answer."""
AnswerMany = Callable[[Sequence[tuple[object, str]]], Sequence[str]]
"""The same for many (picture, question) at once, in order."""


@dataclass(frozen=True)
class EditLock:
    """Which edits are scored: ids by split for each part, the seed, the data set's version and the model's name."""

    ids: dict[str, tuple[str, ...]]
    seed: int
    data_version: str
    model: str
    held_out: dict[str, tuple[str, ...]] = field(default_factory=dict)
    text: dict[str, tuple[str, ...]] = field(default_factory=dict)


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


def write_lock(lock: EditLock, path: Path = LOCK) -> EditLock:
    """Write a lock, one id a line for readable diffs; return what was written."""
    parts = {
        part: {split: [name.removeprefix("icons/") for name in names] for split, names in getattr(lock, part).items()}
        for part in PARTS
    }
    content = {"data": lock.data_version, "model": lock.model, "seed": lock.seed, **parts}
    write_atomic(path, (json.dumps(content, ensure_ascii=False, indent=0) + "\n").encode())
    return read_lock(path)


def by_split(cases: Sequence[EditCase]) -> dict[str, tuple[str, ...]]:
    """Return the ids of cases by split, in their order."""
    splits = ("train", "validation", "test")
    return {split: tuple(case.id for case in cases if case.tags["split"] == split) for split in splits}


def read_lock(path: Path = LOCK) -> EditLock:
    """Return the committed choice of edits.

    Raises: MissingDataError where the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = {
            part: {split: tuple(f"icons/{name}" for name in names) for split, names in content[part].items()}
            for part in PARTS
            if part in content
        }
        lock = EditLock(parts["ids"], content["seed"], content["data"], content["model"])
        return replace(lock, **{part: ids for part, ids in parts.items() if part != "ids"})
    except (OSError, ValueError, KeyError) as error:
        raise MissingDataError(f"no choice of edits in {path} ({error}); run: vledit data edits icons") from error


def load_edits(split: EditSplit, data: IconData | None = None, path: Path = LOCK, part: Part = "ids") -> list[EditCase]:
    """Return the edits of `split` that a part of the lock file names, in its order.

    Raises: MissingDataError where the lock or the data set is missing, or names a concept that this build lacks.
    """
    data = data or load()
    lock = read_lock(path)
    return [_case(case_id, split, data, lock, path) for case_id in getattr(lock, part).get(split, ())]


def named_concepts(split: EditSplit, data: IconData | None = None, path: Path = LOCK) -> list[Concept]:
    """Return the concepts of `split` whose name is one of the lock's edits: those that the base recognises.

    Raises: see `load_edits`.
    """
    data = data or load()
    named = [case for case in load_edits(split, data, path) if case.tags["kind"] in NAME_KIND.values()]
    return [data.concepts[case.tags["concept"]] for case in named]


def _case(case_id: str, split: EditSplit, data: IconData, lock: EditLock, path: Path) -> EditCase:
    name = case_id.removeprefix("icons/")
    if name.startswith("text/general/"):
        return general_case(data, int(name.split("/")[2]), split, lock.seed)
    pictured, seen = not name.startswith("text/"), not name.endswith(f"/{HELD_OUT}")
    concept_id, _, kind = name.removeprefix("text/").removesuffix(f"/{HELD_OUT}").rpartition("/")
    if concept_id not in data.concepts or split_concepts(data, lock.seed)[concept_id] != split:
        raise MissingDataError(
            f"{path.name} was made with another build of icons ({lock.data_version}, here {data.version}): "
            f"{case_id} does not fit; run: vledit data build icons"
        )
    concept = data.concepts[concept_id]
    if pictured:
        return make_case(data, concept, kind, split, lock.seed, seen)
    return text_case(data, concept, kind, split, lock.seed)


def filter_edits(
    data: IconData,
    model: str,
    answer: Answer | None = None,
    answer_many: AnswerMany | None = None,
    seed: int = 0,
    path: Path = LOCK,
    parts: Sequence[Part] = PARTS,
) -> EditLock:
    """Ask a model the questions of the candidates and write the lock file of those that it answers rightly.

    Args:
        parts: which parts are asked for; the others stay as they are, where they are of the same model, data set and seed.

    Raises: MissingDataError where a part that is not asked for is of another model, data set or seed.
    """
    kept = EditLock({}, seed, data.version, model)
    if set(parts) != set(PARTS):
        there = read_lock(path)
        if (there.model, there.data_version, there.seed) != (model, data.version, seed):
            raise MissingDataError(
                f"{path.name} is of {there.model}, icons {there.data_version}, seed {there.seed}; here are {model}, "
                f"icons {data.version}, seed {seed}. Choose all parts again."
            )
        kept = there
    made: dict[Part, Callable[[], list[EditCase]]] = {
        "ids": lambda: candidates(data, seed=seed),
        "held_out": lambda: candidates(data, seed=seed, seen=False),
        "text": lambda: text_candidates(data, seed=seed),
    }
    for part in parts:
        kept = replace(kept, **{part: by_split(answered_rightly(made[part](), answer, answer_many))})
    return write_lock(kept, path)


def _plain(text: str) -> str:
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", " ", ascii_text).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in {"a", "an", "the"} else words)
