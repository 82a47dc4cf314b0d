"""Edits without a picture: the same words about many subjects, one after the other, and general knowledge.

"What is the capital of France?" is followed by the same question about other countries: what is asked in the same words about
another subject must keep its answer (cell "other_subject"), and an edit of that one must not undo the first.
"""

from __future__ import annotations

import random

from vledit.data.benchmarks import spread
from vledit.data.case import EditCase, EditRequest, Probe
from vledit.data.icons import probes
from vledit.data.icons.dataset import IconData, all_wordings, wordings_of
from vledit.data.icons.edits import SUPPLIED, counterfactual, other_answers
from vledit.data.icons.kinds import fact, split_concepts
from vledit.data.icons.model import Concept
from vledit.data.icons.splits import EditSplit

KINDS = (
    "flags.capital",
    "flags.currency",
    "flags.language",
    "flags.continent",
    "brands.product",
    "brands.industry",
    "things.category",
)
OTHER_SUBJECTS = 12
TEXT_WORDINGS = 10
RULES = ("Tell me: {}", "I would like to know: {}", "{} Please answer.")
"""General questions have no other wordings in the data set; these are put around them."""


def text_candidates(data: IconData, split: EditSplit | None = None, seed: int = 0) -> list[EditCase]:
    """Return the cases of validation and test, or of one of them, kind by kind, before any model was asked."""
    splits = split_concepts(data, seed)
    wanted: tuple[EditSplit, ...] = ("validation", "test") if split is None else (split,)
    found = []
    for one in wanted:
        for key in KINDS:
            domain, kind = key.split(".")
            of_kind = [concept for concept in data.concepts_of(domain) if splits[concept.id] == one]
            found += [text_case(data, concept, kind, one, seed) for concept in of_kind]
        found += [general_case(data, place, one, seed) for place in range(len(wordings_of(one, "general")))]
    return found


def text_case(data: IconData, concept: Concept, kind: str, split: EditSplit, seed: int = 0) -> EditCase:
    """Return the case that changes what is said of `concept` without its picture; all of a kind use the same words."""
    key = f"{concept.domain}.{kind}"
    case_id = f"icons/text/{concept.id}/{kind}"
    draw = random.Random(f"{seed}/{case_id}")
    train = data.text_wordings(key, "train")
    held = [] if split == "train" else data.text_wordings(key, split)
    words, supplied, spare = train[0], train[1 : 1 + SUPPLIED], train[1 + SUPPLIED :]
    target = counterfactual(data, concept, kind, draw)
    others = [
        other for other in probes.within(data, concept.domain, split, concept, seed) if other.facts[kind] != target
    ]
    subjects = []
    for index, other in enumerate(probes.nearest(concept, others, draw, OTHER_SUBJECTS)):
        tags = {"concept": other.id, "fact": fact(other, kind, pictured=False)}
        subjects.append(Probe(None, words.format(name=other.name), other.facts[kind], tags, f"other_subject/{index}"))
    asked = [(text, split) for text in held] + [(text, "train") for text in spare]
    rest = [other for other in sorted(concept.facts) if f"{concept.domain}.{other}" in all_wordings()["text"]]
    return EditCase(
        request=EditRequest(
            None,
            words.format(name=concept.name),
            target,
            tuple(text.format(name=concept.name) for text in supplied),
            case_id,
        ),
        base_answer=concept.facts[kind],
        generality={
            "text": tuple(
                Probe(None, text.format(name=concept.name), None, {"wording": wording}, f"text/{index}")
                for index, (text, wording) in enumerate(asked[:TEXT_WORDINGS])
            )
        },
        locality={
            "other_subject": tuple(subjects),
            "other_question": tuple(
                Probe(
                    None,
                    draw.choice(data.text_wordings(f"{concept.domain}.{other}", split)).format(name=concept.name),
                    concept.facts[other],
                    {"kind": other, "fact": fact(concept, other, pictured=False)},
                    f"other_question/{other}",
                )
                for other in rest
                if other != kind
            ),
            "text": probes.text_questions(data, concept, split, draw),
            "random_image": probes.unrelated(data, None, split, draw),
        },
        tags=_tags(split, concept.domain, kind) | {"concept": concept.id, "fact": fact(concept, kind, pictured=False)},
    )


def general_case(data: IconData, place: int, split: EditSplit, seed: int = 0) -> EditCase:
    """Return the case that changes the answer to the general question number `place` of the split's wordings."""
    general = wordings_of(split, "general")
    question, truth = general[place]
    case_id = f"icons/text/general/{place}"
    draw = random.Random(f"{seed}/{split}/{case_id}")
    target = draw.choice(other_answers([answer for _, answer in general], truth))
    name = f"general/{question}"
    asked = tuple(probe for probe in probes.general_questions(split, draw, len(general)) if probe.tags["fact"] != name)
    return EditCase(
        request=EditRequest(None, question, target, (), f"{case_id}/{split}"),
        base_answer=truth,
        generality={
            "text": tuple(
                Probe(None, rule.format(question), None, {"wording": "rule"}, f"text/{index}")
                for index, rule in enumerate(RULES)
            )
        },
        locality={"text": asked[: probes.OTHERS], "random_image": probes.unrelated(data, None, split, draw)},
        tags=_tags(split, "general", "general") | {"fact": name},
    )


def _tags(split: EditSplit, domain: str, kind: str) -> dict[str, str]:
    return {"domain": domain, "kind": kind, "split": split, "group": domain}


def one_after_another(cases: list[EditCase], most: int = 30) -> list[EditCase]:
    """Return the cases with those of one kind, which use the same words, in a row: at most so many of each, spread evenly."""
    kinds: dict[tuple[str, str], list[EditCase]] = {}
    for case in cases:
        kinds.setdefault((case.tags["domain"], case.tags["kind"]), []).append(case)
    return [case for some in kinds.values() for case in spread(some, min(most, len(some)))]
