"""`vledit ask` and `vledit edit`, and what they say to bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.demo.standins import StandIn
from vledit.cli import session
from vledit.codebook import Codebook
from vledit.data.case import EditRequest

from .conftest import Cli

QUESTION = "brand, which?"


def edit(cli: Cli, apple: Path, *more: object):
    return cli("edit", "--image", apple, "--question", QUESTION, "--answer", "Dell", *more)


def test_ask_prints_the_answer_and_nothing_else(cli: Cli, apple: Path):
    ran = cli("ask", QUESTION, "--image", apple)
    assert (ran.code, ran.out) == (0, "Apple\n")


def test_ask_without_a_picture(cli: Cli):
    assert cli("ask", "What is the capital of France?").out == "Paris\n"


def test_edit_then_ask_explains_what_fired(cli: Cli, apple: Path):
    ran = edit(cli, apple, "--codebook", "b.vledit")
    assert ran.code == 0, ran.err
    assert "Apple" in ran.out
    assert "Dell" in ran.out
    assert "d_pos" in ran.out
    asked = cli("ask", QUESTION, "--image", apple, "--codebook", "b.vledit", "--explain")
    assert asked.out.startswith("Dell\n")
    assert "fired:" in asked.out
    assert "radius: 8" in asked.out


def test_edit_as_json_has_what_a_script_wants(cli: Cli, apple: Path):
    found = edit(cli, apple, "--id", "mine", "--json").json
    assert (found["before"], found["after"], found["id"]) == ("Apple", "Dell", "mine")
    assert found["codebook"] == "codebook.vledit"
    assert found["relation"]["kind"] == "new"
    scope = found["entry"]["scopes"][0]
    assert (scope["radius"], scope["d_positive"], scope["d_negative"]) == (8.0, 1.0, 10.0)


def test_ask_as_json_says_which_entry_was_nearest(cli: Cli, apple: Path):
    edit(cli, apple, "--id", "mine")
    found = cli("ask", "What is the capital of France?", "--codebook", "codebook.vledit", "--json").json
    assert found["answer"] == "Paris"
    assert found["decision"]["fired"] is False
    assert found["decision"]["nearest"] == "mine"
    assert found["decision"]["distance"] > found["decision"]["radius"]


def test_a_second_edit_of_the_same_fact_retires_the_first(cli: Cli, apple: Path):
    edit(cli, apple, "--id", "one")
    found = cli("edit", "-i", apple, "-q", QUESTION, "-a", "IBM", "--id", "two", "--json").json
    assert found["relation"]["kind"] == "conflict"
    assert found["relation"]["retires"] == ["one"]
    assert (found["before"], found["after"]) == ("Dell", "IBM")


@pytest.mark.parametrize("others", ["theirs", "mine"], ids=["another id", "the same id"])
def test_a_codebook_that_another_process_made_during_the_edit_is_added_to(cli: Cli, apple: Path, monkeypatch, others):
    """Of several processes that create one file at once none loses its work."""
    ordinary = StandIn.edit

    def meanwhile(self, request, *given, **settings):
        made = ordinary(self, request, *given, **settings)
        monkeypatch.setattr(StandIn, "edit", ordinary)
        text = StandIn().edit(EditRequest(None, "What is the capital of France?", "Madrid", (), others))
        with Codebook.create("b.vledit", self.vlm.fingerprint, self.vlm.name) as book:
            book.add(text.entry)
        return made

    monkeypatch.setattr(StandIn, "edit", meanwhile)
    ran = edit(cli, apple, "--codebook", "b.vledit", "--id", "mine", "--json")
    assert ran.code == 0, ran.err
    with Codebook.open("b.vledit") as book:
        assert [one.answer for one in book.active()] == ["Madrid", "Dell"]
        assert book.active()[1].id == ran.json["id"] == ("mine" if others == "theirs" else "mine-2")
    assert ran.json["after"] == "Dell"


def test_a_failed_edit_leaves_no_codebook_behind(cli: Cli, apple: Path, tmp_path: Path):
    ran = cli("edit", "-i", apple, "-q", QUESTION, "-a", "unlearnable")
    assert ran.code == 6
    assert not (tmp_path / "codebook.vledit").exists()


def test_weight_editors_are_refused_before_the_model_is_loaded(cli: Cli, apple: Path, monkeypatch):
    monkeypatch.setattr(session, "load_model", lambda *_: pytest.fail("the model was loaded"))
    ran = edit(cli, apple, "--editor", "ft")
    assert ran.code == 2
    assert "cannot be kept in a codebook" in ran.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--editor", "balancedt"), "Did you mean 'balancedit'?"),
        (("--set", "alhpa=0.1"), "Did you mean 'alpha'?"),
        (("--set", "alpha"), "not like name=value"),
        (("--set", "alpha=wide"), "a number"),
        (("--set", "alpha=3"), "not between 0"),
        (("--set", "site=-1.mlp.sideways"), "site"),
        (("--answer", "  "), "answer is empty"),
        (("--answer", "many " * 200), "200 tokens long"),
    ],
)
def test_bad_settings_name_the_field(cli: Cli, apple: Path, arguments, words):
    ran = edit(cli, apple, *arguments)
    assert ran.code == 2
    assert ran.err.startswith("error: ")
    assert words in ran.err
    assert not ran.out


def test_a_taken_id_is_refused_before_anything_is_trained(cli: Cli, apple: Path, monkeypatch):
    edit(cli, apple, "--id", "mine")
    monkeypatch.setattr(StandIn, "edit", lambda *_, **__: pytest.fail("an edit was made"))
    ran = edit(cli, apple, "--id", "mine")
    assert ran.code == 2
    assert "an entry 'mine' already" in ran.err


def test_a_codebook_that_cannot_be_written_is_told_before_the_model_is_loaded(cli: Cli, apple: Path, monkeypatch):
    monkeypatch.setattr(session, "load_model", lambda *_: pytest.fail("the model was loaded"))
    ran = edit(cli, apple, "--codebook", "no/such/folder/b.vledit")
    assert ran.code == 2
    assert "there is no folder" in ran.err


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "there is no file"), (b"", "empty file"), (b"GIF89a..", ""), (b"text", "not a picture")],
)
def test_an_unreadable_picture_stops_before_the_model_is_loaded(cli: Cli, tmp_path: Path, monkeypatch, content, words):
    monkeypatch.setattr(session, "load_model", lambda *_: pytest.fail("the model was loaded"))
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(content)
    for ran in (cli("ask", "what?", "--image", path), cli("edit", "-i", path, "-q", "what?", "-a", "this")):
        assert ran.code == 2
        assert words in ran.err


def test_a_truncated_picture_is_told(cli: Cli, apple: Path):
    apple.write_bytes(apple.read_bytes()[:200])
    ran = cli("ask", QUESTION, "--image", apple, "--json")
    assert ran.code == 2
    assert ran.json["kind"] == "PictureError"
    assert ran.json["error"] in ran.err


def test_a_truncated_codebook_stops_before_the_model_is_loaded(cli: Cli, apple: Path, monkeypatch, tmp_path: Path):
    edit(cli, apple)
    file = tmp_path / "codebook.vledit"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    monkeypatch.setattr(session, "load_model", lambda *_: pytest.fail("the model was loaded"))
    for ran in (cli("ask", QUESTION, "-c", file), edit(cli, apple), cli("codebook", "list", file)):
        assert ran.code == 3, ran.err
        assert str(file.name) in ran.err


def test_a_codebook_of_another_model_is_refused(cli: Cli, tmp_path: Path):
    Codebook.create(tmp_path / "other.vledit", "e" * 16, "another model").close()
    ran = cli("ask", QUESTION, "--codebook", tmp_path / "other.vledit")
    assert ran.code == 4
    assert "another model" in ran.err


def test_a_missing_codebook_says_how_to_make_one(cli: Cli):
    ran = cli("ask", QUESTION, "--codebook", "none.vledit")
    assert ran.code == 5
    assert "vledit edit" in ran.err
