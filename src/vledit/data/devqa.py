"""De-VQA: for every edit of any benchmark, the 16 pairs of four questions and three pictures or none.

Source: "transient blindness" (De-VQA), Eq. 6 and Fig. 2. T1, I1: the edited question and picture. T2, I2: the nearest record
by its question (all-MiniLM-L6-v2, cosine). T3, I3: an unrelated question and its picture. T4: a question without a picture;
I4: no picture, asked by the family's own text-only path. T1I1 is the edit itself, whose figure is reliability; the other 15
are locality cells, named "T1I2" and so on, beside those that the benchmark has by itself.

Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vledit.data.cache import cache_root
from vledit.data.case import EditCase, Probe

if TYPE_CHECKING:
    from vledit.retrieval import Index

TEXTS = ("T1", "T2", "T3", "T4")
PICTURES = ("I1", "I2", "I3", "I4")
EDIT = "T1I1"
CELLS = tuple(f"{text}{picture}" for text in TEXTS for picture in PICTURES)
"""All 16, row by row; `EDIT` is scored as reliability."""
LOCALITY_CELLS = tuple(cell for cell in CELLS if cell != EDIT)
CLASSES: Mapping[str, tuple[str, ...]] = {
    "RI": ("T1I3", "T3I1"),
    "NI": ("T1I4", "T2I4"),
    "CI": ("T1I2", "T2I1", "T2I2"),
    "image": ("T3I3",),
    "text": ("T4I4",),
}
"""Random image, no image, consistent image; and the two cells that benchmarks had before (I-Loc, T-Loc)."""
ADVERSARIAL = (*CLASSES["RI"], *CLASSES["NI"], *CLASSES["CI"])
SCOPE_TAG = "concept"
"""Tag of cases and probes that names what the picture shows, in benchmarks that have it."""
_OWN_PAIRS = ("T2I2", "T3I3", "T4I4")
_UNCLEAN = "unclean"


@dataclass(frozen=True)
class Chosen:
    """What was found for one edit; None where the pool has nothing fit.

    Args:
        similar: T2 and I2 as a probe, of which record it is and its cosine to T1.
        unrelated: T3 and I3. text: T4.
    """

    similar: Probe | None
    record: str
    similarity: float
    unrelated: Probe | None
    text: Probe | None


class DevQA:
    """Wraps cases of one benchmark.

    T2 is the first of the ranking that has a picture, shows another thing, asks something else than T1 (not the same in
    other words, as far as the benchmark's own rephrasings tell), and none of whose answers (new or old) is one of the
    edit's two.  Of equal similarity, a draw that depends on both records' ids alone.

    Args:
        pool: the records that are retrieved from: all cases of the benchmark, not only those that are run.
        index: of `questions(pool)`, or empty: then they are added to it.
        seed: of the draws among equals.
    """

    def __init__(self, pool: Sequence[EditCase], index: Index, seed: int = 0):
        self.pool, self.index, self.seed = list(pool), index, seed
        if not len(index):
            index.add(questions(pool))
        self._of_question: dict[str, list[EditCase]] = defaultdict(list)
        for case in self.pool:
            self._of_question[case.request.question].append(case)

    def wrap(self, case: EditCase) -> EditCase:
        """The case with the De-VQA cells that can be made, each of one probe."""
        return replace(case, locality={**case.locality, **self.cells(case)})

    def wrap_all(self, cases: Sequence[EditCase]) -> list[EditCase]:
        """`wrap` for each; their questions are encoded together."""
        new = [c.request.question for c in cases if c.request.question not in self._vectors]
        if new:
            self.index.add(list(dict.fromkeys(new)))
            self.__dict__.pop("_vectors", None)
        return [self.wrap(case) for case in cases]

    def cells(self, case: EditCase) -> dict[str, tuple[Probe, ...]]:
        """Cell → its probe.  An edit without a picture has no I1, and its T1I4 is the edit itself: these are left out."""
        found = self.choose(case)
        edited = Probe(case.request.image, case.request.question)
        texts = {"T1": edited, "T2": found.similar, "T3": found.unrelated, "T4": found.text}
        pictures = {"I1": edited, "I2": found.similar, "I3": found.unrelated}
        cells = {}
        for cell in LOCALITY_CELLS:
            text, source = texts[cell[:2]], pictures.get(cell[2:])
            image = None if source is None else source.image
            if text is None or (cell[2:] != "I4" and image is None):
                continue
            if cell == "T1I4" and edited.image is None:
                continue
            tags = {"class": next((name for name, some in CLASSES.items() if cell in some), "other")}
            if "2" in cell:
                tags |= {"similar": found.record, "similarity": f"{found.similarity:.3f}"}
            answer = text.answer if cell in _OWN_PAIRS else None
            cells[cell] = (Probe(image, text.question, answer, tags, cell),)
        return cells

    def choose(self, case: EditCase) -> Chosen:
        """T2 to T4 and I2, I3 of a case."""
        near = next(self._ranking(case), None)
        similar = None if near is None else Probe(near[0].request.image, near[0].request.question)
        record, similarity = ("", float("nan")) if near is None else (near[0].id, near[1])
        own, texts = case.locality.get("random_image", ()), case.locality.get("text", ())
        unrelated = own[0] if own else self._unrelated(case, record)
        text = texts[0] if texts else self._other_text(case)
        return Chosen(similar, record, similarity, unrelated, text)

    def fit_records(self, case: EditCase) -> list[EditCase]:
        """Every record that could be T2 and I2, the nearest question first."""
        return [record for record, _ in self._ranking(case)]

    # --- T2 -----------------------------------------------------------------------------------------------------

    def _ranking(self, case: EditCase) -> Iterator[tuple[EditCase, float]]:
        """(record, cosine) of all fit records, the nearest question first."""
        asked = case.request.question
        relation = self._relation(asked)
        for question, cosine in self._similar(asked):
            if self._relation(question) == relation:
                continue
            records = [one for one in self._of_question.get(question, ()) if self._fit(case, one)]
            for record in sorted(records, key=lambda one: self._draw(case.id, one.id)):
                yield record, cosine

    def _similar(self, question: str) -> Iterator[tuple[str, float]]:
        """All questions of the index with their cosines, the nearest first."""
        vector = self._vectors.get(question)
        query = self.index.encoder.encode([question]) if vector is None else vector[None]
        numbers, cosines = self.index.search_vectors(query, k=len(self.index))
        for number, cosine in zip(numbers[0].tolist(), cosines[0].tolist(), strict=True):
            yield self.index.texts[number], cosine

    @cached_property
    def _vectors(self) -> dict[str, Any]:
        return dict(zip(self.index.texts, self.index.vectors, strict=True))

    def _fit(self, case: EditCase, record: EditCase) -> bool:
        if record.id == case.id or record.request.image is None:
            return False
        own = {_norm(case.request.answer), _norm(case.base_answer)}
        if own & self._facts(record) - {""}:
            return False
        thing = case.tags.get(SCOPE_TAG)
        if thing is not None and thing == record.tags.get(SCOPE_TAG):
            return False
        shown = [case.request.image, *(probe.image for probe in case.generality.get("image", ()))]
        return record.request.image not in shown

    def _facts(self, record: EditCase) -> set[str]:
        """Every answer that the pool knows of what a record's picture shows."""
        thing = record.tags.get(SCOPE_TAG)
        if thing is None:
            return _answers(record)
        return self._of_thing[thing]

    @cached_property
    def _of_thing(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for case in self.pool:
            if thing := case.tags.get(SCOPE_TAG):
                found[thing] |= _answers(case)
        return found

    def _relation(self, question: str) -> str:
        """What a question asks, however it is worded: questions that the benchmark gives as rephrasings of each other are one."""
        return self._relations.get(_norm(question), _norm(question))

    @cached_property
    def _relations(self) -> dict[str, str]:
        """Wording → one wording that stands for all that some case of the pool gives as the same."""
        parent: dict[str, str] = {}

        def root(text: str) -> str:
            parent.setdefault(text, text)
            while parent[text] != text:
                parent[text] = text = parent[parent[text]]
            return text

        for case in self.pool:
            first = root(_norm(case.request.question))
            for wording in _wordings(case):
                other = root(_norm(wording))
                if other != first:
                    parent[other] = first
        return {text: root(text) for text in list(parent)}

    # --- T3, T4 where the benchmark has none --------------------------------------------------------------------

    def _unrelated(self, case: EditCase, similar: str) -> Probe | None:
        """What another case asks as unrelated; where none does, a record drawn from the less similar half of the pool."""
        asked = [p for one in self.pool if one.id != case.id for p in one.locality.get("random_image", ())]
        asked = [p for p in asked if p.image != case.request.image and _norm(p.answer or "") not in _answers(case)]
        if asked:
            return random.Random(self._draw(case.id, "T3")).choice(asked)
        ranked = [record for record, _ in self._ranking(case) if record.id != similar]
        if not ranked:
            return None
        far = ranked[len(ranked) // 2 :]
        record = min(far, key=lambda one: self._draw(case.id, "T3", one.id))
        return Probe(record.request.image, record.request.question)

    def _other_text(self, case: EditCase) -> Probe | None:
        """A question without a picture of another case."""
        found = [p for one in self.pool if one.id != case.id for p in one.locality.get("text", ()) if p.image is None]
        found += [
            Probe(None, one.request.question) for one in self.pool if one.request.image is None and one.id != case.id
        ]
        if not found:
            return None
        return random.Random(self._draw(case.id, "T4")).choice(found)

    def _draw(self, *names: str) -> str:
        return hashlib.sha256("\0".join((str(self.seed), *names)).encode()).hexdigest()


def questions(pool: Sequence[EditCase]) -> list[str]:
    """Every question that is edited in the pool, once, in order of first appearance."""
    return list(dict.fromkeys(case.request.question for case in pool))


def index_of(pool: Sequence[EditCase], retriever: str = "", folder: Path | None = None) -> Index:
    """The index of a pool's questions, kept on disk under the encoder's fingerprint: a text is encoded once for all runs.

    Args:
        retriever: see `vledit.retrieval.encoder`; empty: all-MiniLM-L6-v2.
        folder: default: in VLEdit's own cache.

    Raises: MissingDataError, InputError; see `vledit.retrieval.encoder`.
    """
    from vledit.retrieval import DEFAULT, Index, encoder

    chosen = encoder(retriever or DEFAULT)
    folder = cache_root() / "devqa" if folder is None else folder
    return Index(chosen, questions(pool), folder / f"questions-{chosen.fingerprint[:16]}.safetensors")


def lacking(cases: Sequence[EditCase]) -> dict[str, int]:
    """De-VQA cell → how many of these wrapped cases have no such cell; cells that all have are left out."""
    counts = {cell: sum(cell not in case.locality for case in cases) for cell in LOCALITY_CELLS}
    return {cell: count for cell, count in counts.items() if count}


def _wordings(case: EditCase) -> Iterator[str]:
    yield from case.request.rephrases
    for probe in case.generality.get("text", ()):
        if probe.tags.get("wording") != _UNCLEAN:
            yield probe.question


def _answers(case: EditCase) -> set[str]:
    return {_norm(case.request.answer), _norm(case.base_answer)} - {""}


def _norm(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .?!\"'")
