"""The requests and the cost of a build, computed before anything is requested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vledit.data.build.asking import Unusable, json_object
from vledit.data.build.chat import Messages
from vledit.data.build.construct import Wants
from vledit.data.build.records import SourceRecord
from vledit.data.build.texts import STEPS, Writer

LETTERS_PER_TOKEN = 4
"""Of English text, with the tokenizers in use today; an estimate."""
MARGIN_TOKENS = 8
"""What a chat template adds to a request; an estimate."""


@dataclass
class Plan:
    """Counts by step, if every record passes every step at the first asking.

    Args:
        requests, kept: of each step; how many of them are in the store already or are the same as another record's, as
            far as can be told before.
        tokens_in, tokens_out: of those that are not kept.
        pictures: (least, most), most where the verifier accepts none.
    """

    records: int
    requests: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    tokens_in: Counter[str] = field(default_factory=Counter)
    tokens_out: Counter[str] = field(default_factory=Counter)
    pictures: tuple[int, int] = (0, 0)
    questions: tuple[int, int] = (0, 0)
    text_dollars: float = 0.0
    picture_dollars: tuple[float, float] = (0.0, 0.0)
    seen: set[str] = field(default_factory=set, repr=False)

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        steps = {
            step: {
                "requests": self.requests[step],
                "kept": self.kept[step],
                "tokens_in": self.tokens_in[step],
                "tokens_out": self.tokens_out[step],
            }
            for step in STEPS
            if self.requests[step]
        }
        return {
            "records": self.records,
            "steps": steps,
            "text_dollars": self.text_dollars,
            "pictures": list(self.pictures),
            "picture_dollars": list(self.picture_dollars),
            "verifier_questions": list(self.questions),
        }


def plan(records: Sequence[SourceRecord], writer: Writer, wants: Wants, picture_price: float = 0.0) -> Plan:
    """Return the plan of a build of `records`; nothing is asked."""
    found = Plan(len(records))
    for record in records:
        _record(found, record, writer)
    fresh = Counter({step: found.requests[step] - found.kept[step] for step in found.requests})
    for step, count in fresh.items():
        found.tokens_out[step] = count * writer.prompts[_prompt(step)].reply_tokens
    found.text_dollars = writer.chat.dollars((sum(found.tokens_in.values()), sum(found.tokens_out.values())))
    least, most = len(records) * (wants.pictures + wants.near), 2 * len(records) * wants.tries
    found.pictures = (least, most)
    found.picture_dollars = (least * picture_price, most * picture_price)
    asked = len(records) * (1 + writer.rephrasings + writer.text_questions)
    found.questions = (asked + least, asked + most)
    return found


def _prompt(step: str) -> str:
    return "object" if step == "third_object" else step


def _record(found: Plan, record: SourceRecord, writer: Writer) -> None:
    """Counts a record's requests; where a reply is kept, what depends on it is asked with its words, else with the answer's."""
    given = {"question": record.question, "answer": record.answer}
    new = _count(found, writer, "counterfactual", given, "answer") or record.answer
    if writer.rephrasings:
        _count(found, writer, "rephrase", {"question": record.question, "count": writer.rephrasings}, "")
    shown = record.object or _count(found, writer, "object", given, "object") or record.answer
    third = (
        _count(found, writer, "third_answer", {**given, "counterfactual": new}, "answer") or f"other {record.answer}"
    )
    _count(found, writer, "third_object", {"question": record.question, "answer": third}, "object")
    if writer.text_questions:
        fields = {"object": shown, "answer": record.answer, "count": writer.text_questions}
        _count(found, writer, "text_questions", fields, "")


def _count(found: Plan, writer: Writer, step: str, fields: dict[str, Any], wanted: str) -> str:
    """Counts a request and returns the `wanted` field of its reply, where that is kept and fit."""
    text = writer.prompts[_prompt(step)].fill(**fields)
    messages: Messages = [{"role": "user", "content": text}]
    found.requests[step] += 1
    if text in found.seen and not writer.chat.known(messages):
        found.kept[step] += 1
        return ""
    found.seen.add(text)
    if not writer.chat.known(messages):
        found.tokens_in[step] += MARGIN_TOKENS + len(text) // LETTERS_PER_TOKEN
        return ""
    found.kept[step] += 1
    try:
        value = json_object(writer.chat(messages).text).get(wanted)
    except Unusable:
        return ""
    return value.strip(" .") if isinstance(value, str) else ""
