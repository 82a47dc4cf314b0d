"""`vledit codebook …` on a file made by `vledit edit`."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from vledit.cli.output import plain
from vledit.codebook import Codebook
from vledit.report.records import entry_record

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


def test_a_list_reads_rows_alone_and_says_what_the_entries_say(book: Cli):
    with Codebook.open(FILE) as opened:
        expected = [json.loads(json.dumps(plain(entry_record(entry)))) for entry in opened.entries()]
        opened.remove("two")
        opened.restore("two")
    found = book("codebook", "list", FILE, "--json")
    assert found.json["entries"] == expected
    assert found.out == json.dumps(found.json, ensure_ascii=False, indent=2) + "\n"
    assert book("codebook", "list", FILE, "--json", "--limit", 1).json["entries"] == expected[1:]
    some = book("codebook", "list", FILE, "-n", 1).out
    assert "two" in some
    assert "IBM" in some
    assert "Dell" not in some
    assert "newest 1 of 2" in some
    assert "newest" not in book("codebook", "list", FILE, "-n", 0).out
    assert book("codebook", "list", FILE, "-n", "-1").code == 2


def test_a_row_that_is_not_what_was_written_is_refused(book: Cli):
    with closing(sqlite3.connect(FILE)) as file, file:
        file.execute("UPDATE entries SET answer = 'HP' WHERE id = 'two'")
    found = book("codebook", "list", FILE)
    assert found.code == 3
    assert "'two' is damaged" in found.err


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


def test_merge_names_conflicts_until_one_side_is_preferred(cli: Cli, apple: Path):
    for file, answer, other in (("a", "Dell", "Where?"), ("b", "IBM", "When?")):
        for question, text in (("What brand is it?", answer), (other, "there")):
            made = cli("edit", "-i", apple, "-q", question, "-a", text, "--codebook", f"{file}.vledit")
            assert made.code == 0, made.err
    refused = cli("codebook", "merge", "a.vledit", "b.vledit", "--out", "c.vledit")
    assert refused.code == 2
    assert "'What brand is it?'" in refused.err
    assert not Path("c.vledit").exists()
    merged = cli("codebook", "merge", "a.vledit", "b.vledit", "--out", "c.vledit", "--prefer", "second", "--json").json
    assert (merged["entries"], merged["active"], merged["conflicts"][0]["kept"]) == (4, 3, "second")
    answers = {
        entry["answer"]: entry["status"] for entry in cli("codebook", "list", "c.vledit", "--json").json["entries"]
    }
    assert answers == {"Dell": "retired", "IBM": "active", "there": "active"}
    assert "Dell" in cli("codebook", "merge", "a.vledit", "b.vledit", "--out", "d.vledit", "--prefer", "first").out


def test_diff_says_what_differs_and_may_fail_for_it(book: Cli, tmp_path: Path):
    (tmp_path / "copy").write_bytes((tmp_path / FILE).read_bytes())
    same = book("codebook", "diff", FILE, "copy", "--exit-code", "--json")
    assert (same.code, same.json["equal"], same.json["changed"]) == (0, 1, [])
    book("codebook", "remove", "copy", "two")
    shown = book("codebook", "diff", FILE, "copy", "--exit-code")
    assert shown.code == 1
    assert "active → removed" in shown.out
    assert book("codebook", "diff", FILE, "copy").code == 0
    assert book("codebook", "diff", FILE, "nowhere").code == 5
