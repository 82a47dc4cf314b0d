"""Sources, prompts, replies that cannot be used, answers that agree, splits, and the plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vledit.data.build.agreement import agrees, overlap
from vledit.data.build.asking import Unusable, json_object
from vledit.data.build.chat import Endpoint, Pace, public_url
from vledit.data.build.construct import Wants
from vledit.data.build.plan import plan
from vledit.data.build.prompts import load_prompts
from vledit.data.build.sheet import read_review
from vledit.data.build.sources import read_source
from vledit.data.build.splits import SPLITS, read_shares, split_by
from vledit.errors import InputError, UnknownNameError

from .scripted_server import serving, square
from .world import construction, write_source


def picture(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        square("red").save(folder / name)


def test_csv_with_other_column_names_and_further_answers(tmp_path: Path):
    picture(tmp_path, "pics/a b.png")
    path = tmp_path / "own.csv"
    path.write_text('﻿Bild,Frage,answer,answers\n"pics/a b.png","Was, bitte?",dog,hound|pup\n', encoding="utf-8")
    (record,) = read_source(path, columns={"image": "Bild", "question": "Frage"}).records
    assert (record.id, record.question, record.answers) == ("1", "Was, bitte?", ("dog", "hound", "pup"))
    assert record.picture == tmp_path / "pics/a b.png"
    with pytest.raises(InputError, match="has no column 'Foto'"):
        read_source(path, columns={"image": "Foto"})
    with pytest.raises(UnknownNameError, match="Did you mean 'image'"):
        read_source(path, columns={"imag": "Bild"})


def test_jsonl_records_that_are_unfit_are_named_not_dropped(tmp_path: Path):
    picture(tmp_path, "1.png")
    rows = [
        {"image": "1.png", "question": "What?", "answer": "red", "answers": ["crimson"], "object": "a square"},
        {"image": "2.png", "question": "What?", "answer": "red"},
        {"image": "1.png", "question": " ", "answer": "red"},
        {"image": "1.png", "question": "What?", "answer": "red", "id": "1"},
        [1],
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    source = read_source(path)
    assert [record.id for record in source.records] == ["1"]
    assert source.records[0].object == "a square"
    assert source.read == 5
    assert [r.record for r in source.rejections] == ["#1", "#2", "#3", "#4"]
    assert "'2.png', which is not there" in source.rejections[0].reason
    assert source.rejections[1].reason == "field 'question' is empty"
    assert "was given to an earlier record" in source.rejections[2].reason
    path.write_text('{"image": \n')
    with pytest.raises(InputError, match="line 1: is not JSON"):
        read_source(path)


def test_okvqa(tmp_path: Path):
    picture(tmp_path, "val2014/COCO_val2014_000000000042.jpg", "train2014/COCO_train2014_000000000007.jpg")
    annotations = [
        {
            "question_id": 420,
            "image_id": 42,
            "question_type": "four",
            "answers": [
                {"answer": "surf", "raw_answer": "surfing"},
                {"answer": "surf", "raw_answer": "surfing"},
                {"answer": "swim", "raw_answer": "swimming"},
            ],
        },
        {"question_id": 70, "image_id": 7, "question_type": "four", "answers": [{"answer": "a", "raw_answer": "a"}]},
        {"question_id": 71, "image_id": 8, "answers": [{"answer": "a"}]},
        {"question_id": 99, "image_id": 42, "answers": [{"answer": "a"}]},
    ]
    asked = [{"question_id": n, "image_id": 42, "question": f"What {n}?"} for n in (420, 70, 71)]
    types = {"four": "Sports and Recreation"}
    path = tmp_path / "mscoco_val2014_annotations.json"
    path.write_text(json.dumps({"annotations": annotations, "question_types": types}))
    (tmp_path / "OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps({"questions": asked}))
    source = read_source(path)
    first, second = source.records
    assert (first.id, first.question, first.answer) == ("420", "What 420?", "surfing")
    assert first.answers == ("surfing", "swimming", "surf", "swim")
    assert first.category == "Sports and Recreation"
    assert second.picture.name == "COCO_train2014_000000000007.jpg"
    assert [r.reason[:20] for r in source.rejections] == ["field 'image_id' nam", "field 'question_id' "]


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.txt", "x", "none of .csv"),
        ("a.csv", "image;question;answer\n", "separated by commas"),
        ("a.csv", "image,question,answer\n", "no record"),
        ("a.json", "{}", "no list 'annotations'"),
    ],
)
def test_unfit_sources(tmp_path: Path, name: str, content: str, text: str):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=text):
        read_source(tmp_path / name)


@pytest.mark.parametrize(
    ("given", "expected", "others", "says"),
    [
        ("Dogs.", ["dog"], [], True),
        ("It is a golden retriever", ["golden retriever"], ["dog"], True),
        ("a carousel horse", ["carousel horse"], ["horse"], True),
        ("it may be a horse or a dog", ["horse"], ["dog"], False),
        ("not a horse", ["horse"], [], False),
        ("seahorse", ["horse"], [], False),
        ("", ["horse"], [], False),
        ("no", ["no"], ["yes"], True),
        ("a " + "very " * 20 + "long horse", ["horse"], [], False),
        ("Café", ["cafe"], [], True),
    ],
)
def test_what_agrees(given: str, expected: list[str], others: list[str], says: bool):
    assert agrees(given, expected, others) is says


def test_what_says_the_same():
    assert overlap("horse", "Carousel horses")
    assert not overlap("house", "horse")


@pytest.mark.parametrize(
    "text", ['{"a": 1}', '```json\n{"a": 1}\n```', 'Here you are: {"a": 1} I hope it helps.', '\n{"a": 1}\n']
)
def test_an_object_is_found(text: str):
    assert json_object(text) == {"a": 1}


@pytest.mark.parametrize("text", ["", "Sure!", "[1]", '{"a": ', "} {", '{"a" 1}'])
def test_what_is_no_object_cannot_be_used(text: str):
    with pytest.raises(Unusable):
        json_object(text)


def test_prompts_of_ones_own(tmp_path: Path):
    ours = load_prompts()
    assert "in 12 different ways: Why?" in ours["rephrase"].fill(question="Why?", count=12)
    (tmp_path / "picture.yaml").write_text("version: 7\nprompt: 'A drawing of {object}'\n")
    own = load_prompts(tmp_path)
    assert own["picture"].fill(object="a cat") == "A drawing of a cat"
    assert own["picture"].sha256 != ours["picture"].sha256
    assert own["object"] == ours["object"]
    for content, fault in (
        ("version: 1\nprompt: '{subject}'", r"uses \{subject\}; this step has \{object\}"),
        ("version: 1\nprompt: '{'", "braces that are meant"),
        ("prompt: 'x'", "whole numbers"),
        ("- x", "no text under 'prompt'"),
    ):
        (tmp_path / "picture.yaml").write_text(content)
        with pytest.raises(InputError, match=fault):
            load_prompts(tmp_path)
    (tmp_path / "picture.yaml").rename(tmp_path / "pictures.yaml")
    with pytest.raises(InputError, match=r"has pictures\.yaml; the steps are"):
        load_prompts(tmp_path)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 30)), max_size=60),
    st.integers(0, 3),
)
def test_records_that_share_a_key_are_in_one_split(keys: list[tuple[int, int]], seed: int):
    named = [(f"object {a}", f"picture {b}") for a, b in keys]
    found = split_by(named, read_shares("0.6,0.1,0.3"), seed)
    assert set(found) <= set(SPLITS)
    for first, one in zip(named, found, strict=True):
        for second, other in zip(named, found, strict=True):
            assert one == other or not set(first) & set(second)


def test_shares_are_kept_where_groups_are_small():
    found = split_by([(n,) for n in range(1000)], read_shares("0.6,0.1,0.3"))
    assert [found.count(split) for split in SPLITS] == [600, 100, 300]
    with pytest.raises(InputError, match="add up to 1"):
        read_shares("0.6,0.6,0.1")


def test_addresses_are_told_without_secrets():
    assert public_url("https://me:secret@host:81/v1/?key=1") == "https://host:81/v1"
    with pytest.raises(InputError, match="no address"):
        Endpoint("localhost:8000", "m")


def test_the_rate_is_kept():
    import time

    pace, started = Pace(60 * 50), time.monotonic()
    for _ in range(6):
        pace.wait()
    assert 0.1 <= time.monotonic() - started < 2


def test_the_plan_counts_what_is_then_asked(tmp_path: Path):
    source = write_source(tmp_path / "source", 10)
    with serving() as server:
        parts = construction(source, server.url, tmp_path / "store")
        before = plan(parts.source.records, parts.writer, parts.wants, 0.5)
        assert server.paths.total() == 0
        parts.run()
        after = plan(parts.source.records, parts.writer, Wants(4, 3, 2, 0, 5))
        tokens = parts.writer.chat.cost
    assert dict(before.requests) == {step: 10 for step in before.requests}
    assert len(before.requests) == 5
    assert before.picture_dollars == (25.0, 50.0)
    assert after.kept == after.requests  # all of it is there now, with the very words that were asked
    assert after.tokens_in.total() == 0
    assert before.kept == {"rephrase": 9}  # every record asks the same question here, and one request serves all
    # the third answers' objects are other records' objects in this small world, which no plan can know
    assert tokens.fresh == before.requests.total() - 9 - 10
    sent = before.tokens_in.total() - before.tokens_in["third_object"]
    assert tokens.tokens_in == pytest.approx(sent, rel=0.25)


def test_decisions_are_read(tmp_path: Path):
    path = tmp_path / "review.json"
    path.write_text('{"s1/image/0": "reject", "s1/near_image/1": "accept"}')
    assert read_review(path) == {"s1/image/0": False, "s1/near_image/1": True}
    path.write_text('{"s1/image/0": "no"}')
    with pytest.raises(InputError, match="as a sheet saves it"):
        read_review(path)
