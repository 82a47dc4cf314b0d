"""The whole build, step by step: what is requested, made and judged for every record, and the result."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vledit.data.build.agreement import agrees
from vledit.data.build.drawing import Order, Studio
from vledit.data.build.records import IMAGE, NEAR, JudgedPicture, MadePicture, Rejection, SourceRecord, Texts
from vledit.data.build.sources import Source, opened
from vledit.data.build.texts import STEPS, Writer, write_all
from vledit.data.build.verifying import Asked, Judge, Meaning
from vledit.data.cache import sha256_file
from vledit.errors import InputError, MissingDataError

Progress = Callable[[str, int, int], None]
"""Called with the phase, how much of it is done, and how much there is."""
SUPPLIED = 2
"""Rephrasings of each record that go to the editor (OKEDIT's ``rephrased_questions_train``), beside those that are scored."""


@dataclass(frozen=True)
class Wants:
    """How much is wanted of each record.

    Args:
        rephrasings, pictures, near, text_questions: wanted of each record.
        tries: pictures made at most for each role of a record, while too few are accepted.
        least: a record with fewer accepted of any of rephrasings, pictures, near pictures is left out.
        similarity: smallest cosine between a question and its rephrasing.
        keep_unknown: keep records whose own picture the verifier answers otherwise than the source.
    """

    rephrasings: int = 10
    pictures: int = 10
    near: int = 10
    text_questions: int = 0
    tries: int = 20
    least: int = 1
    similarity: float = 0.3
    keep_unknown: bool = False

    def __post_init__(self) -> None:
        for name in ("rephrasings", "pictures", "near", "least"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)} given; at least 1 is needed.")
        if self.least > min(self.rephrasings, self.pictures, self.near):
            raise InputError(f"least: {self.least} is more than is expected of something.")
        if self.tries < max(self.pictures, self.near):
            raise InputError(f"tries: {self.tries} is less than the pictures wanted.")
        if self.text_questions < 0 or not -1 <= self.similarity <= 1:
            raise InputError("text-questions must not be negative, and similarity must be between -1 and 1.")


class Unfinished(MissingDataError):
    """Some requests got no reply after all retries; the same command goes on where this one ended."""

    def __init__(self, what: str, reasons: Mapping[str, str]):
        some = "; ".join(f"{record}: {reason}" for record, reason in list(reasons.items())[:3])
        super().__init__(
            f"{len(reasons)} records lack {what}, for there was no reply after all retries ({some}). Everything else is "
            "kept: run the same command again."
        )
        self.reasons = dict(reasons)


@dataclass
class Built:
    """One record with what was accepted for it.  `base`: what the verifier answers on the record's own picture."""

    source: SourceRecord
    texts: Texts
    base: str
    rephrasings: list[str] = field(default_factory=list)
    text_questions: list[tuple[str, str]] = field(default_factory=list)
    pictures: list[JudgedPicture] = field(default_factory=list)

    def accepted(self, role: str) -> list[JudgedPicture]:
        """Its accepted pictures of a role, in the order they were made."""
        return [one for one in self.pictures if one.accepted and one.picture.role == role]


@dataclass
class Result:
    """What a build came to.

    Args:
        kept: records that are in the benchmark. judged: all records with made pictures, kept or not.
        rates: step → (how many were tried, how many were accepted). asks: step → (tasks, times asked).
    """

    kept: list[Built]
    judged: list[Built]
    rejections: list[Rejection]
    rates: dict[str, tuple[int, int]]
    asks: dict[str, tuple[int, int]]


