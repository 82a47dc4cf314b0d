"""Which facts are edited, how concepts are shared out among the splits, and what a fact is called."""

from __future__ import annotations

import random
from functools import lru_cache

from vledit.data.icons.dataset import IconData
from vledit.data.icons.model import Concept
from vledit.data.icons.splits import EditSplit

NAME_KIND = {"things": "name", "flags": "country", "brands": "brand"}
"""The question that asks what a picture shows, by domain."""
SECOND_KINDS = {
    "things": ("category", "spanish"),
    "flags": ("capital", "currency", "language", "continent"),
    "brands": ("product", "industry"),
}
"""Facts that may be edited besides the name: a concept has one of them edited, a country two."""
SECONDS_PER_CONCEPT = {"things": 1, "flags": 2, "brands": 1}
SHARES: dict[EditSplit, float] = {"train": 0.4, "validation": 0.2, "test": 0.4}


@lru_cache(maxsize=4)
def split_concepts(data: IconData, seed: int = 0) -> dict[str, EditSplit]:
    """Return the split of every concept, by id; each domain is shared out alike."""
    found: dict[str, EditSplit] = {}
    for domain in NAME_KIND:
        ids = sorted(concept.id for concept in data.concepts_of(domain))
        random.Random(f"{seed}/split/{domain}").shuffle(ids)
        first = round(len(ids) * SHARES["train"])
        second = round(len(ids) * (SHARES["train"] + SHARES["validation"]))
        for index, concept_id in enumerate(ids):
            found[concept_id] = "train" if index < first else "validation" if index < second else "test"
    return found


def edited_kinds(concept: Concept, seed: int = 0) -> list[str]:
    """Return the kinds of facts of `concept` that are edited: its name, and one or two others."""
    draw = random.Random(f"{seed}/kinds/{concept.id}")
    count = SECONDS_PER_CONCEPT[concept.domain]
    return [NAME_KIND[concept.domain], *draw.sample(SECOND_KINDS[concept.domain], count)]


def fact(concept: Concept, kind: str, pictured: bool = True) -> str:
    """Name a fact: "things/lion/name" asked of a picture, "text/things/lion/name" without one."""
    return f"{concept.id}/{kind}" if pictured else f"text/{concept.id}/{kind}"


def same_fact(name: str) -> str:
    """Name what a fact is about, asked with or without the picture: a country's currency is one thing, however it is asked."""
    return name.removeprefix("text/")
