"""Many questions from a table: answers as asked one by one, a file that is the same after a kill, unfit rows named."""

from __future__ import annotations

import csv
import json

import pytest

import vledit
from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.data.case import EditRequest
from vledit.editors import ask_many as module
from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError

SETTINGS = {"steps": 200, "learning_rate": 0.05, "margin": 1.0, "rephrase": "supplied", "alpha": 1.0}


@pytest.fixture(scope="module")
def edited():
    model = EditedModel(tiny("pocket"))
    model.edit(EditRequest(picture(2), QUESTIONS[0], "two cups", ("What can be seen?",), "cups"), **SETTINGS)
    return model


@pytest.fixture
def table(tmp_path):
    """Seven questions, the first about the edited picture."""
    rows = [["2.png", QUESTIONS[0], "Two  cups", 'a note, "quoted"\nof two lines']]
    for n in range(3, 8):
        picture(n).save(tmp_path / f"{n}.png")
        rows.append([f"{n}.png", QUESTIONS[n % 2], "something else" if n == 3 else "", ""])
    rows.append(["", "Who made this?", "", ""])
    picture(2).save(tmp_path / "2.png")
    with (tmp_path / "questions.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["image", "question", "answer", "note"], *rows])
    return tmp_path / "questions.csv"


def read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_answers_and_explanations_are_those_of_single_questions(edited, table, tmp_path):
    found = vledit.ask_many(edited, table, tmp_path / "out.csv", base=True)
    rows = read(tmp_path / "out.csv")
    assert [int(row["line"]) for row in rows] == [2, 4, 5, 6, 7, 8, 9]  # the note takes two lines
    for row, one in zip(rows, found.rows, strict=True):
        image = tmp_path / row["image"] if row["image"] else None
        alone = edited.answer(image, row["question"])
        assert row["answer"] == one.answer == alone.text
        assert (one.edit, one.fired) == (alone.decision.nearest, alone.decision.fired)
        assert one.distance == pytest.approx(alone.decision.distance, rel=1e-4, abs=1e-4)
        assert row["explanation"].startswith(alone.explanation[:40])
        with edited.disable():
            assert row["base_answer"] == edited.answer(image, row["question"]).text
    first = rows[0]
    assert (first["answer"], first["edit"], first["fired"], first["right"]) == ("two cups", "cups", "yes", "yes")
    assert (first["expected"], first["note"]) == ("Two  cups", 'a note, "quoted"\nof two lines')
    assert float(first["distance"]) <= float(first["radius"])
    assert (rows[1]["right"], rows[2]["right"]) == ("no", "")
    assert [row.line for row in found.wrong] == [4]


class Killed(BaseException):
    """As a signal, which no part of a run catches."""


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_run_that_is_killed_in_mid_row_ends_as_one_that_was_not(edited, table, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(module, "CHUNK", 2)
    vledit.ask_many(edited, table, tmp_path / f"whole.{suffix}")
    out = tmp_path / f"cut.{suffix}"

    def killer(what, done, of):
        if done >= 4:
            raise Killed

    with pytest.raises(Killed):
        vledit.ask_many(edited, table, out, progress=killer)
    written = out.read_bytes()
    for cut in (len(written), len(written) - 3, written.rindex(b"\n", 0, -1) + 9):  # whole rows, and two torn ones
        out.write_bytes(written[:cut])
        asked: list[int] = []
        found = vledit.ask_many(edited, table, out, progress=lambda what, done, of, asked=asked: asked.append(of))
        assert found.there == (4 if cut == len(written) else 2)
        assert asked[-1] == 7 - found.there
        assert out.read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()
    again = vledit.ask_many(edited, table, out)
    assert (again.there, again.record()["asked"]) == (7, 0)


def test_answers_of_other_edits_are_not_mixed_in(edited, table, tmp_path):
    out = tmp_path / "out.jsonl"
    vledit.ask_many(edited, table, out)
    edited.codebook.remove("cups")
    try:
        with pytest.raises(InputError, match="other edits"):
            vledit.ask_many(edited, table, out)
        found = vledit.ask_many(edited, table, out, overwrite=True)
        assert found.there == 0
        assert not any(json.loads(line)["fired"] for line in out.read_text().splitlines())
    finally:
        edited.codebook.restore("cups")
    with pytest.raises(InputError, match="has other columns"):
        vledit.ask_many(edited, table, out, base=True)


def test_unfit_rows_are_named_with_their_lines(edited, tmp_path):
    rows = [
        {"question": "Who?"},
        {"image": "none.png", "question": "Who?"},
        {"question": ""},
        "Who?",
        {"question": "word " * 5000},
    ]
    with pytest.raises(InputError) as caught:
        vledit.ask_many(edited, rows)
    for line, word in ((2, "image"), (3, "question"), (4, "row"), (5, "question")):
        assert f"line {line}: {word}" in str(caught.value)
    found = vledit.ask_many(edited, rows, skip_unfit=True)
    assert [row.line for row in found.rows] == [1]
    assert [one.line for one in found.unfit] == [2, 3, 4, 5]


def test_other_suffixes_and_folders_are_refused(edited, tmp_path):
    for name in ("out.xlsx", "."):
        with pytest.raises(InputError, match="out: "):
            vledit.ask_many(edited, [{"question": "Who?"}], tmp_path / name)
