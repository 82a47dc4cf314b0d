"""The record that MMEdit's files share, and VLKEB's with them: E-VQA, E-IC and VLKEB are read with it.

``src, pred, rephrase, alt, image, image_rephrase, loc, loc_ans, m_loc, m_loc_q, m_loc_a``: the edit asks `src` about
`image` and wants `alt` (the right answer) where the backbone said `pred`. Source: Cheng et al., EMNLP 2023.

Cells: generality ``text`` (`rephrase` about the same picture) and ``image`` (`src` about `image_rephrase`); locality
``text`` (`loc`, without a picture) and ``random_image`` (`m_loc_q` about `m_loc`).

A record whose `image` is null edits a question without a picture; it has no cell ``image``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vledit.data.case import EditCase, EditRequest, Probe
from vledit.data.fingerprint import distinct, multi_word
from vledit.data.image_lookup import ImageLookup
from vledit.data.records import Record, unquoted, without_prefix

FEW_LOCALITY_QUESTIONS = 10

_CHATTER = re.compile(
    r'\n|\brewritten\b|\brephras|\bfollowing question\b|\bsorry\b|language model|"[^"]+"[^"]*"[^"]+\?"', re.IGNORECASE
)
"""What a language model says around a rephrasing, or instead of one: 79 of E-VQA's 8,438 records."""

Tidy = Callable[[str], str]


def as_it_is(text: str) -> str:
    """Return `text`."""
    return text


def tidied(as_published: bool) -> Tidy:
    """Return what cleans a question or an answer: the quotes around the whole of it go."""
    return as_it_is if as_published else unquoted


def case_of(
    record: Record, case_id: str, lookup: ImageLookup, as_published: bool, tidy: Tidy | None = None
) -> EditCase:
    """Return the case of one record; a picture that is not found stays in it as a `MissingPicture`.

    Args:
        as_published: keep quotes and prefixes to the letter.
        tidy: cleans the target and the old answer (default: quotes around the whole of it go).

    Raises: FieldError for a field that is missing, empty or no text.
    """
    clean = tidied(as_published)
    tidy = tidy or clean
    image = None if _is_text_only(record) else lookup.find(record.text("image"))
    question = clean(record.text("src"))
    rephrase = record.text("rephrase")
    asked = record.text("loc")
    request = EditRequest(
        image=image,
        question=question,
        answer=tidy(record.text("alt")),
        rephrases=tuple(clean(text) for text in record.texts("rephrased_questions_train")),
        id=case_id,
    )
    wording = {"wording": "unclean"} if _CHATTER.search(rephrase) else {}
    generality = {"text": (Probe(image, clean(rephrase), None, wording, "text/0"),)}
    if image is not None:
        generality["image"] = (Probe(lookup.find(record.text("image_rephrase")), question, None, {}, "image/0"),)
    locality = {
        "text": (
            Probe(
                None,
                asked if as_published else without_prefix(asked),
                record.text("loc_ans", "") or None,
                {},
                "text_locality/0",
            ),
        ),
        "random_image": (
            Probe(
                lookup.find(record.text("m_loc")),
                clean(record.text("m_loc_q")),
                tidy(record.text("m_loc_a", "")) or None,
                {},
                "random_image/0",
            ),
        ),
    }
    return EditCase(request, generality, locality, {}, tidy(record.text("pred", "")), {"kind": kind_of(request.answer)})


def _is_text_only(record: Record) -> bool:
    """Whether the record says that its question is about no picture (`"image": null`); a field that is not there is a fault."""
    return record.values.get("image", "") is None


def kind_of(answer: str) -> str:
    """Return the kind of answer that reports group by: number, yes/no, one word, or words."""
    if answer.isdigit():
        return "number"
    if answer.lower() in ("yes", "no"):
        return "yes/no"
    return "one word" if len(answer.split()) == 1 else "words"


def counts(records: Sequence[Any]) -> dict[str, int]:
    """Return the counts that tell files of this record apart."""
    return {
        "records": len(records),
        "distinct questions": distinct(records, "src"),
        "distinct targets": distinct(records, "alt"),
        "targets of several words": multi_word(records, "alt"),
        "distinct text-locality questions": distinct(records, "loc"),
        "distinct image-locality answers": distinct(records, "m_loc_a"),
    }


def notes(cases: Sequence[EditCase]) -> Iterable[str]:
    """Yield what to know about a file before trusting a figure of it."""
    asked = {probe.question for case in cases for probe in case.locality.get("text", ())}
    if len(cases) > FEW_LOCALITY_QUESTIONS >= len(asked):
        yield (
            f"text locality is asked with {len(asked)} different questions only; its figure says little about other texts"
        )
    unclean = sum("wording" in p.tags for case in cases for p in case.generality.get("text", ()))
    if unclean:
        yield f"{unclean} rephrasings hold more, or other things, than a question (tag wording=unclean); they are kept"
    same = sum(case.request.answer.casefold() == case.base_answer.casefold() for case in cases)
    if same:
        yield f"{same} edits ask for the answer that the record gives as the old one"
