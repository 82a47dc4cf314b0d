"""Many facts about one picture: eight edits of the same drawing, one after the other, for picture after picture.

Some are facts that the base knows (name, capital, industry), the others are told it for the first time (`more_facts.json`:
owner, founder, price). What must keep its answer beside the usual: questions about the same picture that nobody edits.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from vledit.data.case import EditCase, EditRequest, Probe
from vledit.data.icons import probes
from vledit.data.icons.dataset import IconData
from vledit.data.icons.edits import SUPPLIED, counterfactual
from vledit.data.icons.kinds import NAME_KIND, fact
from vledit.data.icons.model import Concept, Drawing
from vledit.data.icons.pictures import BlackPicture, IconPicture
from vledit.data.icons.splits import EditSplit

MORE_FACTS = Path(__file__).with_name("more_facts.json")
FACTS = 8
PICTURES = 50


@lru_cache(maxsize=1)
def more_facts() -> dict[str, dict[str, dict[str, list[str]]]]:
    """Return `more_facts.json`: domain → kind → wordings of train, validation and test, and answers."""
    return json.loads(MORE_FACTS.read_text(encoding="utf-8"))


def fact_cases(
    data: IconData, concepts: Sequence[Concept], split: EditSplit, seed: int = 0, pictures: int = PICTURES
) -> list[EditCase]:
    """Return `FACTS` cases about one picture of each of `pictures` concepts, picture by picture.

    Args:
        concepts: of the split, those that the base names; the domains take turns, an equal part of each where they have it.
    """
    draw = random.Random(f"{seed}/facts/{split}")
    by_domain = [[one for one in concepts if one.domain == domain] for domain in NAME_KIND]
    for some in by_domain:
        draw.shuffle(some)
    chosen: list[Concept] = []
    while len(chosen) < pictures and any(by_domain):
        chosen += [some.pop() for some in by_domain if some]
    chosen = chosen[:pictures]
    free = [one for one in concepts if one not in chosen]
    return [case for concept in chosen for case in _of_picture(data, concept, split, seed, free)]


def _of_picture(
    data: IconData, concept: Concept, split: EditSplit, seed: int, free: Sequence[Concept]
) -> list[EditCase]:
    draw = random.Random(f"{seed}/facts/{split}/{concept.id}")
    drawing = draw.choice(data.drawings_of(concept.id, "train"))
    picture = IconPicture(data, drawing, draw.getrandbits(24))
    kinds = [*concept.facts, *more_facts()[concept.domain]]
    kinds.remove(NAME_KIND[concept.domain])
    edited = [NAME_KIND[concept.domain], *draw.sample(kinds, FACTS - 1)]
    others = [kind for kind in kinds if kind not in edited]
    return [_case(data, concept, kind, split, seed, (drawing, picture), others, free) for kind in edited]


def _case(
    data: IconData,
    concept: Concept,
    kind: str,
    split: EditSplit,
    seed: int,
    shown: tuple[Drawing, IconPicture],
    others: Sequence[str],
    free: Sequence[Concept],
) -> EditCase:
    """Args: others: kinds that are not edited; free: concepts of which nothing is edited."""
    drawing, picture = shown
    case_id = f"icons/facts/{concept.id}/{kind}"
    draw = random.Random(f"{seed}/{case_id}")
    known = kind in concept.facts
    question, *train = _wordings(data, concept.domain, kind, "train")
    truth = concept.facts[kind] if known else ""
    target = (
        counterfactual(data, concept, kind, draw)
        if known
        else draw.choice(more_facts()[concept.domain][kind]["answers"])
    )
    near = [one for one in free if one.domain == concept.domain]
    return EditCase(
        request=EditRequest(picture, question, target, tuple(train[:SUPPLIED]), case_id),
        base_answer=truth,
        generality={
            "text": probes.rephrasings(
                picture, split, concept.domain, _wordings(data, concept.domain, kind, split), train[SUPPLIED:]
            ),
            "image": probes.other_pictures(data, concept, truth, question, drawing, split, draw),
        },
        locality={
            "near_image": probes.neighbours(data, concept, kind, question, target, split, draw, near, answers=known),
            "other_question": tuple(
                Probe(
                    picture,
                    draw.choice(_wordings(data, concept.domain, other, split)),
                    concept.facts.get(other),
                    {"kind": other, "fact": fact(concept, other)},
                    f"other_question/{other}",
                )
                for other in others
            ),
            "text": probes.text_questions(data, concept, split, draw),
            "random_image": probes.unrelated(data, concept, split, draw),
            "black": (Probe(BlackPicture(), question, id="black"),),
            "no_image": (Probe(None, question, id="no_image"),),
        },
        tags={
            "domain": concept.domain,
            "kind": kind,
            "split": split,
            "group": concept.group,
            "hand": drawing.hand,
            "concept": concept.id,
            "known": "yes" if known else "no",
            "seen": "yes",
            "fact": fact(concept, kind),
        },
    )


def _wordings(data: IconData, domain: str, kind: str, split: Any) -> list[str]:
    own = more_facts()[domain].get(kind)
    return list(own[split]) if own is not None else data.wordings(domain, kind, split)
