"""The built data set itself; skipped where it is not built."""

from __future__ import annotations

import re

import pytest

from vledit.data.icons import NotBuilt, card, edits, kinds, load, sheet
from vledit.data.icons.dataset import all_wordings
from vledit.data.icons.sets import DOMAINS
from vledit.data.icons.splits import HELD_OUT_HANDS, VALIDATION_HANDS

pytestmark = pytest.mark.icons


@pytest.fixture(scope="module")
def data():
    try:
        found = load()
    except NotBuilt as error:
        pytest.skip(str(error))
    if {concept.domain for concept in found.concepts.values()} != set(DOMAINS):
        pytest.skip("only a part of the data set is built; run: vledit data build icons")
    return found


def test_each_domain_is_as_large_as_promised(data):
    counts = {domain: len(data.concepts_of(domain)) for domain in DOMAINS}
    assert counts["things"] >= 450
    assert counts["flags"] >= 185
    assert counts["brands"] >= 150


def test_names_are_unique_and_every_fact_has_an_answer(data):
    for domain in DOMAINS:
        concepts = data.concepts_of(domain)
        names = [concept.name.lower() for concept in concepts]
        assert len(set(names)) == len(names)
        assert all(value.strip() == value and value for concept in concepts for value in concept.facts.values())


def test_no_hand_is_on_both_sides(data):
    for drawing in data.drawings:
        assert (drawing.split == "held_out") == (drawing.hand in HELD_OUT_HANDS)
    for domain in DOMAINS:
        splits = [{d.split for d in data.drawings_of(concept.id)} for concept in data.concepts_of(domain)]
        assert all("train" in found for found in splits)
        held_out = sum("held_out" in found for found in splits) / len(splits)
        assert held_out > (0.95 if domain != "brands" else 0.6)


def test_no_picture_is_on_both_sides(data):
    sides: dict[str, set[str]] = {}
    for drawing in data.drawings:
        sides.setdefault(drawing.sha256, set()).add(drawing.split)
    assert all(len(found) == 1 for found in sides.values())


def test_things_have_independent_hands(data):
    hands = [len({d.hand for d in data.drawings_of(concept.id)}) for concept in data.concepts_of("things")]
    assert min(hands) >= 4
    assert sorted(hands)[len(hands) // 10] >= 5


def test_no_wording_is_in_two_splits():
    wordings = all_wordings()
    for domain in (*DOMAINS, "text"):
        for kind, split in wordings[domain].items():
            plain = {side: {re.sub(r"\W+", " ", text.lower()).strip() for text in split[side]} for side in split}
            assert plain["train"].isdisjoint(plain["test"] | plain["validation"]), (domain, kind)
            assert plain["test"].isdisjoint(plain["validation"]), (domain, kind)
            assert min(map(len, plain.values())) >= 3
            assert len(plain["train"]) >= 10


def test_pictures_are_there_and_drawn(data):
    for drawing in data.drawings[:: len(data.drawings) // 60]:
        low, high = data.picture(drawing).getchannel("A").getextrema()
        assert high > 200, drawing.id
        assert low < high or drawing.style == "colour"


def test_there_are_enough_edits(data):
    total = sum(len(kinds.edited_kinds(concept)) for concept in data.concepts.values())
    assert total >= 1500
    concepts = [concept for domain in DOMAINS for concept in data.concepts_of(domain)[::60]]
    splits = kinds.split_concepts(data)
    for concept in concepts:
        case = edits.make_case(data, concept, kinds.NAME_KIND[concept.domain], splits[concept.id])
        assert min(len(case.generality["text"]), len(case.generality["image"]), len(case.locality["near_image"])) >= 10
        assert case.request.image.open().size == (192, 192)


def test_the_card_counts_what_is_there(data):
    text = card.data_card(data)
    assert f"{len(data.concepts)} concepts, {len(data.drawings)} drawings" in text
    assert "trademarks of their owners" in text
    assert all(
        f"| {hand} | {'validation' if hand in VALIDATION_HANDS else 'test'} |" in text for hand in HELD_OUT_HANDS
    )


def test_the_contact_sheet_shows_each_domain(data):
    picture = sheet.contact_sheet(data, per_domain=2, columns=4)
    assert picture.size == (128 + 4 * 56, 6 * 56)
    assert len(set(picture.resize((60, 60)).getdata())) > 200
