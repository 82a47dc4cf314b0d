"""The language model's steps for one record: counterfactual answer, rephrasings, object, third answer, text-only questions.

Source: BalancEdit, App. A.1; text-only questions: E-VQA's text locality and De-VQA's T4, for own data.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from vledit.data.build.agreement import normal, overlap
from vledit.data.build.asking import Outcome, Unusable, ask, text_field
from vledit.data.build.chat import Chat, NoReply
from vledit.data.build.prompts import Prompt
from vledit.data.build.records import Rejection, SourceRecord, Texts

ANSWER_WORDS = 6
OBJECT_WORDS = 15
STEPS = ("counterfactual", "rephrase", "object", "third_answer", "third_object", "text_questions")
_POINTING = ("this ", "picture", "image", "photo", "shown", "pictured")


@dataclass
class Writer:
    """Runs the steps of a record.

    Args:
        rephrasings, text_questions: how many are asked for; 0 leaves the step out.
    """

    chat: Chat
    prompts: Mapping[str, Prompt]
    rephrasings: int = 10
    text_questions: int = 0
    asks: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def write(self, record: SourceRecord) -> Texts:
        """All texts of a record.  Raises: see `Chat.__call__`."""
        texts = Texts()
        given = {"question": record.question, "answer": record.answer}

        def counterfactual(value: dict[str, Any]) -> str:
            return _other_answer(value, record.answers)

        texts.counterfactual = self._step(texts, record, "counterfactual", counterfactual, "", **given)
        if self.rephrasings:
            count = self.rephrasings
            texts.rephrasings = self._step(
                texts,
                record,
                "rephrase",
                lambda value: _rephrasings(value, record.question, count),
                [],
                question=record.question,
                count=count,
            )
        texts.object = record.object or self._step(texts, record, "object", _object, "", **given)
        if texts.counterfactual:
            taken = (*record.answers, texts.counterfactual)
            given_both = {**given, "counterfactual": texts.counterfactual}
            texts.third = self._step(
                texts, record, "third_answer", lambda value: _other_answer(value, taken), "", **given_both
            )
        if texts.third:
            texts.third_object = self._step(
                texts, record, "third_object", _object, "", question=record.question, answer=texts.third
            )
        if self.text_questions and texts.object:
            texts.text_questions = self._step(
                texts,
                record,
                "text_questions",
                lambda value: _text_questions(value, self.text_questions),
                [],
                object=texts.object,
                answer=record.answer,
                count=self.text_questions,
            )
        return texts

    def _step(
        self,
        texts: Texts,
        record: SourceRecord,
        step: str,
        check: Callable[[dict[str, Any]], Any],
        empty: Any,
        **given: Any,
    ) -> Any:
        prompt = self.prompts["object" if step == "third_object" else step]
        outcome: Outcome[Any] = ask(self.chat, prompt, self.prompts["again"], check, **given)
        with self._lock:
            self.tasks[step] += 1
            self.asks[step] += outcome.asks
        if outcome.value is None:
            texts.rejections.append(Rejection(record.id, step, "", outcome.reason))
            return empty
        return outcome.value


def write_all(
    writer: Writer,
    records: Sequence[SourceRecord],
    concurrency: int,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> tuple[dict[str, Texts], dict[str, str]]:
    """The texts of all records, several at a time; and, by record, why some could not be asked for now.

    Raises: InputError, MissingDataError: the endpoint as such is unfit; what is under way is finished and kept.
    """
    found: dict[str, Texts] = {}
    unfinished: dict[str, str] = {}

    def one(record: SourceRecord) -> None:
        try:
            texts = writer.write(record)
        except NoReply as error:
            unfinished[record.id] = str(error)
        else:
            found[record.id] = texts
        progress("texts", len(found) + len(unfinished), len(records))

    with ThreadPoolExecutor(concurrency, "vledit-build") as pool:
        jobs = [pool.submit(one, record) for record in records]
        try:
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            for job in done:
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return found, unfinished


def _other_answer(value: dict[str, Any], taken: Sequence[str]) -> str:
    answer = text_field(value, "answer", ANSWER_WORDS)
    for other in taken:
        if overlap(answer, other):
            raise Unusable(f"{answer!r} says the same as {other!r}; another answer is expected")
    return answer


def _object(value: dict[str, Any]) -> str:
    return text_field(value, "object", OBJECT_WORDS)


def _rephrasings(value: dict[str, Any], question: str, count: int) -> list[str]:
    found = value.get("questions")
    if not isinstance(found, list) or not all(isinstance(one, str) and one.strip() for one in found):
        raise Unusable("it has no list of texts under 'questions'")
    seen = {normal(question)}
    kept = []
    for one in (" ".join(text.split()) for text in found):
        if normal(one) not in seen:
            seen.add(normal(one))
            kept.append(one)
    if len(kept) < count:
        raise Unusable(
            f"{count} different rephrasings are expected, {len(kept)} differ from the question and each other"
        )
    return kept[:count]


def _text_questions(value: dict[str, Any], count: int) -> list[tuple[str, str]]:
    found = value.get("questions")
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Unusable("it has no list of objects under 'questions'")
    kept: dict[str, tuple[str, str]] = {}
    for one in found:
        question, answer = text_field(one, "question", 40), text_field(one, "answer", 2 * ANSWER_WORDS)
        if any(word in f"{question.lower()} " for word in _POINTING):
            raise Unusable(f"{question!r} points at a picture; nobody will see one")
        question = question if question.endswith("?") else f"{question}?"
        kept.setdefault(normal(question), (question, answer))
    if len(kept) < count:
        raise Unusable(f"{count} different questions are expected, {len(kept)} are given")
    return list(kept.values())[:count]
