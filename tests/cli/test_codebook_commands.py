"""`vledit codebook …` on a file made by `vledit edit`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Cli

FILE = "codebook.vledit"


@pytest.fixture
def book(cli: Cli, apple: Path) -> Cli:
    for answer, id in (("Dell", "one"), ("IBM", "two")):
        assert cli("edit", "-i", apple, "-q", "brand [b]?", "-a", answer, "--id", id).code == 0
    return cli


def statuses(cli: Cli) -> dict[str, str]:
    return {entry["id"]: entry["status"] for entry in cli("codebook", "list", FILE, "--json").json["entries"]}


def test_list_shows_every_entry(book: Cli):
    assert statuses(book) == {"one": "retired", "two": "active"}
    shown = book("codebook", "list", FILE).out
    assert "1 active of 2" in shown
    assert "[b]" in shown  # what users type is not markup


def test_show_has_anchors_radius_and_history(book: Cli):
    found = book("codebook", "show", FILE, "two", "--json").json
    assert found["scopes"][0]["positive_question"] == "What logo is this?"
    assert [event["action"] for event in found["history"]] == ["added"]
    shown = book("codebook", "show", FILE, "one").out
    assert "retired by two" in shown
    assert "d_neg" in shown


def test_remove_and_restore(book: Cli):
    assert book("codebook", "remove", FILE, "two").code == 0
    assert statuses(book) == {"one": "active", "two": "removed"}
    assert book("codebook", "restore", FILE, "two", "--json").json["action"] == "restored"
    assert statuses(book) == {"one": "retired", "two": "active"}
    actions = [event["action"] for event in book("codebook", "history", FILE, "--json").json]
    assert actions[-4:] == ["removed", "restored", "restored", "retired"] or "restored" in actions
    assert "two" in book("codebook", "history", FILE).out


def test_removing_twice_is_an_input_error(book: Cli):
    book("codebook", "remove", FILE, "two")
    assert book("codebook", "remove", FILE, "two").code == 2


def test_purge_asks_for_yes(book: Cli):
    assert book("codebook", "purge", FILE, "one").code == 2
    assert "one" in statuses(book)
    assert book("codebook", "purge", FILE, "one", "--yes").code == 0
    assert "one" not in statuses(book)


def test_export_and_verify(book: Cli, tmp_path: Path):
    assert book("codebook", "export", FILE, "out.json").code == 0
    assert len(json.loads((tmp_path / "out.json").read_text())["entries"]) == 2
    assert book("codebook", "verify", FILE, "--json").json["sound"] is True


def test_an_unknown_entry_suggests_the_near_miss(book: Cli):
    ran = book("codebook", "show", FILE, "tow", "--json")
    assert ran.code == 2
    assert "Did you mean 'two'?" in ran.json["error"]


def test_a_missing_file(cli: Cli):
    assert cli("codebook", "list", "none.vledit").code == 5
