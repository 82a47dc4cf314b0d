"""One question to the language model until its reply can be used: parsed, checked, and asked again with the reason."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from vledit.data.build.chat import Chat, Messages
from vledit.data.build.prompts import Prompt

T = TypeVar("T")
ASKS = 3
"""How often a task is asked at most."""
_FENCE = re.compile(r"^```[a-zA-Z]*\s*\n(.*?)\n?```$", re.DOTALL)


class Unusable(ValueError):
    """A reply cannot be used; the text says why, in words that the language model can act on."""


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """The value, or None and why not.

    Args:
        asks: how often it was asked.
    """

    value: T | None
    reason: str
    asks: int


def ask(
    chat: Chat, prompt: Prompt, again: Prompt, check: Callable[[Any], T], asks: int = ASKS, **fields: Any
) -> Outcome[T]:
    """Asks until `check` accepts the JSON object of the reply.

    Args:
        check: the object → the value; raises `Unusable`.

    Raises: see `Chat.__call__`.
    """
    messages: Messages = [{"role": "user", "content": prompt.fill(**fields)}]
    reason = ""
    for number in range(1, asks + 1):
        reply = chat(messages)
        if reply.refused:
            return Outcome(None, f"refused by the language model: {reply.refused}", number)
        try:
            if reply.cut_off:
                raise Unusable("it was cut off before its end; be shorter")
            return Outcome(check(json_object(reply.text)), "", number)
        except Unusable as error:
            reason = str(error)
        messages = [
            *messages,
            {"role": "assistant", "content": reply.text},
            {"role": "user", "content": again.fill(reason=reason)},
        ]
    return Outcome(None, f"no usable reply after asking {asks} times; of the last: {reason}", asks)


def json_object(text: str) -> dict[str, Any]:
    """The JSON object that a reply is, or that stands in a code fence or among other words.  Raises: Unusable."""
    text = text.strip()
    if fenced := _FENCE.match(text):
        text = fenced.group(1).strip()
    if not text:
        raise Unusable("it is empty")
    first, last = text.find("{"), text.rfind("}")
    if first < 0 or last < first:
        raise Unusable("it has no JSON object")
    try:
        value = json.loads(text[first : last + 1])
    except ValueError as error:
        raise Unusable(f"its JSON cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise Unusable("it is no JSON object")
    return value


def text_field(value: dict[str, Any], name: str, most_words: int) -> str:
    """A short text in a reply.  Raises: Unusable."""
    found = value.get(name)
    if isinstance(found, int | float) and not isinstance(found, bool):
        found = str(found)
    if not isinstance(found, str) or not found.strip():
        raise Unusable(f"it has no text under {name!r}")
    found = " ".join(found.split()).strip(" .")
    if len(found.split()) > most_words:
        raise Unusable(f"{found[:80]!r} has more than {most_words} words")
    return found
