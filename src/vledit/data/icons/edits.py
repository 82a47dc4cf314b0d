"""An edit set of OKEDIT's shape, made of the data set: one changed fact a case, and what it must and must not change.

A case changes what one picture of a concept is said to be (or one fact about it) to another answer of the same kind:
another mammal, another capital of the same continent, another maker of the same industry. Everything is a function of
(data set, seed, case id). Splits are by concept, so that no concept is edited in two of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Literal

from vledit.data.case import EditCase, EditRequest, Probe
from vledit.data.icons.dataset import IconData, all_wordings
from vledit.data.icons.model import Concept, Drawing
from vledit.data.icons.pictures import BlackPicture, IconPicture

EditSplit = Literal["train", "validation", "test"]

NAME_KIND = {"things": "name", "flags": "country", "brands": "brand"}
"""The question that asks what a picture shows, by domain."""
SECOND_KINDS = {
    "things": ("category", "spanish"),
    "flags": ("capital", "currency", "language", "continent"),
    "brands": ("product", "industry"),
}
"""Facts that may be edited besides the name: a concept has one of them edited, a country two."""
SECONDS_PER_CONCEPT = {"things": 1, "flags": 2, "brands": 1}
SHARES: dict[EditSplit, float] = {"train": 0.5, "validation": 0.1, "test": 0.4}
SUPPLIED = 6
"""Train wordings handed to the editor; the probes use others."""
TEXT_PROBES = 14
IMAGE_PROBES = 12
NEIGHBOURS = 12
OTHERS = 10


def candidates(data: IconData, split: EditSplit | None = None, seed: int = 0) -> list[EditCase]:
    """Return the cases of one split, or of all, before any model was asked (see `edit_filter`).

    Raises: KeyError where `wordings.json` lacks a question of these kinds.
    """
    splits = split_concepts(data, seed)
    return [
        make_case(data, concept, kind, splits[concept.id], seed)
        for concept in data.concepts.values()
        if split in (None, splits[concept.id]) and data.drawings_of(concept.id, "train")
        for kind in edited_kinds(concept, seed)
    ]


def split_concepts(data: IconData, seed: int = 0) -> dict[str, EditSplit]:
    """Return the split of every concept, by id; each domain is shared out alike."""
    found: dict[str, EditSplit] = {}
    for domain in NAME_KIND:
        ids = sorted(concept.id for concept in data.concepts_of(domain))
        random.Random(f"{seed}/split/{domain}").shuffle(ids)
        first = round(len(ids) * SHARES["train"])
        second = first + round(len(ids) * SHARES["validation"])
        for index, concept_id in enumerate(ids):
            found[concept_id] = "train" if index < first else "validation" if index < second else "test"
    return found


def edited_kinds(concept: Concept, seed: int = 0) -> list[str]:
    """Return the kinds of facts of `concept` that are edited: its name, and one or two others."""
    draw = random.Random(f"{seed}/kinds/{concept.id}")
    count = SECONDS_PER_CONCEPT[concept.domain]
    return [NAME_KIND[concept.domain], *draw.sample(SECOND_KINDS[concept.domain], count)]


def make_case(data: IconData, concept: Concept, kind: str, split: EditSplit, seed: int = 0) -> EditCase:
    """Return the case that changes the fact `kind` of `concept`, with all its probes."""
    case_id = f"icons/{concept.id}/{kind}"
    draw = random.Random(f"{seed}/{case_id}")
    train = list(data.wordings(concept.domain, kind, "train"))
    draw.shuffle(train)
    question, supplied, unseen = train[0], train[1 : 1 + SUPPLIED], train[1 + SUPPLIED :]
    target = counterfactual(data, concept, kind, draw)
    drawing = draw.choice(data.drawings_of(concept.id, "train"))
    picture = IconPicture(data, drawing, draw.getrandbits(24))
    return EditCase(
        request=EditRequest(picture, question, target, tuple(supplied), case_id),
        base_answer=concept.facts[kind],
        generality={
            "text": _rephrasings(data, concept, kind, picture, unseen),
            "image": _other_pictures(data, concept, kind, question, drawing, draw),
        },
        locality={
            "near_image": _neighbours(data, concept, kind, question, target, draw),
            "text": _text_questions(data, concept, draw),
            "random_image": _unrelated(data, concept, draw),
            "other_question": _other_questions(data, concept, kind, picture, draw),
            "black": (Probe(BlackPicture(), question, id="black"),),
            "no_image": (Probe(None, question, id="no_image"),),
        },
        tags={
            "domain": concept.domain,
            "kind": kind,
            "split": split,
            "group": concept.group,
            "hand": drawing.hand,
            "style": drawing.style,
            "concept": concept.id,
        },
    )


def counterfactual(data: IconData, concept: Concept, kind: str, draw: random.Random) -> str:
    """Return another answer of the same kind: from the same group where it has one, else of the domain.

    Never one that is the true answer in other words (one contains the other: "horse", "carousel horse").
    Raises: ValueError where the domain has no other answer.
    """
    truth = concept.facts[kind]
    for nearby in _circles(data, concept):
        answers = sorted({other.facts[kind] for other in nearby} - {truth})
        answers = [answer for answer in answers if not _overlap(answer, truth)]
        if answers:
            return draw.choice(answers)
    raise ValueError(f"{concept.id}: no other answer for {kind}")


def _circles(data: IconData, concept: Concept) -> Iterator[list[Concept]]:
    """Yield the other concepts of the same group, then those of the same wider group, then of the same domain."""
    others = data.concepts_of(concept.domain)
    others.remove(concept)
    yield [other for other in others if other.group == concept.group]
    if "group" in concept.facts:
        yield [other for other in others if other.facts["group"] == concept.facts["group"]]
    yield others


def _overlap(first: str, second: str) -> bool:
    one, two = first.lower(), second.lower()
    return one in two or two in one


def _rephrasings(
    data: IconData, concept: Concept, kind: str, picture: IconPicture, unseen: Sequence[str]
) -> tuple[Probe, ...]:
    """Ask the same picture in other words: all test wordings, then train ones that the editor was not given."""
    test = data.wordings(concept.domain, kind, "test")
    worded = [(text, "test") for text in test] + [(text, "train") for text in unseen]
    return tuple(
        Probe(picture, text, None, {"wording": wording, "domain": concept.domain}, f"text/{index}")
        for index, (text, wording) in enumerate(worded[: max(TEXT_PROBES, len(test))])
    )


def _other_pictures(
    data: IconData, concept: Concept, kind: str, question: str, edited: Drawing, draw: random.Random
) -> tuple[Probe, ...]:
    """Ask the same question of other drawings: each hand's first, held-out and seen in turns.

    Where a concept has fewer drawings than are wanted, they come again on varied backgrounds.
    """
    held_out = data.drawings_of(concept.id, "held_out")
    seen = [drawing for drawing in data.drawings_of(concept.id, "train") if drawing.id != edited.id]
    for drawings in (held_out, seen):
        draw.shuffle(drawings)
    turns = [drawing for pair in zip(held_out, seen, strict=False) for drawing in pair]
    shorter = min(len(held_out), len(seen))
    order = [*turns, *held_out[shorter:], *seen[shorter:]][:IMAGE_PROBES]
    pictures = [IconPicture(data, drawing, draw.getrandbits(24)) for drawing in order]
    again = [*order, edited]
    while len(pictures) < IMAGE_PROBES:
        drawing = again[len(pictures) % len(again)]
        pictures.append(IconPicture(data, drawing, draw.getrandbits(24), "augment"))
    return tuple(
        Probe(
            picture,
            question,
            None,
            {
                "hand": picture.drawing.hand,
                "seen": "yes" if picture.drawing.split == "train" else "no",
                "drawing": "same" if picture.drawing.id == edited.id else "other",
                "mode": picture.mode,
                "style": picture.drawing.style,
                "truth": concept.facts[kind],
            },
            f"image/{index}",
        )
        for index, picture in enumerate(pictures)
    )


def _neighbours(
    data: IconData, concept: Concept, kind: str, question: str, target: str, draw: random.Random
) -> tuple[Probe, ...]:
    """Ask the same question of other things of the same group, nearest circle first.

    Those whose true answer is the new one are left out: a model that names them so has not been changed by the edit.
    """
    chosen: dict[str, Concept] = {}
    for nearby in _circles(data, concept):
        for other in draw.sample(nearby, len(nearby)):
            if len(chosen) < NEIGHBOURS and other.facts[kind] != target and data.drawings_of(other.id, "train"):
                chosen.setdefault(other.id, other)
        if len(chosen) == NEIGHBOURS:
            break
    probes = []
    for index, other in enumerate(chosen.values()):
        drawing = draw.choice(data.drawings_of(other.id, "train"))
        tags = {
            "concept": other.id,
            "near": "group" if other.group == concept.group else "domain",
            "hand": drawing.hand,
        }
        picture = IconPicture(data, drawing, draw.getrandbits(24))
        probes.append(Probe(picture, question, other.facts[kind], tags, f"near_image/{index}"))
    return tuple(probes)


def _text_questions(data: IconData, concept: Concept, draw: random.Random) -> tuple[Probe, ...]:
    """Ask without a picture: facts about other concepts, and general knowledge."""
    probes = []
    keys = sorted(all_wordings()["text"])
    for index in range(OTHERS // 2):
        key = draw.choice(keys)
        domain, kind = key.split(".")
        pool = data.concepts_of(domain)
        if domain == concept.domain:
            pool.remove(concept)
        if not pool:
            continue
        other = draw.choice(pool)
        text = draw.choice(data.text_wordings(key, "test")).format(name=other.name)
        tags = {"kind": key, "concept": other.id}
        probes.append(Probe(None, text, other.facts[kind], tags, f"text_locality/{index}"))
    general = all_wordings().get("general", {}).get("test", [])
    for text, answer in draw.sample(general, min(OTHERS - len(probes), len(general))):
        probes.append(Probe(None, text, answer, {"kind": "general"}, f"text_locality/{len(probes)}"))
    return tuple(probes)


def _unrelated(data: IconData, concept: Concept, draw: random.Random) -> tuple[Probe, ...]:
    """Ask other questions of pictures of other domains."""
    domains = [domain for domain in NAME_KIND if domain != concept.domain]
    pool = [other for domain in domains for other in data.concepts_of(domain)]
    drawn = [other for other in draw.sample(pool, min(3 * OTHERS, len(pool))) if data.drawings_of(other.id, "train")]
    probes = []
    for index, other in enumerate(drawn[:OTHERS]):
        kind = NAME_KIND[other.domain] if index % 2 == 0 else draw.choice(SECOND_KINDS[other.domain])
        text = draw.choice(data.wordings(other.domain, kind, "test"))
        drawing = draw.choice(data.drawings_of(other.id, "train"))
        tags = {"domain": other.domain, "kind": kind, "concept": other.id}
        picture = IconPicture(data, drawing, draw.getrandbits(24))
        probes.append(Probe(picture, text, other.facts[kind], tags, f"random_image/{index}"))
    return tuple(probes)


def _other_questions(
    data: IconData, concept: Concept, kind: str, picture: IconPicture, draw: random.Random
) -> tuple[Probe, ...]:
    """Ask for the concept's other facts on the edited picture itself."""
    return tuple(
        Probe(
            picture,
            draw.choice(data.wordings(concept.domain, other, "test")),
            concept.facts[other],
            {"kind": other},
            f"other_question/{other}",
        )
        for other in sorted(concept.facts)
        if other != kind
    )
