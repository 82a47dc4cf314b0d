"""The edit set: nothing leaks from an edit's split, wordings or pictures into another's; the choice is repeatable."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vledit.data.icons import edit_filter, edits, text_edits
from vledit.data.icons.dataset import all_wordings
from vledit.data.icons.fact_edits import FACTS, fact_cases, more_facts
from vledit.data.icons.kinds import NAME_KIND, split_concepts
from vledit.data.icons.sequence import in_sequence
from vledit.data.icons.splits import TEST_HANDS, VALIDATION_HANDS
from vledit.errors import MissingDataError

from . import miniature


@pytest.fixture(scope="module")
def data():
    return miniature.described()


@pytest.fixture(scope="module")
def cases(data):
    return edits.candidates(data)


def test_no_concept_is_in_two_splits(data, cases):
    splits: dict[str, set[str]] = {}
    for case in cases:
        splits.setdefault(case.tags["concept"], set()).add(case.tags["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == {"train", "validation", "test"}
    assert sum(len(edits.candidates(data, split)) for split in ("train", "validation", "test")) == len(cases)


def test_ids_are_unique_and_cases_are_repeatable(data, cases):
    assert len({case.id for case in cases}) == len(cases)
    again = edits.candidates(data)
    assert [case.request for case in again] == [case.request for case in cases]
    assert [list(case.probes()) for case in again] == [list(case.probes()) for case in cases]
    assert [case.request for case in edits.candidates(data, seed=1)] != [case.request for case in cases]


def test_the_new_answer_is_another_of_the_same_kind(data, cases):
    for case in cases:
        domain, kind = case.tags["domain"], case.tags["kind"]
        answers = {concept.facts[kind] for concept in data.concepts_of(domain)}
        assert case.request.answer in answers - {case.base_answer}
        assert case.base_answer == data.concepts[case.tags["concept"]].facts[kind]


def test_a_name_changes_to_one_of_the_same_group(data, cases):
    named = {concept.name: concept for concept in data.concepts.values()}
    for case in cases:
        if case.tags["kind"] in NAME_KIND.values():
            assert named[case.request.answer].group == case.tags["group"]


def test_probes_are_many_and_ask_what_the_editor_was_not_given(cases):
    for case in cases:
        text = [probe.question for probe in case.generality["text"]]
        assert len(set(text)) == len(text) >= 10
        assert set(text).isdisjoint({case.request.question, *case.request.rephrases})
        assert {probe.tags["wording"] for probe in case.generality["text"]} == {"train", case.tags["split"]}
        assert len(case.generality["image"]) >= 10
        assert len(case.locality["near_image"]) >= (2 if case.tags["split"] == "validation" else 5)
        assert len(case.locality["random_image"]) >= (8 if case.tags["split"] == "validation" else 10)
        assert len(case.locality["text"]) >= 10


def test_the_edited_picture_is_of_a_train_hand_and_comes_back_only_in_another_setting(cases):
    for case in cases:
        assert case.request.image.drawing.split == "train"
        keys = [probe.image.key for probe in case.generality["image"]]
        assert len(set(keys)) == len(keys)
        assert case.request.image.key not in keys
        seen = {"yes"} if case.tags["split"] == "train" else {"yes", "no"}
        assert {probe.tags["seen"] for probe in case.generality["image"]} == seen


def shown(case):
    """Every (hand, concept) of a case's pictures, the edited one included."""
    images = [case.request.image, *(probe.image for _, _, _, probe in case.probes())]
    return {(one.drawing.hand, one.drawing.concept) for one in images if hasattr(one, "drawing")}


@pytest.fixture(scope="module")
def everything(data, cases):
    """All cases of all benchmarks, by split."""
    found = [*cases, *edits.candidates(data, seen=False), *text_edits.text_candidates(data)]
    splits = split_concepts(data)
    for split in ("validation", "test"):
        named = [concept for concept in data.concepts.values() if splits[concept.id] == split]
        found += fact_cases(data, named, split, pictures=6)
    return {split: [case for case in found if case.tags["split"] == split] for split in ("train", "validation", "test")}


def test_nothing_that_is_scored_on_test_is_seen_while_choosing(everything):
    hands = {split: {hand for case in some for hand, _ in shown(case)} for split, some in everything.items()}
    concepts = {split: {concept for case in some for _, concept in shown(case)} for split, some in everything.items()}
    assert not hands["train"] & (VALIDATION_HANDS | TEST_HANDS)
    assert not hands["validation"] & TEST_HANDS
    assert not hands["test"] & VALIDATION_HANDS
    assert hands["validation"] & VALIDATION_HANDS
    assert hands["test"] & TEST_HANDS
    assert not concepts["validation"] & concepts["test"]
    assert not concepts["train"] & (concepts["validation"] | concepts["test"])


