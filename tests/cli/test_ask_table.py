"""`vledit ask --from` on a tiny real model: the file, going on, unfit rows, JSON."""

from __future__ import annotations

import csv

import pytest

from tests.vlm.models import QUESTIONS, picture

from .conftest import Cli
from .test_with_a_real_model import edit, real  # noqa: F401


@pytest.fixture
def table(real: Cli, tmp_path):  # noqa: F811
    picture(3).save(tmp_path / "3.png")
    path = tmp_path / "questions.csv"
    lines = [f"cup.png,{QUESTIONS[0]},two cups", f"3.png,{QUESTIONS[1]},", f"none.png,{QUESTIONS[0]},"]
    path.write_text("image,question,answer\n" + "\n".join(lines) + "\n")
    return path


def many(cli: Cli, table, *more: object):
    return cli("ask", "--from", table, "--model", "pocket", *more)


def test_unfit_rows_are_named_or_left_out(real: Cli, table, tmp_path):  # noqa: F811
    ran = many(real, table, "--out", "answers.csv")
    assert ran.code == 2
    assert "line 4: image there is no file" in ran.err
    assert not (tmp_path / "answers.csv").exists()
    ran = many(real, table, "--out", "answers.csv", "--skip-unfit")
    assert ran.code == 0, ran.err
    assert "2 questions answered" in ran.out
    assert "line 4: image" in ran.out


def test_the_file_explains_every_answer(real: Cli, table, tmp_path):  # noqa: F811
    assert edit(real, "--id", "cups").code == 0
    arguments = ("--out", "answers.csv", "--skip-unfit", "--base", "--codebook", "codebook.vledit")
    ran = many(real, table, *arguments)
    assert ran.code == 0, ran.err
    assert "1 of 1 answers are the expected ones" in ran.out
    with (tmp_path / "answers.csv").open(newline="") as stream:
        first, second = csv.DictReader(stream)
    assert (first["answer"], first["edit"], first["fired"], first["right"]) == ("two cups", "cups", "yes", "yes")
    assert first["base_answer"] != "two cups"
    assert second["edit"] == "cups"
    assert second["explanation"]
    again = many(real, table, *arguments, "--json").json
    assert (again["asked"], again["there"], again["rows"][0]["answer"]) == (0, 2, "two cups")
    assert many(real, table, "--out", "answers.csv", "--skip-unfit").code == 2  # without the codebook: other answers
    assert many(real, table, "--out", "answers.csv", "--skip-unfit", "--overwrite").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--from"),
        (("--from", "questions.csv", "Who?", "--out", "a.csv"), "Leave QUESTION and --image out"),
        (("--from", "questions.csv"), "--out"),
        (("--from", "questions.csv", "--skip-unfit", "--out", "a.txt"), "must end in"),
        (("--from", "nowhere.csv", "--out", "a.csv"), "there is no file"),
    ],
)
def test_what_is_refused(real: Cli, table, arguments, words):  # noqa: F811
    ran = real("ask", "--model", "pocket", *arguments)
    assert ran.code == 2
    assert words in ran.err
