"""An edit set of OKEDIT's shape, made of the data set: one changed fact a case, and what it must and must not change.

A case changes what one picture of a concept is said to be (or one fact about it) to another answer of the same kind:
another mammal, another capital of the same continent, another maker of the same industry. Everything is a function of
(data set, seed, case id). Splits are by concept, wording and held-out hand: nothing that is scored on one is in another.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from vledit.data.case import EditCase, EditRequest, Probe
from vledit.data.icons import probes
from vledit.data.icons.dataset import IconData
from vledit.data.icons.kinds import edited_kinds, fact, split_concepts
from vledit.data.icons.model import Concept
from vledit.data.icons.pictures import BlackPicture, IconPicture
from vledit.data.icons.splits import EditSplit

SUPPLIED = 6
"""Train wordings handed to the editor; the probes use others."""
HELD_OUT = "held_out"
"""Last part of the id of an edit whose picture is a drawing that training never saw."""


def candidates(data: IconData, split: EditSplit | None = None, seed: int = 0, seen: bool = True) -> list[EditCase]:
    """Return the cases of one split, or of all, before any model was asked (see `edit_filter`).

    Args:
        seen: False: the edited picture is one by a held-out hand of the split; train has none of these.

    Raises: KeyError where `wordings.json` lacks a question of these kinds.
    """
    splits = split_concepts(data, seed)
    return [
        make_case(data, concept, kind, splits[concept.id], seed, seen)
        for concept in data.concepts.values()
        if split in (None, splits[concept.id])
        and data.drawings_of(concept.id, "train")
        and probes.drawings_of(data, concept, splits[concept.id], seen)
        for kind in edited_kinds(concept, seed)
    ]


def make_case(
    data: IconData, concept: Concept, kind: str, split: EditSplit, seed: int = 0, seen: bool = True
) -> EditCase:
    """Return the case that changes the fact `kind` of `concept`, with all its probes.

    Args:
        seen: whether the edited picture is a drawing that training saw, or one by a held-out hand of the split.
    """
    case_id = f"icons/{concept.id}/{kind}" + ("" if seen else f"/{HELD_OUT}")
    draw = random.Random(f"{seed}/{case_id}")
    train = list(data.wordings(concept.domain, kind, "train"))
    draw.shuffle(train)
    question, supplied, unseen = train[0], train[1 : 1 + SUPPLIED], train[1 + SUPPLIED :]
    target = counterfactual(data, concept, kind, draw)
    drawing = draw.choice(probes.drawings_of(data, concept, split, seen))
    picture = IconPicture(data, drawing, draw.getrandbits(24))
    held = [] if split == "train" else data.wordings(concept.domain, kind, split)
    truth = concept.facts[kind]
    others = probes.within(data, concept.domain, split, concept, seed)
    rest = [other for other in sorted(concept.facts) if other != kind]
    return EditCase(
        request=EditRequest(picture, question, target, tuple(supplied), case_id),
        base_answer=truth,
        generality={
            "text": probes.rephrasings(picture, split, concept.domain, held, unseen),
            "image": probes.other_pictures(data, concept, truth, question, drawing, split, draw),
        },
        locality={
            "near_image": probes.neighbours(data, concept, kind, question, target, split, draw, others),
            "text": probes.text_questions(data, concept, split, draw),
            "random_image": probes.unrelated(data, concept, split, draw),
            "other_question": probes.other_questions(data, concept, rest, picture, split, draw),
            "same_answer": probes.alike(data, concept, kind, question, split, draw),
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
            "seen": "yes" if seen else "no",
            "fact": fact(concept, kind),
        },
    )


def counterfactual(data: IconData, concept: Concept, kind: str, draw: random.Random) -> str:
    """Return another answer of the same kind: from the same group where it has one, else of the domain.

    Never one that is the true answer in other words (one contains the other: "horse", "carousel horse").
    Raises: ValueError where the domain has no other answer.
    """
    truth = concept.facts[kind]
    others = data.concepts_of(concept.domain)
    others.remove(concept)
    for nearby in probes.circles(concept, others):
        answers = other_answers([other.facts[kind] for other in nearby], truth)
        if answers:
            return draw.choice(answers)
    raise ValueError(f"{concept.id}: no other answer for {kind}")


def other_answers(answers: Sequence[str], truth: str) -> list[str]:
    """Return those that are not the true answer in other words, sorted, each once."""
    return [answer for answer in sorted(set(answers) - {truth}) if not _overlap(answer, truth)]


def _overlap(first: str, second: str) -> bool:
    one, two = first.lower(), second.lower()
    return one in two or two in one