def test_wordings_of_one_split_are_asked_in_no_other(data, everything):
    names = sorted((concept.name for concept in data.concepts.values()), key=len, reverse=True)

    def plain(text):
        for name in names:
            text = text.replace(name, "{name}")
        return text

    held = {"validation": set(), "test": set()}
    for split, texts in held.items():
        for domain in ("things", "flags", "brands", "text"):
            for kind in all_wordings()[domain].values():
                texts.update(kind[split])
        texts.update(question for question, _ in all_wordings()["general"][split])
        texts.update(text for kinds in more_facts().values() for kind in kinds.values() for text in kind[split])
    assert not held["validation"] & held["test"]
    for split, some in everything.items():
        asked = {plain(probe.question) for case in some for _, _, _, probe in case.probes()}
        for other in {"validation", "test"} - {split}:
            assert not asked & held[other], (split, other)


def test_held_out_pictures_are_edited_apart_and_asked_after_in_both_kinds(data):
    found = edits.candidates(data, seen=False)
    assert {case.tags["split"] for case in found} == {"validation", "test"}
    for case in found:
        assert case.request.image.drawing.split == "held_out"
        assert case.id.endswith("/held_out")
        for cell in ("near_image", "random_image"):
            assert {probe.tags["seen"] for probe in case.locality[cell][:2]} == {"yes", "no"}
            assert all(
                (probe.image.drawing.split == "train") == (probe.tags["seen"] == "yes") for probe in case.locality[cell]
            )


def test_things_with_the_same_answer_are_asked_after(data, cases):
    found = [probe for case in cases for probe in case.locality["same_answer"]]
    assert {probe.image is None for probe in found} == {True, False}
    for case in cases:
        assert all(probe.answer == case.base_answer for probe in case.locality["same_answer"])
        assert all(probe.tags["concept"] != case.tags["concept"] for probe in case.locality["same_answer"])


def test_many_facts_are_edited_of_one_picture(data):
    splits = split_concepts(data)
    named = [concept for concept in data.concepts.values() if splits[concept.id] == "test"]
    found = fact_cases(data, named, "test", pictures=6)
    assert len(found) == 6 * FACTS
    for start in range(0, len(found), FACTS):
        some = found[start : start + FACTS]
        assert len({case.request.image.key for case in some}) == 1
        assert len({case.request.question for case in some}) == len({case.tags["kind"] for case in some}) == FACTS
        edited = {case.tags["kind"] for case in some}
        assert all(edited.isdisjoint({p.tags["kind"] for p in case.locality["other_question"]}) for case in some)
        assert some[0].locality["other_question"]
    assert {case.tags["known"] for case in found} == {"yes", "no"}


def test_text_edits_ask_about_other_subjects_in_the_same_words(data):
    found = text_edits.text_candidates(data, "test")
    general = [case for case in found if case.tags["domain"] == "general"]
    assert general
    assert all(case.request.image is None for case in found)
    for case in found:
        assert case.request.answer != case.base_answer
        if case not in general:
            name = data.concepts[case.tags["concept"]].name
            words = case.request.question.replace(name, "{}")
            for probe in case.locality["other_subject"]:
                assert probe.question == words.format(data.concepts[probe.tags["concept"]].name)
                assert probe.answer != case.request.answer
            assert {probe.tags["wording"] for probe in case.generality["text"]} == {"test", "train"}
    row = text_edits.one_after_another(found, most=3)
    assert [case.tags["kind"] for case in row[:6]] == ["capital"] * 3 + ["currency"] * 3


def test_in_sequence_nobody_is_asked_to_keep_what_another_edit_changes(data):
    splits = split_concepts(data)
    cases = edits.candidates(data, "test")
    assert any(
        p.tags.get("fact") == c.tags["fact"] for case in cases for p in case.locality["near_image"] for c in cases
    )
    found = in_sequence(cases)
    edited = {case.tags["fact"] for case in cases}
    assert [case.request for case in found] == [case.request for case in cases]
    for before, case in zip(cases, found, strict=True):
        asked = [probe for family, _, _, probe in case.probes() if family == "locality"]
        assert not edited & {probe.tags.get("fact", "").removeprefix("text/") for probe in asked}  # nor in words alone
        assert case.generality == before.generality
        for cell in ("near_image", "random_image"):
            assert 0 < len(case.locality[cell]) <= len(before.locality[cell])
            more = [probe for probe in case.locality[cell] if probe.tags.get("from") == "train"]
            assert all(splits[probe.tags["concept"]] == "train" for probe in more)


def test_in_sequence_with_edits_of_the_train_split_these_are_not_asked_either(data):
    cases = [*edits.candidates(data, "test"), *edits.candidates(data, "train")]
    edited = {case.tags["fact"] for case in cases}
    for case in in_sequence(cases):
        asked = [probe for family, _, _, probe in case.probes() if family == "locality"]
        assert not edited & {probe.tags.get("fact", "").removeprefix("text/") for probe in asked}


