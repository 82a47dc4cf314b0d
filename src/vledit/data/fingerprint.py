"""Which version of an annotation file is this? A hash of its records, with counts that distinguish versions.

Published files of the same name differ: of E-VQA's ``vqa_eval.json`` one version has 2,093 distinct locality questions and
another 2, and 964 targets differ between them. So every reader states which version it has read, if it is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vledit.data.cache import sha256_json


@dataclass(frozen=True)
class Known:
    """A file that circulates.

    Args:
        name: what it is, for people.
        content: the hash of its records, from a file that we had; "" where we never had it.
        counts: counts that tell it from others: measured where there is a hash, else from the publication (`source`).
        source: where the counts were printed, for a file that we never had.
    """

    name: str
    content: str = ""
    counts: Mapping[str, int] | None = None
    source: str = ""


@dataclass(frozen=True)
class Fingerprint:
    """What was read.

    Args:
        content: SHA-256 of the records, the same whatever their key order, blanks and line ends.
        counts: telling counts, e.g. {"records": 2093, "distinct text-locality questions": 2}.
        name: the known file with this content, or "".
        looks_like: known files of the same counts, where the content itself is not known.
    """

    content: str
    counts: Mapping[str, int]
    name: str = ""
    looks_like: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        """The first 16 digits of `content`."""
        return self.content[:16]

    def __str__(self) -> str:
        if self.name:
            said = self.name
        elif self.looks_like:
            said = f"not a file that we know; looks like {' or '.join(self.looks_like)}"
        else:
            said = "not a file that we know"
        counted = ", ".join(f"{count:,} {what}" for what, count in self.counts.items() if count)
        return f"{said}{f': {counted}' if counted else ''} (SHA-256 {self.short}…)"


def fingerprint(records: Any, counts: Mapping[str, int], known: Sequence[Known]) -> Fingerprint:
    """Return the fingerprint of `records` (any JSON value), named by its content, else likened by its counts."""
    content = sha256_json(records)
    for one in known:
        if one.content and one.content == content:
            return Fingerprint(content, counts, one.name)
    alike = [
        f"{one.name} (counts of {one.source})" if one.source else one.name
        for one in known
        if one.counts and all(counts.get(what) == count for what, count in one.counts.items())
    ]
    return Fingerprint(content, counts, "", tuple(alike))


def distinct(records: Iterable[Any], field: str) -> int:
    """Return how many different values a field has, over those records that have it."""
    return len({str(r[field]) for r in records if isinstance(r, Mapping) and r.get(field) not in (None, "")})


def multi_word(records: Iterable[Any], field: str) -> int:
    """Return in how many records a field's text has more than one word."""
    texts = (r.get(field) for r in records if isinstance(r, Mapping))
    return sum(isinstance(text, str) and len(text.split()) > 1 for text in texts)
