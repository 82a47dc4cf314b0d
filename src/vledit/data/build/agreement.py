"""Whether an answer agrees with the expected one, and whether two wordings are the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_ARTICLES = {"a", "an", "the"}
MOST_WORDS = 12
"""An answer with more words is no answer to a short question."""


def normal(text: str) -> str:
    """Case, accents, punctuation, articles and a plural's s aside."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    words = re.sub(r"[^\w\s]|_", " ", plain.replace("'", "")).split()
    kept = [word for word in words if word not in _ARTICLES] or words
    return " ".join(_singular(word) for word in kept)


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def overlap(first: str, second: str) -> bool:
    """Whether one says the other: equal, or one is a run of whole words of the other ("horse", "carousel horse")."""
    return _within(normal(first), normal(second)) or _within(normal(second), normal(first))


def agrees(given: str, expected: Iterable[str], others: Iterable[str] = ()) -> bool:
    """Whether an answer says one of `expected`.

    It does where it is one of them, or is short, holds one as a run of whole words, holds none of `others` and no "not".
    """
    said = normal(given)
    wanted = [normal(text) for text in expected]
    if said in wanted:
        return True
    words = said.split()
    if not words or len(words) > MOST_WORDS or {"not", "no", "isnt"} & set(words):
        return False
    if any(_within(normal(other), said) for other in others):
        return False
    return any(_within(text, said) for text in wanted)


def _within(part: str, whole: str) -> bool:
    return bool(part) and f" {part} " in f" {whole} "
