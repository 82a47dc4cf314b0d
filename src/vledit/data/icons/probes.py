"""What is asked after an edit of `icons`: everything drawn within the edit's own split, wordings, hands and concepts alike.

Drawings that training saw and drawings by held-out hands of the split stand in turns (tag "seen": "yes", "no"). Probes that
ask for a fact carry it in the tag "fact", so that a sequence of edits can leave out what another edit changes (`sequence.py`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from vledit.data.case import Probe
from vledit.data.icons.dataset import IconData, all_wordings, wordings_of
from vledit.data.icons.kinds import NAME_KIND, SECOND_KINDS, fact, split_concepts
from vledit.data.icons.model import Concept, Drawing
from vledit.data.icons.pictures import IconPicture
from vledit.data.icons.splits import EditSplit, held_out_hands

TEXT_PROBES = 14
IMAGE_PROBES = 12
NEIGHBOURS = 12
OTHERS = 10
ALIKE = 4
"""Most probes of each sort, with and without a picture, about other things that have the same answer."""


def drawings_of(data: IconData, concept: Concept, split: EditSplit, seen: bool) -> list[Drawing]:
    """Return the drawings of a concept that training saw, or those by the held-out hands of a split."""
    if seen:
        return data.drawings_of(concept.id, "train")
    hands = held_out_hands(split)
    return [drawing for drawing in data.drawings_of(concept.id, "held_out") if drawing.hand in hands]


def one_drawing(
    data: IconData, concept: Concept, split: EditSplit, draw: random.Random, seen: bool
) -> tuple[IconPicture, dict[str, str]]:
    """Return a picture of a concept, seen or held out where there is such a one, and the tags that say which it is.

    The concept has to have a drawing that training saw.
    """
    found = drawings_of(data, concept, split, seen) or drawings_of(data, concept, split, True)
    drawing = draw.choice(found)
    tags = {"hand": drawing.hand, "seen": "yes" if drawing.split == "train" else "no", "concept": concept.id}
    return IconPicture(data, drawing, draw.getrandbits(24)), tags


def within(
    data: IconData, domain: str, split: EditSplit, concept: Concept | None = None, seed: int = 0
) -> list[Concept]:
    """Return the other concepts of a domain that are in a split and have a drawing that training saw."""
    splits = split_concepts(data, seed)
    return [
        other
        for other in data.concepts_of(domain)
        if splits[other.id] == split and other is not concept and data.drawings_of(other.id, "train")
    ]


def circles(concept: Concept, others: Sequence[Concept]) -> Iterator[list[Concept]]:
    """Yield those of `others` in the same group, then those of the same wider group, then all."""
    yield [other for other in others if other.group == concept.group]
    if "group" in concept.facts:
        yield [other for other in others if other.facts["group"] == concept.facts["group"]]
    yield list(others)


def nearest(concept: Concept, others: Sequence[Concept], draw: random.Random, count: int) -> list[Concept]:
    """Return `count` of `others`, nearest circle first, in an order drawn within each."""
    chosen: dict[str, Concept] = {}
    for nearby in circles(concept, others):
        for other in draw.sample(nearby, len(nearby)):
            if len(chosen) < count:
                chosen.setdefault(other.id, other)
    return list(chosen.values())


def rephrasings(
    image: object, split: EditSplit, domain: str, held: Sequence[str], spare: Sequence[str]
) -> tuple[Probe, ...]:
    """Ask the same in other words: those of the split, then train ones that the editor was not given.

    Args:
        held: wordings of the split; empty for train.
        spare: train wordings that are neither the edit's nor supplied.
    """
    worded = [(text, split) for text in held] + [(text, "train") for text in spare]
    return tuple(
        Probe(image, text, None, {"wording": wording, "domain": domain}, f"text/{index}")
        for index, (text, wording) in enumerate(worded[: max(TEXT_PROBES, len(held))])
    )


def other_pictures(
    data: IconData, concept: Concept, truth: str, question: str, edited: Drawing, split: EditSplit, draw: random.Random
) -> tuple[Probe, ...]:
    """Ask the same question of other drawings, held-out and seen in turns.

    Where a concept has fewer drawings than are wanted, they come again on varied backgrounds.
    """
    held_out, seen = (
        [one for one in drawings_of(data, concept, split, was_seen) if one.id != edited.id]
        for was_seen in (False, True)
    )
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
                "truth": truth,
            },
            f"image/{index}",
        )
        for index, picture in enumerate(pictures)
    )


def neighbours(
    data: IconData,
    concept: Concept,
    kind: str,
    question: str,
    target: str,
    split: EditSplit,
    draw: random.Random,
    others: Sequence[Concept],
    answers: bool = True,
) -> tuple[Probe, ...]:
    """Ask the same question of other things, nearest circle first, seen and held-out drawings in turns.

    Those whose true answer is the new one are left out: a model that names them so has not been changed by the edit.

    Args:
        others: from whom they are drawn.
        answers: False where the question is about something that the data set does not know.
    """
    pool = [other for other in others if not answers or other.facts[kind] != target]
    probes = []
    for index, other in enumerate(nearest(concept, pool, draw, NEIGHBOURS)):
        picture, tags = one_drawing(data, other, split, draw, seen=index % 2 == 0)
        tags |= {"near": "group" if other.group == concept.group else "domain", "fact": fact(other, kind)}
        answer = other.facts[kind] if answers else None
        probes.append(Probe(picture, question, answer, tags, f"near_image/{index}"))
    return tuple(probes)


def alike(
    data: IconData, concept: Concept, kind: str, question: str, split: EditSplit, draw: random.Random
) -> tuple[Probe, ...]:
    """Ask about other things that have the same true answer: the same question of their pictures, and without any."""
    others = [one for one in within(data, concept.domain, split, concept) if one.facts[kind] == concept.facts[kind]]
    probes = []
    for index, other in enumerate(nearest(concept, others, draw, ALIKE)):
        picture, tags = one_drawing(data, other, split, draw, seen=index % 2 == 0)
        tags["fact"] = fact(other, kind)
        probes.append(Probe(picture, question, other.facts[kind], tags, f"same_answer/{index}"))
    key = f"{concept.domain}.{kind}"
    if key in all_wordings()["text"]:
        for other in draw.sample(others, min(ALIKE, len(others))):
            text = draw.choice(data.text_wordings(key, split)).format(name=other.name)
            tags = {"concept": other.id, "fact": fact(other, kind, pictured=False)}
            probes.append(Probe(None, text, other.facts[kind], tags, f"same_answer/{len(probes)}"))
    return tuple(probes)


def text_questions(data: IconData, concept: Concept | None, split: EditSplit, draw: random.Random) -> tuple[Probe, ...]:
    """Ask without a picture: facts about other concepts, and general knowledge."""
    probes = []
    keys = sorted(all_wordings()["text"])
    for index in range(OTHERS // 2):
        key = draw.choice(keys)
        domain, kind = key.split(".")
        pool = within(data, domain, split, concept)
        if not pool:
            continue
        other = draw.choice(pool)
        text = draw.choice(data.text_wordings(key, split)).format(name=other.name)
        tags = {"kind": key, "concept": other.id, "fact": fact(other, kind, pictured=False)}
        probes.append(Probe(None, text, other.facts[kind], tags, f"text_locality/{index}"))
    return (*probes, *general_questions(split, draw, OTHERS - len(probes), len(probes)))


def general_questions(split: EditSplit, draw: random.Random, count: int, first: int = 0) -> Iterator[Probe]:
    """Ask what everybody knows, without a picture."""
    general = wordings_of(split, "general")
    for index, (text, answer) in enumerate(draw.sample(general, min(count, len(general))), first):
        yield Probe(None, text, answer, {"kind": "general", "fact": f"general/{text}"}, f"text_locality/{index}")


def unrelated(
    data: IconData,
    concept: Concept | None,
    split: EditSplit,
    draw: random.Random,
    splits: Sequence[EditSplit] | None = None,
) -> tuple[Probe, ...]:
    """Ask other questions of pictures of other domains, seen and held-out drawings in turns.

    Args:
        concept: None: of every domain.
        splits: from which splits the concepts are; the edit's own where it is None.
    """
    domains = [domain for domain in NAME_KIND if concept is None or domain != concept.domain]
    pool = [other for domain in domains for one in splits or (split,) for other in within(data, domain, one)]
    probes = []
    for index, other in enumerate(draw.sample(pool, min(OTHERS, len(pool)))):
        kind = NAME_KIND[other.domain] if index % 4 < 2 else draw.choice(SECOND_KINDS[other.domain])
        text = draw.choice(data.wordings(other.domain, kind, split))
        picture, tags = one_drawing(data, other, split, draw, seen=index % 2 == 0)
        tags |= {"domain": other.domain, "kind": kind, "fact": fact(other, kind)}
        probes.append(Probe(picture, text, other.facts[kind], tags, f"random_image/{index}"))
    return tuple(probes)


def other_questions(
    data: IconData, concept: Concept, kinds: Sequence[str], picture: IconPicture, split: EditSplit, draw: random.Random
) -> tuple[Probe, ...]:
    """Ask for these other facts on the edited picture itself."""
    return tuple(
        Probe(
            picture,
            draw.choice(data.wordings(concept.domain, other, split)),
            concept.facts[other],
            {"kind": other, "fact": fact(concept, other)},
            f"other_question/{other}",
        )
        for other in kinds
    )
