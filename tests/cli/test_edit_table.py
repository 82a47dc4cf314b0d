"""`vledit edit --from` on a tiny real model: dry run, unfit rows, going on, report."""

from __future__ import annotations

import json

import pytest

from tests.vlm.models import QUESTIONS, picture

from .conftest import Cli
from .test_with_a_real_model import SETTINGS, real  # noqa: F401

HEADER = "image,question,answer,rephrases\n"


@pytest.fixture
def table(real: Cli, tmp_path):  # noqa: F811
    """Three edits that can be made and two rows that cannot."""
    for n in (2, 3):
        picture(n).save(tmp_path / f"{n}.png")
    lines = [
        f"2.png,{QUESTIONS[0]},two cups,What can be seen?",
        f"none.png,{QUESTIONS[0]},tea,What can be seen?",
        f"3.png,{QUESTIONS[0]},tea,What can be seen?",
        f"3.png,{QUESTIONS[1]},{'word ' * 200},What can be seen?",
    ]
    path = tmp_path / "edits.csv"
    path.write_text(HEADER + "\n".join(lines) + "\n")
    (tmp_path / "keep.csv").write_text("question\nWho made this?\n")
    return path


def many(cli: Cli, table, *more: object):
    return cli("edit", "--from", table, "--model", "pocket", *SETTINGS, "--unrelated", "keep.csv", *more)


def test_a_dry_run_lists_every_unfit_row_and_changes_nothing(real: Cli, table, tmp_path):  # noqa: F811
    ran = many(real, table, "--dry-run")
    assert ran.code == 2
    assert "4 rows: 2 edits to make" in ran.out
    assert "line 3: image there is no file" in ran.out
    assert "line 5: answer" in ran.out
    assert not (tmp_path / "codebook.vledit").exists()
    found = many(real, table, "--dry-run", "--skip-unfit", "--json")
    assert (found.code, found.json["to_make"], [one["line"] for one in found.json["unfit"]]) == (0, [2, 4], [3, 5])


def test_unfit_rows_are_refused_and_no_codebook_is_left(real: Cli, table, tmp_path):  # noqa: F811
    ran = many(real, table)
    assert ran.code == 2
    assert "line 3: image" in ran.err
    assert not (tmp_path / "codebook.vledit").exists()


def test_edits_are_made_and_a_second_run_has_nothing_to_do(real: Cli, table, tmp_path):  # noqa: F811
    ran = many(real, table, "--skip-unfit", "--report", "report.json")
    assert ran.code == 0, ran.err
    assert "2 edits made" in ran.out
    assert "check: 2 of 2 edits answer their own question" in ran.out
    assert "1 of 1 unrelated questions keep their answer" in ran.out
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["outcome"] for row in report["rows"]] == ["made", "made"]
    assert len(report["unfit"]) == 2
    again = many(real, table, "--skip-unfit", "--json").json
    assert (again["made"], again["there"]) == (0, 2)
    asked = real("ask", QUESTIONS[0], "--image", "3.png", "--model", "pocket", "--codebook", "codebook.vledit")
    assert asked.out == "tea\n"


def test_own_questions_that_must_stay(real: Cli, table, tmp_path):  # noqa: F811
    ran = many(real, table, "--skip-unfit", "--json")
    assert [one["question"] for one in ran.json["unrelated"]] == ["Who made this?"]
    (tmp_path / "keep.csv").write_text("question\n")
    assert many(real, table, "--skip-unfit").code == 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--question", "Who?"), "--question: stands in the rows"),
        (("--strict",), "one edit at a time"),
        (("--column", "answer"), "is not NAME=ITS_NAME"),
        (("--column", "answr=target"), "none of image"),
        (("--report", "."), "is a folder"),
    ],
)
def test_options_that_do_not_go_together(real: Cli, table, more, words):  # noqa: F811
    ran = many(real, table, *more)
    assert ran.code == 2
    assert words in ran.err


def test_without_a_table_question_and_answer_are_needed(real: Cli):  # noqa: F811
    ran = real("edit", "--question", "Who?")
    assert ran.code == 2
    assert "--from" in ran.err
