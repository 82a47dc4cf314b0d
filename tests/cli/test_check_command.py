"""`vledit check` on a tiny real model: verdicts that are known beforehand, the page, exit codes."""

from __future__ import annotations

import csv

import pytest

from tests.vlm.models import QUESTIONS, picture
from vledit.evaluate.probe_check import Checked

from .conftest import Cli
from .test_with_a_real_model import ask, edit, real  # noqa: F401


@pytest.fixture
def probes(real: Cli, tmp_path):  # noqa: F811
    """A table in which every verdict occurs once but "changed", and each is known."""
    base = ask(real, "--json").json["answer"]
    assert edit(real, "--id", "cups").code == 0
    picture(9).save(tmp_path / "far.png")
    other = real("ask", "Who made this?", "--model", "pocket", "--json").json["answer"]
    path = tmp_path / "probes.csv"
    rows = [
        ["cup.png", QUESTIONS[0], "TWO  cups", "edited"],  # as wanted
        ["cup.png", QUESTIONS[0], base, "edited"],  # broken
        ["cup.png", QUESTIONS[0], "seven dwarfs", "edited"],  # wrong
        ["", "Who made this?", other, "far"],  # unchanged, and wanted so
        ["", "Who made this?", "", "far"],  # unchanged
    ]
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["image", "question", "answer", "group"], *rows])
    return path


def check(cli: Cli, *more: object):
    return cli("check", "codebook.vledit", "--probes", "probes.csv", "--model", "pocket", *more)


def test_verdicts_exit_code_and_page(real: Cli, probes, tmp_path):  # noqa: F811
    ran = check(real, "--page", "check.html", "--json")
    assert ran.code == 8
    assert [row["verdict"] for row in ran.json["rows"]] == ["as wanted", "broken", "wrong", "unchanged", "unchanged"]
    assert (ran.json["failures"], ran.json["edits"]) == (2, 1)
    assert ran.json["groups"]["far"]["unchanged"] == 2
    assert (ran.json["rows"][0]["edit"], ran.json["rows"][0]["fired"]) == ("cups", True)
    page = (tmp_path / "check.html").read_text()
    for words in (
        "3 of 5 probes are answered as they should be",
        "seven dwarfs",
        "data:image/webp",
        "Changed as wanted",
    ):
        assert words in page
    shown = check(real)
    assert shown.code == 8
    assert "2 not as they should be" in shown.out
    assert "wanted 'seven dwarfs' (edit 'cups')" in shown.out
    assert check(real, "--allow", "2").code == 0


def test_an_answer_that_was_to_stay_and_did_not(real: Cli, probes, tmp_path):  # noqa: F811
    probes.write_text(f"image,question\ncup.png,{QUESTIONS[0]}\n")
    ran = check(real, "--json")
    assert (ran.code, ran.json["rows"][0]["verdict"]) == (8, "changed")
    real("codebook", "remove", "codebook.vledit", "cups")
    assert check(real, "--json").json["rows"][0]["verdict"] == "unchanged"
    assert check(real).code == 0


def test_answers_are_kept_and_unfit_rows_are_named(real: Cli, probes, tmp_path):  # noqa: F811
    assert check(real, "--answers", "answers.csv", "--allow", "9").code == 0
    with (tmp_path / "answers.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 5
    probes.write_text(probes.read_text() + "none.png,Who?,,far\n")
    ran = check(real)
    assert ran.code == 2
    assert "image there is no file" in ran.err
    assert "left out: line" in check(real, "--skip-unfit", "--allow", "9").out
    probes.write_text("image,question\n")
    assert check(real).code == 2


def test_a_verdict_is_a_failure_or_it_is_not():
    from vledit.data.case import Probe
    from vledit.data.question_rows import Asked
    from vledit.editors.ask_many import Answered

    def verdict(wanted, before, after):
        asked = Asked(1, Probe(None, "Who?", wanted), "", {})
        found = Checked(asked, Answered(1, "Who?", after, wanted, before, None, False, None, None, ""))
        return found.verdict, found.failed

    assert verdict("a", "b", "a") == ("as wanted", False)
    assert verdict("a", "A", "a") == ("unchanged", False)
    assert verdict("a", "b", "b") == ("wrong", True)
    assert verdict("a", "a", "b") == ("broken", True)
    assert verdict(None, "a", "b") == ("changed", True)
    assert verdict(None, "a", "a ") == ("unchanged", False)