class Construction:
    """Puts the parts together.

    Args:
        review: "record/role/number" → True or False: what a human said of a picture; it stands above the verifier.
    """

    def __init__(
        self,
        source: Source,
        writer: Writer,
        studio: Studio,
        judge: Judge,
        meaning: Meaning,
        wants: Wants,
        concurrency: int = 4,
        review: Mapping[str, bool] | None = None,
        progress: Progress = lambda *_: None,
    ):
        self.source, self.writer, self.studio, self.judge, self.meaning = source, writer, studio, judge, meaning
        self.wants, self.concurrency, self.review, self.progress = wants, concurrency, dict(review or {}), progress
        self.rejections: list[Rejection] = []
        self.rates: dict[str, tuple[int, int]] = {}

    def run(self) -> Result:
        """The build.  Raises: Unfinished, InputError, MissingDataError."""
        source = opened(self.source)
        self.rejections += source.rejections
        self.rates["source"] = (source.read, len(source.records))
        built = self._known(source.records)
        texts, unfinished = write_all(self.writer, [b.source for b in built], self.concurrency, self.progress)
        if unfinished:
            raise Unfinished("texts", unfinished)
        for one in built:
            one.texts = texts[one.source.id]
            self.rejections += one.texts.rejections
        self._count_texts()
        self._rephrasings(built)
        self._text_questions(built)
        whole = [
            b for b in built if b.texts.counterfactual and b.texts.object and b.texts.third and b.texts.third_object
        ]
        self._pictures(whole)
        kept = [one for one in whole if self._enough(one)]
        self.rates["record"] = (source.read, len(kept))
        asks = {step: (self.writer.tasks[step], self.writer.asks[step]) for step in STEPS if self.writer.tasks[step]}
        return Result(kept, whole, self.rejections, self.rates, asks)

    def _known(self, records: Sequence[SourceRecord]) -> list[Built]:
        """Records whose own picture the verifier answers as the source does."""
        asked: list[Asked] = [(sha256_file(r.picture), r.picture, r.question) for r in records]
        kept = []
        known = 0
        for record, answer in zip(records, self.judge.ask(asked, "source pictures", self.progress), strict=True):
            fits = agrees(answer, record.answers)
            known += fits
            if fits or self.wants.keep_unknown:
                kept.append(Built(record, Texts(), answer))
            else:
                reason = f"the verifier answers {answer!r} on its own picture, not {record.answer!r}"
                self.rejections.append(Rejection(record.id, "known", "", reason))
        self.rates["known"] = (len(records), known)
        return kept

    def _count_texts(self) -> None:
        failed = Counter(rejection.step for rejection in self.rejections)
        for step in STEPS:
            if tasks := self.writer.tasks[step]:
                self.rates[step] = (tasks, tasks - failed[step])

    def _rephrasings(self, built: Sequence[Built]) -> None:
        """Those that mean the same and are answered as the question is, on the record's own picture."""
        pairs = [(one, text) for one in built for text in one.texts.rephrasings]
        cosines = self.meaning.cosines([(one.source.question, text) for one, text in pairs])
        asked: list[Asked] = [(sha256_file(one.source.picture), one.source.picture, text) for one, text in pairs]
        answers = self.judge.ask(asked, "rephrasings", self.progress)
        for (one, text), cosine, answer in zip(pairs, cosines, answers, strict=True):
            if cosine < self.wants.similarity:
                reason = f"too far from the question in meaning (cosine {cosine:.2f} < {self.wants.similarity})"
            elif not agrees(answer, [one.base, *(one.source.answers if agrees(one.base, one.source.answers) else ())]):
                reason = f"the verifier answers it {answer!r}, the question {one.base!r}"
            else:
                one.rephrasings.append(text)
                continue
            self.rejections.append(Rejection(one.source.id, "rephrasing", text, reason))
        self.rates["rephrasing"] = (len(pairs), sum(len(one.rephrasings) for one in built))

    def _text_questions(self, built: Sequence[Built]) -> None:
        """Those that the base does not answer with the edit's new answer already."""
        pairs = [(one, pair) for one in built for pair in one.texts.text_questions]
        answers = self.judge.ask([("", None, text) for _, (text, _) in pairs], "text questions", self.progress)
        for (one, pair), answer in zip(pairs, answers, strict=True):
            if agrees(answer, [one.texts.counterfactual]):
                reason = f"the verifier answers {answer!r}, the edit's new answer, before any edit"
                self.rejections.append(Rejection(one.source.id, "text question", pair[0], reason))
            else:
                one.text_questions.append(pair)
        if pairs:
            self.rates["text question"] = (len(pairs), sum(len(one.text_questions) for one in built))

    def _pictures(self, built: Sequence[Built]) -> None:
        """Makes and judges, round by round, until each record has what is wanted or was tried often enough."""
        tried: Counter[tuple[str, str]] = Counter()
        by_id = {one.source.id: one for one in built}
        wanted = {IMAGE: self.wants.pictures, NEAR: self.wants.near}
        while True:
            orders = []
            for one in built:
                for role, count in wanted.items():
                    key = (one.source.id, role)
                    lacking = min(count - len(one.accepted(role)), self.wants.tries - tried[key])
                    shown = one.texts.object if role == IMAGE else one.texts.third_object
                    orders += [Order(*key, tried[key] + n, shown) for n in range(lacking)]
                    tried[key] += max(0, lacking)
            if not orders:
                break
            made, refused, unfinished = self.studio.make(orders, self.progress)
            if unfinished:
                raise Unfinished("pictures", unfinished)
            self.rejections += refused
            for judged in self._judged(made, by_id):
                by_id[judged.picture.record].pictures.append(judged)
                if judged.reason:
                    p = judged.picture
                    self.rejections.append(Rejection(p.record, p.role, f"{p.role}/{p.number}", judged.reason))
        for role in wanted:
            total = sum(count for (_, of), count in tried.items() if of == role)
            self.rates[role] = (total, sum(len(one.accepted(role)) for one in built))

    def _judged(self, made: Sequence[MadePicture], by_id: Mapping[str, Built]) -> list[JudgedPicture]:
        asked: list[Asked] = [(p.key, p.path, by_id[p.record].source.question) for p in made]
        found = []
        seen: dict[str, set[str]] = defaultdict(set)
        for one in by_id.values():
            seen[one.source.id] = {sha256_file(one.source.picture), *(p.picture.key for p in one.pictures)}
        for picture, answer in zip(made, self.judge.ask(asked, "made pictures", self.progress), strict=True):
            one = by_id[picture.record]
            old, new, third = one.source.answers, one.texts.counterfactual, one.texts.third
            expected, others = (old, (new, third)) if picture.role == IMAGE else ((third,), (new, *old))
            reason, by = "", "verifier"
            if not agrees(answer, expected, others):
                reason = f"the verifier answers {answer!r}, not {expected[0]!r}"
            if picture.key in seen[picture.record]:
                reason = "the very same picture was made before"
            seen[picture.record].add(picture.key)
            said = self.review.get(f"{picture.record}/{picture.role}/{picture.number}")
            if said is not None:
                reason, by = "" if said else "rejected by a human", "human"
            found.append(JudgedPicture(picture, expected[0], answer, reason, by))
        return found

    def _enough(self, one: Built) -> bool:
        """Whether a record has enough of everything; says what it lacks where it has not."""
        have = {
            "rephrasings": len(one.rephrasings),
            "other pictures": len(one.accepted(IMAGE)),
            "near pictures": len(one.accepted(NEAR)),
        }
        lacking = [f"{count} {what}" for what, count in have.items() if count < self.wants.least]
        if lacking:
            reason = f"only {', '.join(lacking)} were accepted; {self.wants.least} is the least"
            self.rejections.append(Rejection(one.source.id, "record", "", reason))
        return not lacking


def by_reason(rejections: Sequence[Rejection]) -> dict[str, int]:
    """Step → how many were rejected there."""
    return dict(sorted(Counter(rejection.step for rejection in rejections).items()))


def precision_recall(judged: Sequence[Built]) -> dict[str, dict[str, Any]]:
    """Role → the verifier's verdicts against the truth, of pictures whose maker knows it and no human judged.

    Each with the counts and precision = right and accepted / accepted, recall = right and accepted / right.
    """
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for picture in (picture for one in judged for picture in one.pictures):
        if picture.picture.right is not None and picture.by == "verifier":
            verdict = ("accepted" if picture.accepted else "rejected", "right" if picture.picture.right else "wrong")
            found[picture.picture.role][" ".join(verdict)] += 1
    table = {}
    for role, count in sorted(found.items()):
        true = count["accepted right"]
        accepted, right = true + count["accepted wrong"], true + count["rejected right"]
        table[role] = {
            **{name: count[name] for name in ("accepted right", "accepted wrong", "rejected right", "rejected wrong")},
            "precision": true / accepted if accepted else None,
            "recall": true / right if right else None,
        }
    return table
