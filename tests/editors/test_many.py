"""Many edits from a table: what is there stays, a run that was cut off ends as one that was not, everything is reported."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import vledit
from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.codebook import Codebook
from vledit.data.case import EditRequest
from vledit.data.unrelated import unrelated
from vledit.editors import many
from vledit.editors.edited_model import EditedModel
from vledit.editors.many import edit_many
from vledit.errors import InputError

SETTINGS = {"steps": 200, "learning_rate": 0.05, "margin": 1.0, "rephrase": "supplied", "alpha": 1.0}
WORDS = ["a cat", "tea", "two cups", "golden retriever", "the beach"]


@pytest.fixture(scope="module")
def small():
    return tiny("pocket")


def rows(answers=WORDS):
    return [
        {"image": picture(20 + n), "question": QUESTIONS[n % 2], "answer": answer, "rephrases": ["What can be seen?"]}
        for n, answer in enumerate(answers)
    ]


def opened(vlm, path):
    if not path.exists():
        Codebook.create(path, vlm.fingerprint, vlm.name).close()
    return EditedModel(vlm, Codebook.open(path, vlm.fingerprint))


def held(model):
    """All that an edit is, but for the time at which it was made."""
    return [
        [e.id, e.question, e.answer, e.status, e.retired_by, e.radius, e.key.tobytes(), dict(e.notes)]
        + [(name, tensor.numpy().tobytes()) for name, tensor in e.transformation.tensors().items()]
        for e in model.codebook.entries()
    ]


class Killed(BaseException):
    """As a signal, which no part of a run catches."""


def killer(after):
    def progress(what, done, of):
        if (what, done) == ("editing", after):
            raise Killed

    return progress


def test_a_run_that_is_cut_off_twice_ends_as_one_that_was_not(small, tmp_path):
    whole = opened(small, tmp_path / "whole.vledit")
    everything = edit_many(whole, rows(), **SETTINGS)
    assert [row.outcome for row in everything.rows] == ["made"] * len(WORDS)
    assert everything.wrong == []
    for after in (2, 1):
        with opened(small, tmp_path / "cut.vledit").codebook as book, pytest.raises(Killed):
            edit_many(EditedModel(small, book), rows(), progress=killer(after), **SETTINGS)
    cut = opened(small, tmp_path / "cut.vledit")
    last = edit_many(cut, rows(), **SETTINGS)
    assert [row.outcome for row in last.rows] == ["there"] * 3 + ["made"] * 2
    assert held(cut) == held(whole)
    assert [row.edit for row in last.rows] == [row.edit for row in everything.rows]


def test_a_second_run_trains_nothing(small, monkeypatch):
    model = EditedModel(small)
    edit_many(model, rows(), check=False, **SETTINGS)
    monkeypatch.setattr(EditedModel, "make", lambda *_: pytest.fail("an edit was made"))
    assert edit_many(model, rows(), check=False, **SETTINGS).count("there") == len(WORDS)


def test_what_replaces_what_is_reported(small):
    model = EditedModel(small)
    first = edit_many(model, rows(WORDS[:2]), check=False, **SETTINGS)
    again = [*rows(["two cups"]), *rows(["tea", "tea"])[1:], *rows(["the beach"])]
    plan = many.planned(model, again)
    assert plan.replaces == {3: (first.rows[0].edit,)}
    found = edit_many(model, again, **SETTINGS)
    assert [(row.line, row.outcome) for row in found.rows] == [(2, "there"), (3, "made")]
    assert found.rows[1].retired == (first.rows[0].edit,)
    assert [(one.line, one.by, one.same) for one in found.instead] == [(1, 3, False)]
    assert model.codebook.get(first.rows[0].edit).retired_by == found.rows[1].edit


def test_an_answer_of_the_base_retires_the_edit_and_stays_done(small, monkeypatch):
    model = EditedModel(small)
    made = edit_many(model, rows(WORDS[:1]), check=False, **SETTINGS)
    right = SimpleNamespace(exact=torch.tensor([True]))
    monkeypatch.setattr(type(small), "verify", lambda *_: right)  # the random model's own answers never end
    monkeypatch.setattr(EditedModel, "verify", lambda *_: right)
    for _ in range(2):
        found = edit_many(model, rows(["what the base says"]), check=False, **SETTINGS)
        assert [row.outcome for row in found.rows] == ["not needed"]
        assert [(entry.id, entry.status) for entry in model.codebook.entries()] == [(made.rows[0].edit, "retired")]


def test_unfit_rows_stop_the_run_before_it_begins_or_are_left_out(small):
    model = EditedModel(small)
    table = [*rows(WORDS[:1]), {"question": "Who?", "answer": "word " * 200}, {"question": "", "answer": "x"}, 7]
    with pytest.raises(InputError, match="3 of 4 rows") as told:
        edit_many(model, table, **SETTINGS)
    assert all(f"line {n}: " in str(told.value) for n in (2, 3, 4))
    assert not model.codebook.entries()
    found = edit_many(model, table, skip_unfit=True, **SETTINGS)
    assert [one.line for one in found.unfit] == [2, 3, 4]
    assert found.count("made") == 1


def test_a_taken_id_is_unfit_and_a_note_is_kept(small):
    model = EditedModel(small)
    edit_many(model, [{**rows()[0], "id": "mine", "note": "seen"}], check=False, **SETTINGS)
    assert model.codebook.get("mine").notes["note"] == "seen"
    with pytest.raises(InputError, match="'mine' is taken"):
        edit_many(model, [{**rows()[1], "id": "mine"}], **SETTINGS)
    model.remove("mine")
    with pytest.raises(InputError, match="restore"):
        edit_many(model, [{**rows()[0], "id": "mine"}], **SETTINGS)


def test_the_check_tells_edits_that_do_not_hold_and_questions_that_changed(small, monkeypatch):
    monkeypatch.setattr(small, "max_answer_tokens", 6)
    sample = unrelated(3)[::-1]
    model = EditedModel(small)
    always = {name: SETTINGS[name] for name in ("steps", "learning_rate", "margin")}
    found = edit_many(model, rows(WORDS[:3]), "ft", unrelated=sample, **always)
    truth = [model.answer(row["image"], row["question"]).text == row["answer"] for row in rows(WORDS[:3])]
    assert [row.right for row in found.rows] == truth
    assert not all(truth)
    questions = [probe.question for probe in sample]
    assert [one.question for one in found.unrelated] == questions
    assert [one.before for one in found.unrelated] == [EditedModel(small).answer(None, q).text for q in questions]
    assert [one.after for one in found.unrelated] == [model.answer(None, q).text for q in questions]
    assert found.changed
    again = edit_many(model, rows(WORDS[:3]), "ft", check=False, **always)
    assert again.count("there") == 3


def test_a_row_that_is_not_learnt_is_reported_and_the_others_are_made(small):
    model = EditedModel(small)
    found = edit_many(model, rows(WORDS[:2]), check=False, **{**SETTINGS, "steps": 1, "learning_rate": 1e-9})
    assert found.count("failed") == 2
    assert all(row.reason for row in found.rows)
    assert edit_many(model, rows(WORDS[:2]), check=False, **SETTINGS).count("made") == 2


def test_requests_are_taken_as_they_are(small):
    model = EditedModel(small)
    assert vledit.edit_many is edit_many
    found = vledit.edit_many(model, [EditRequest(picture(1), QUESTIONS[0], "tea", ("What is it?",))], **SETTINGS)
    assert found.record()["made"] == 1


def test_a_row_is_made_if_the_one_that_would_replace_it_is_unfit(small):
    model = EditedModel(small)
    found = edit_many(model, [*rows(WORDS[:1]), *rows(["word " * 200])], skip_unfit=True, check=False, **SETTINGS)
    assert [(row.line, row.outcome) for row in found.rows] == [(1, "made")]
    assert [one.line for one in found.unfit] == [2]
    assert found.instead == ()


def test_every_unfit_row_of_the_large_run_is_named_and_no_other(small, tmp_path):
    from benchmarks.many_edits import write_table

    lines = write_table(tmp_path, edits=12, unfit=6, seed=0)
    table = many.planned(EditedModel(small), tmp_path / "edits.csv").table
    assert [one.line for one in table.unfit] == lines
    assert len(table.wanted) == 12
