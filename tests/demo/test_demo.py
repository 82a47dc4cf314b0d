"""The demo on the stand-in: what is asked, what is compared, and the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.conftest import cli as cli
from tests.demo.standins import UNKNOWN, StandIn, StandInData
from vledit.codebook import Codebook
from vledit.demo import page
from vledit.demo.play import Played, play
from vledit.demo.words import remarks
from vledit.errors import InputError, UnknownNameError


@pytest.fixture(scope="module")
def played() -> Played:
    return play(StandIn(), StandInData())


def test_it_asks_everything_that_the_paper_does(played: Played):
    kinds = [row.question.kind for row in played.rows]
    assert kinds.count("hand") >= 3
    assert kinds.count("brand") >= 4
    assert {"edited", "wording", "black", "fact", "text"} <= set(kinds)
    assert (played.story.brand, played.story.answer) == ("Apple", "Dell")


def test_the_edit_follows_the_mark_and_leaves_the_rest(played: Played):
    assert played.tally("edited", "hand", "wording") == (7, 7)
    assert played.tally("brand", "black", "text") == (7, 7)
    assert all(row.decision.fired for row in played.rows if row.question.kind == "hand")


def test_other_questions_about_the_mark_are_reported_not_judged(played: Played):
    rows = [row for row in played.rows if row.question.kind == "fact"]
    assert {row.verdict for row in rows} == {"reported"}
    assert any("also fired on 2 of 2 other questions" in line for line, _ in remarks(played))


def test_brands_that_the_base_does_not_know_are_left_out_and_named(played: Played):
    assert not any(UNKNOWN in row.question.label for row in played.rows)
    assert any(UNKNOWN in line and "Nvidia" in line for line, _ in remarks(played))


def test_rows_on_which_the_base_is_wrong_say_so(played: Played):
    wrong = [row for row in played.rows if row.base_right is False]
    assert [row.question.right for row in wrong] == ["technology hardware"]
    assert any("was wrong on 1 of these" in line for line, _ in remarks(played))


def test_removal_is_really_compared():
    class Forgetful(StandIn):
        def remove(self, id: str) -> None:
            pass  # the edit stays

    found = play(Forgetful(), StandInData())
    assert not found.undone
    assert any(bad and "removed" in line for line, bad in remarks(found))


def test_a_radius_that_is_too_wide_or_too_narrow_is_told():
    leaky = play(StandIn(reach=34.0), StandInData())
    assert leaky.tally("brand")[0] < leaky.tally("brand")[1]
    assert any(bad for _, bad in remarks(leaky))
    narrow = play(StandIn(reach=0.01), StandInData())
    assert {row.verdict for row in narrow.rows if row.question.kind == "hand"} == {"missed"}


def test_another_brand_and_name():
    found = play(StandIn(), StandInData(), brand="IBM", answer="Raspberry Pi")
    assert (found.story.brand, found.rows[0].after) == ("IBM", "Raspberry Pi")


def test_unfit_brands():
    with pytest.raises(UnknownNameError, match="Did you mean 'Apple'"):
        play(StandIn(), StandInData(), brand="Aple")
    with pytest.raises(InputError, match="names no drawing of HP"):
        play(StandIn(), StandInData(), brand=UNKNOWN)
    with pytest.raises(InputError, match="called 'apple' already"):
        play(StandIn(), StandInData(), answer="apple")


def test_the_page_is_whole_and_self_contained(played: Played, tmp_path: Path):
    text = page.write(played, tmp_path / "index.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:image/)[^\"]*\"", text)
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    assert "@import" not in text
    assert "url(" not in text
    for row in played.rows:
        assert row.question.question in text
    assert "0.2 · 1 + 0.8 · 10" in text
    assert text.count("<img") >= len([row for row in played.rows if row.question.image is not None])
    assert "prefers-color-scheme: dark" in text


def test_the_page_escapes_what_models_say(tmp_path: Path):
    found = play(StandIn(), StandInData(), answer="<script>alert(1)</script>")
    text = page.write(found, tmp_path / "index.html").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_the_command_writes_page_picture_and_a_codebook_that_works(cli: Cli, tmp_path: Path):
    ran = cli("demo", "--out", "show", "--json")
    assert ran.code == 0, ran.err
    found = ran.json
    assert found["undone"] is True
    assert (tmp_path / found["page"]).exists()
    with Codebook.open(tmp_path / found["codebook"]) as book:
        assert [entry.id for entry in book.active()] == ["apple-to-dell"]
    asked = cli("ask", found["question"], "--image", "show/apple.png", "--codebook", "show/codebook.vledit", "--json")
    assert asked.json["answer"] == "Dell"


def test_the_command_prints_the_table(cli: Cli):
    ran = cli("demo")
    assert ran.code == 0
    assert "Apple's mark is renamed to Dell" in ran.out
    assert "demo/index.html" in ran.out


def test_an_edit_that_is_not_undone_is_an_error(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(StandIn, "remove", lambda self, id: None)
    ran = cli("demo", "--json")
    assert ran.code == 7
