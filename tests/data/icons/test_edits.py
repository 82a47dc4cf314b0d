"""The edit set: nothing leaks from an edit's split, wordings or pictures into another's; the choice is repeatable."""

from __future__ import annotations

import pytest

from vledit.data.icons import edit_filter, edits
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
        if case.tags["kind"] in edits.NAME_KIND.values():
            assert named[case.request.answer].group == case.tags["group"]


def test_probes_are_many_and_ask_what_the_editor_was_not_given(cases):
    for case in cases:
        text = [probe.question for probe in case.generality["text"]]
        assert len(set(text)) == len(text) >= 10
        assert set(text).isdisjoint({case.request.question, *case.request.rephrases})
        assert {probe.tags["wording"] for probe in case.generality["text"]} == {"train", "test"}
        assert len(case.generality["image"]) >= 10
        assert len(case.locality["near_image"]) >= 10
        assert len(case.locality["random_image"]) >= 10
        assert len(case.locality["text"]) >= 10


def test_the_edited_picture_is_of_a_train_hand_and_comes_back_only_in_another_setting(cases):
    for case in cases:
        assert case.request.image.drawing.split == "train"
        keys = [probe.image.key for probe in case.generality["image"]]
        assert len(set(keys)) == len(keys)
        assert case.request.image.key not in keys
        assert {probe.tags["seen"] for probe in case.generality["image"]} == {"yes", "no"}


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


def test_the_lock_brings_back_the_same_cases(data, cases, tmp_path):
    path = tmp_path / "lock.json"
    kept = cases[1::3]
    lock = edit_filter.write_lock(kept, data, "some model", path=path)
    assert (lock.model, lock.data_version) == ("some model", "miniature")
    for split in ("train", "validation", "test"):
        wanted = [case for case in kept if case.tags["split"] == split]
        loaded = edit_filter.load_edits(split, data, path)
        assert [case.request for case in loaded] == [case.request for case in wanted]
        assert [list(case.probes()) for case in loaded] == [list(case.probes()) for case in wanted]


def test_a_lock_of_another_build_is_refused(data, cases, tmp_path):
    path = tmp_path / "lock.json"
    edit_filter.write_lock(cases, data, "some model", path=path)
    with pytest.raises(MissingDataError, match="another build"):
        edit_filter.load_edits("test", miniature.described(6), path)
    with pytest.raises(MissingDataError, match="vledit data edits icons"):
        edit_filter.load_edits("test", data, tmp_path / "missing.json")


@pytest.mark.parametrize(("given", "same"), [("A dog.", True), ("DOG", True), ("hot dog", False), ("", False)])
def test_answers_are_compared_as_a_reader_would(given, same):
    assert edit_filter.same_answer(given, "dog") is same