def test_neighbours_are_near_and_never_the_new_answer(data, cases):
    for case in cases:
        near = [data.concepts[probe.tags["concept"]] for probe in case.locality["near_image"]]
        assert case.tags["concept"] not in {concept.id for concept in near}
        assert case.request.answer not in {probe.answer for probe in case.locality["near_image"]}
        assert near[0].group == case.tags["group"] or case.tags["kind"] in {"category", "continent", "industry"}


def test_locality_without_the_picture_is_asked(cases):
    for case in cases:
        assert case.locality["no_image"][0].image is None
        assert case.locality["black"][0].image.open().getextrema() == ((0, 0), (0, 0), (0, 0))
        assert all(probe.image is None for probe in case.locality["text"])
        assert all(probe.image is case.request.image for probe in case.locality["other_question"])
        assert all(probe.question not in (None, case.request.question) for probe in case.locality["other_question"])


def test_the_filter_keeps_what_the_model_knows(cases):
    truths = {(case.request.image.key, case.request.question): case.base_answer for case in cases}
    known = {case.id for case in cases[::2]}
    lookup = {case.request.image.key: case.id for case in cases}

    def answer(picture, question):
        truth = truths[picture.key, question]
        return f"The {truth.upper()}." if lookup[picture.key] in known else "nothing"

    one = edit_filter.answered_rightly(cases, answer)
    many = edit_filter.answered_rightly(cases, answer_many=lambda asked: [answer(*pair) for pair in asked])
    assert [case.id for case in one] == [case.id for case in many] == [case.id for case in cases[::2]]
    with pytest.raises(ValueError, match="answers came back"):
        edit_filter.answered_rightly(cases, answer_many=lambda asked: ["x"])


def lock_of(data, cases):
    return edit_filter.EditLock(edit_filter.by_split(cases), 0, data.version, "some model")


@pytest.mark.parametrize("part", ["held_out", "text"])
def test_the_lock_brings_back_the_other_parts(data, tmp_path, part):
    made = {"held_out": lambda: edits.candidates(data, seen=False), "text": lambda: text_edits.text_candidates(data)}
    kept = made[part]()[::5]
    path = tmp_path / "lock.json"
    edit_filter.write_lock(replace(lock_of(data, []), **{part: edit_filter.by_split(kept)}), path)
    for split in ("validation", "test"):
        wanted = [case for case in kept if case.tags["split"] == split]
        assert edit_filter.load_edits(split, data, path, part) == wanted
        assert wanted


def test_one_part_is_chosen_anew_and_the_others_stay(data, cases, tmp_path):
    path = tmp_path / "lock.json"
    before = edit_filter.write_lock(lock_of(data, cases[:7]), path)
    truths = {case.request.question: case.base_answer for case in text_edits.text_candidates(data)}
    asked = []

    def answer(picture, question):
        asked.append(picture)
        return truths[question]

    lock = edit_filter.filter_edits(data, "some model", answer, path=path, parts=["text"])
    assert lock.ids == before.ids
    assert set(asked) == {None}
    assert sum(map(len, lock.text.values())) == len(text_edits.text_candidates(data))
    with pytest.raises(MissingDataError, match="is of some model"):
        edit_filter.filter_edits(data, "another", answer, path=path, parts=["text"])


def test_the_lock_brings_back_the_same_cases(data, cases, tmp_path):
    path = tmp_path / "lock.json"
    kept = cases[1::3]
    lock = edit_filter.write_lock(lock_of(data, kept), path)
    assert (lock.model, lock.data_version) == ("some model", "miniature")
    for split in ("train", "validation", "test"):
        wanted = [case for case in kept if case.tags["split"] == split]
        loaded = edit_filter.load_edits(split, data, path)
        assert [case.request for case in loaded] == [case.request for case in wanted]
        assert [list(case.probes()) for case in loaded] == [list(case.probes()) for case in wanted]


def test_a_lock_of_another_build_is_refused(data, cases, tmp_path):
    path = tmp_path / "lock.json"
    edit_filter.write_lock(lock_of(data, cases), path)
    with pytest.raises(MissingDataError, match="another build"):
        edit_filter.load_edits("test", miniature.described(6), path)
    with pytest.raises(MissingDataError, match="vledit data edits icons"):
        edit_filter.load_edits("test", data, tmp_path / "missing.json")


@pytest.mark.parametrize(("given", "same"), [("A dog.", True), ("DOG", True), ("hot dog", False), ("", False)])
def test_answers_are_compared_as_a_reader_would(given, same):
    assert edit_filter.same_answer(given, "dog") is same
