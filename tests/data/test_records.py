"""Fields of records: what is taken, what is refused with its name, and what is cleaned."""

from __future__ import annotations

import pytest

from vledit.data.records import FieldError, Record, read_records, unquoted, without_prefix
from vledit.errors import InputError


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ('"Is there a fire escape in the building?"', "Is there a fire escape in the building?"),
        ("'black'", "black"),
        ("“two words”", "two words"),
        ('What color is the word "red"?', 'What color is the word "red"?'),
        ('"How many?" can be rewritten as "What number?"', '"How many?" can be rewritten as "What number?"'),
        ("5'5\"", "5'5\""),
        ("'Tis the 'season'", "'Tis the 'season'"),
        ('""', '""'),
        ("", ""),
    ],
)
def test_only_quotes_around_the_whole_text_go(text: str, clean: str):
    assert unquoted(text) == clean


def test_the_mark_of_natural_questions_goes():
    assert without_prefix("nq question: who got the first nobel prize") == "who got the first nobel prize"
    assert without_prefix("who got the first nobel prize") == "who got the first nobel prize"
    assert without_prefix("nq question: ") == "nq question: "


def test_texts_are_stripped_and_numbers_count_as_texts():
    record = Record({"a": "  a boy throws a ball\n", "n": 2, "one": ["Dave Sarachan"], "none": None, "empty": " "})
    assert record.text("a") == "a boy throws a ball"
    assert record.text("n") == "2"
    assert record.text("one") == "Dave Sarachan"
    assert record.text("none", "x") == record.text("empty", "x") == record.text("absent", "x") == "x"


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        ({}, "alt", "is missing"),
        ({"alt": None}, "alt", "is missing"),
        ({"alt": "  "}, "alt", "is empty"),
        ({"alt": ["a", "b"]}, "alt", "is a list"),
        ({"alt": True}, "alt", "is true or false"),
        ({"alt": {"a": 1}}, "alt", "is an object"),
    ],
)
def test_an_unfit_field_is_named(values: dict, field: str, message: str):
    with pytest.raises(FieldError, match=message) as raised:
        Record(values).text(field)
    assert raised.value.field == field


def test_lists_are_checked():
    record = Record({"texts": ["a", " ", "b "], "bad": ["a", 1], "pids": [1, 2], "pid": "1", "rows": [{"a": 1}, 2]})
    assert record.texts("texts") == ("a", "b")
    assert record.texts("absent") == ()
    assert record.numbers("pids") == (1, 2)
    for take in (lambda: record.texts("bad"), lambda: record.numbers("pid"), lambda: record.records("rows")):
        with pytest.raises(FieldError):
            take()
    with pytest.raises(FieldError, match="not an object"):
        Record(["a"])


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [
        ("{", None, "is not JSON"),
        ("<!doctype html>", None, "is not JSON"),
        ("version https://git-lfs.github.com/spec/v1", None, "a pointer"),
        ('{"annotations": []}', None, "no list of records"),
        ('{"annotations": {}}', "annotations", "no list 'annotations'"),
        ("[]", "annotations", "no list 'annotations'"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path, content: str, key: str | None, message: str):
    path = tmp_path / "vqa_eval.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as raised:
        read_records(path, "evqa", key)
    assert "vqa_eval.json" in str(raised.value)


def test_a_missing_file_and_bytes_that_are_no_text_are_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_records(tmp_path / "absent.json", "evqa")
    (tmp_path / "latin.json").write_bytes(b'["caf\xe9"]')
    with pytest.raises(InputError, match="is not JSON"):
        read_records(tmp_path / "latin.json", "evqa")


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_records(tmp_path / "bom.json", "evqa") == [1]
