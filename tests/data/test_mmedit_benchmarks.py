"""E-VQA, E-IC and VLKEB: miniature files of the published forms become cases, and nothing of them is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vledit.data import benchmarks, eic, evqa, vlkeb
from vledit.data.case import EditCase
from vledit.data.fingerprint import Known, fingerprint
from vledit.data.mmedit import counts
from vledit.data.reading import Files, demand, unfit_answers
from vledit.errors import InputError, MissingDataError

from .miniature_benchmarks import CAPTION, ENTITY, MULTI_HOP, ONE_HOP, RECORD, draw, pictures_of, write_json

READERS = {"evqa": RECORD, "eic": CAPTION, "vlkeb": ENTITY}


def read(name: str, root: Path, *records: Any, images: bool = True, **options: Any):
    path = write_json(root / "annotations.json", list(records))
    if images:
        draw(root, *pictures_of(*(r for r in records if isinstance(r, dict))))
    return benchmarks.read(name, Files(path, (root,), **options))


def only(name: str, root: Path, record: dict[str, Any], **options: Any) -> EditCase:
    (case,) = demand(read(name, root, record, **options))
    return case


def test_evqa(tmp_path: Path):
    case = only("evqa", tmp_path, RECORD)
    request = case.request
    assert (request.question, request.answer, case.base_answer) == (RECORD["src"], "2", "no")
    assert request.image == tmp_path / RECORD["image"]
    assert request.rephrases == ()
    (text,), (image,) = case.generality["text"], case.generality["image"]
    assert (text.image, text.question) == (request.image, "What is the number of tennis balls depicted in the image?")
    assert (image.image, image.question) == (tmp_path / RECORD["image_rephrase"], request.question)
    (asked,), (random,) = case.locality["text"], case.locality["random_image"]
    assert (asked.image, asked.question) == (None, "what purpose did seasonal monsoon winds have on trade")
    assert asked.answer == RECORD["loc_ans"]
    assert (random.image, random.question, random.answer) == (
        tmp_path / RECORD["m_loc"],
        RECORD["m_loc_q"],
        "motocross",
    )
    assert case.id == "evqa/00000"


def test_as_published_keeps_every_text_to_the_letter(tmp_path: Path):
    case = only("evqa", tmp_path, RECORD, as_published=True)
    assert case.generality["text"][0].question == RECORD["rephrase"]
    assert case.locality["text"][0].question == RECORD["loc"]
    entity = {**ENTITY, "alt": "The_Prize_(1963_film)"}
    assert only("vlkeb", tmp_path, entity, as_published=True).request.answer == "The_Prize_(1963_film)"


def test_rephrasings_for_training_are_taken_as_such(tmp_path: Path):
    record = {**RECORD, "rephrased_questions_train": ["Can you count them?", "How many?"], "locality_answer_train": "3"}
    assert only("evqa", tmp_path, record).request.rephrases == ("Can you count them?", "How many?")


def test_the_rephrasing_that_is_scored_is_not_given_to_the_editor(tmp_path: Path):
    case = only("evqa", tmp_path, RECORD)
    assert case.generality["text"][0].question not in case.request.rephrases


def test_what_a_language_model_said_around_a_rephrasing_is_marked(tmp_path: Path):
    chatter = '"What is he doing?"\n\nRewritten:\n"What is his activity?"'
    plain = 'What color is the word "red"?'
    reading = read("evqa", tmp_path, {**RECORD, "rephrase": chatter}, {**RECORD, "rephrase": plain})
    first, second = (case.generality["text"][0] for case in reading.cases)
    assert (first.question, first.tags) == (chatter, {"wording": "unclean"})
    assert (second.question, second.tags) == (plain, {})
    assert any("1 rephrasings hold more" in note for note in reading.notes)


def test_eic_takes_a_sentence_as_its_target(tmp_path: Path):
    case = only("eic", tmp_path, CAPTION)
    assert case.request.answer == "Employees working at a cafe that has donuts on the counter."
    assert (case.request.question, case.generality["text"][0].question) == ("a photo of", "describe this picture,")
    assert case.generality["image"][0].image == tmp_path / CAPTION["image_rephrase"]


def test_eic_says_which_targets_may_be_too_long_for_a_model(tmp_path: Path):
    long = {**CAPTION, "alt": "word " * (eic.LONG_TARGET + 5)}
    (note,) = [note for note in read("eic", tmp_path, CAPTION, long).notes if "max_answer_tokens" in note]
    assert "1 targets" in note
    assert "longest 45" in note
    assert not [note for note in read("eic", tmp_path, CAPTION).notes if "max_answer_tokens" in note]


def test_vlkeb_without_portability(tmp_path: Path):
    case = only("vlkeb", tmp_path, ENTITY)
    assert (case.request.answer, case.base_answer) == ("Fort Smith, Arkansas", "Wichita Falls, Texas")
    assert case.locality["text"][0].question == ENTITY["loc"]
    assert case.portability == {}


def test_vlkeb_one_hop(tmp_path: Path):
    case = only("vlkeb", tmp_path, ONE_HOP)
    ((probe,),) = case.portability.values()
    assert set(case.portability) == {"1-hop"}
    assert (probe.image, probe.answer) == (case.request.image, "Central Time Zone")
    assert probe.question == ONE_HOP["port_new"][0]["port_q"]
    assert case.tags["hop_question"] == "What timezone does Fort Smith, Arkansas follow?"
    assert case.tags["hop_answer"] == "Central Time Zone"


def test_vlkeb_multi_hop(tmp_path: Path):
    case = only("vlkeb", tmp_path, MULTI_HOP)
    found = {hop: [(p.question, p.answer) for p in probes] for hop, probes in case.portability.items()}
    assert found == {
        "1-hop": [("In which state is this city?", "Arkansas")],
        "2-hop": [
            ("What is the capital of its state?", "Little Rock"),
            ("What river runs by its capital?", "Arkansas River"),
        ],
        "4-hop": [("Who governed it in 1990?", "Bill Clinton")],
    }
    assert len({probe.id for probes in case.portability.values() for probe in probes}) == 4


@pytest.mark.parametrize(
    "damage",
    [
        {"port_new": [{"port_type": "5-hop", "Q&A": {"Question": "q", "Answer": "a"}}]},
        {"port_new": [{"port_type": "1-hop", "Q&A": None}]},
        {"port_new": [{"port_q": "q"}]},
        {"port_new": "none"},
    ],
)
def test_an_unfit_hop_is_told_not_dropped(tmp_path: Path, damage: dict):
    reading = read("vlkeb", tmp_path, {**ENTITY, **damage})
    assert len(reading.bad) == 1
    assert reading.cases == ()


@pytest.mark.parametrize(
    ("name", "page_title", "written"),
    [
        ("vlkeb", "The_Prize_(1963_film)", "The Prize (1963 film)"),
        ("vlkeb", '"female_illusionist"', "female illusionist"),
        ("evqa", "snake_case", "snake_case"),
        ("evqa", '"don\'t shoot"', "don't shoot"),
    ],
)
def test_names_as_people_write_them(tmp_path: Path, name: str, page_title: str, written: str):
    case = only(name, tmp_path, {**READERS[name], "alt": page_title, "pred": page_title})
    assert case.request.answer == case.base_answer == written


def test_answers_of_many_words_are_kept_whole(tmp_path: Path):
    long = {**RECORD, "alt": "the old clock tower", "loc_ans": "word " * 212}
    case = only("evqa", tmp_path, long)
    assert case.request.answer == "the old clock tower"
    assert len((case.locality["text"][0].answer or "").split()) == 212


def test_answers_that_a_model_cannot_score_are_found(tmp_path: Path):
    hop = {"port_type": "1-hop", "Q&A": {"Question": "q?", "Answer": "one two three four five"}}
    cases = demand(read("vlkeb", tmp_path, {**ENTITY, "loc_ans": "word " * 212, "port_new": [hop]}, ENTITY))
    asked: list[tuple[str, str, bool]] = []

    def tokens(question: str, answer: str, with_image: bool) -> None:
        asked.append((question, answer, with_image))
        if len(answer.split()) > 4:
            raise InputError("answer is 5 tokens long")

    (line,) = unfit_answers(cases, tokens)
    assert line == "vlkeb/00000, portability/1-hop: answer is 5 tokens long"
    assert (ENTITY["src"], ENTITY["alt"], True) in asked


def test_an_empty_locality_answer_leaves_it_to_the_base(tmp_path: Path):
    case = only("evqa", tmp_path, {**RECORD, "m_loc_a": ""})
    assert case.locality["random_image"][0].answer is None


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("field", ["src", "alt", "rephrase", "image", "image_rephrase", "loc", "m_loc", "m_loc_q"])
def test_an_unfit_record_is_named_with_its_field(tmp_path: Path, name: str, field: str):
    reading = read(name, tmp_path, READERS[name], {**READERS[name], field: ""}, "no record at all")
    assert [(bad.index, bad.field) for bad in reading.bad] == [(1, field), (2, "record")]
    with pytest.raises(InputError, match=rf"record 1: field '{field}' is empty"):
        demand(reading)
    assert len(demand(reading, skip_bad=True)) == 1


def test_every_missing_picture_is_listed_once(tmp_path: Path):
    draw(tmp_path, RECORD["image"], RECORD["image_rephrase"])
    reading = read("evqa", tmp_path, RECORD, RECORD, images=False)
    (missing,) = reading.missing
    assert (missing.name, missing.uses) == (RECORD["m_loc"], 2)
    assert missing.first == "record 0, locality/random_image"
    with pytest.raises(MissingDataError) as raised:
        demand(reading)
    assert str(raised.value).count(RECORD["m_loc"]) == 1


def test_what_skipping_leaves_out_is_counted(tmp_path: Path):
    draw(tmp_path, RECORD["image"], RECORD["image_rephrase"])
    gone = {**RECORD, "image": "val2014/gone.jpg", "m_loc": RECORD["image"]}
    reading = read("evqa", tmp_path, RECORD, gone, images=False)
    (case,) = demand(reading, skip_missing=True)
    assert case.id == "evqa/00000"
    assert set(case.locality) == {"text"}
    assert reading.left_out == ("evqa/00001",)
    assert reading.dropped == {"locality/random_image": 1}
    said = " ".join(reading.summary())
    assert "1 of 2 records are left out" in said
    assert "1 of locality/random_image" in said


def test_nothing_left_is_an_error(tmp_path: Path):
    reading = read("evqa", tmp_path, RECORD, images=False)
    with pytest.raises(InputError, match="no case is left of 1 records"):
        demand(reading, skip_missing=True)
    with pytest.raises(InputError, match="no case is left of 0 records"):
        demand(read("evqa", tmp_path))


def test_a_long_list_of_missing_pictures_is_cut_in_the_message_only(tmp_path: Path):
    records = [{**RECORD, "image": f"val2014/{n}.jpg"} for n in range(50)]
    reading = read("evqa", tmp_path, *records, images=False)
    assert len(reading.missing) == 52
    with pytest.raises(MissingDataError, match="and 32 more"):
        demand(reading)


def test_two_locality_questions_are_warned_of(tmp_path: Path):
    few = [{**RECORD, "loc": f"nq question: question {n % 2}"} for n in range(12)]
    assert any("2 different questions only" in note for note in read("evqa", tmp_path, *few).notes)
    many = [{**RECORD, "loc": f"nq question: question {n}"} for n in range(12)]
    assert not any("different questions only" in note for note in read("evqa", tmp_path, *many).notes)


def test_a_file_is_known_by_its_content_whatever_its_blanks_and_key_order(tmp_path: Path):
    records = [RECORD, CAPTION]
    first = fingerprint(records, counts(records), ())
    known = (Known("our file", first.content),)
    turned = [dict(reversed(record.items())) for record in records]
    assert fingerprint(turned, counts(turned), known).name == "our file"
    assert fingerprint([CAPTION, RECORD], counts(records), known).name == ""


def test_a_file_of_the_same_counts_looks_like_a_known_one():
    records = [RECORD] * 3
    known = (
        Known("old", "0" * 64, {"records": 3}),
        Known("other", "", {"records": 4}),
        Known("told", "", {"records": 3}, "a page"),
    )
    found = fingerprint(records, counts(records), known)
    assert found.looks_like == ("old", "told (counts of a page)")
    assert "looks like old or told" in str(found)
    assert "not a file that we know (" in str(fingerprint([], {"records": 0}, known))


@pytest.mark.parametrize("module", [evqa, eic, vlkeb])
def test_known_files_are_told_apart(module: Any):
    hashes = [known.content for known in module.KNOWN if known.content]
    assert len(hashes) == len(set(hashes)) >= 3
    assert all(len(content) == 64 and set(content) <= set("0123456789abcdef") for content in hashes)
    assert all(known.content or (known.counts and known.source) for known in module.KNOWN)


def test_counts_tell_the_two_evqa_files_apart():
    wide, narrow = evqa.KNOWN[0].counts, evqa.KNOWN[2].counts
    assert wide["records"] == narrow["records"]
    assert wide["distinct text-locality questions"] != narrow["distinct text-locality questions"]


def test_hops_are_counted_in_either_form():
    assert vlkeb._counts([ONE_HOP, MULTI_HOP, ENTITY, "x"])["portability 1-hop"] == 2
    assert vlkeb._counts([MULTI_HOP])["portability 2-hop"] == 2
