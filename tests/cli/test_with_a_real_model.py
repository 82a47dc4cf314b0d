"""The same commands on a real (tiny, random) model: only mechanics, but all of them, from the file to the answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.cli import session

from .conftest import Cli, Ran

SETTINGS = ("--set", "steps=200", "--set", "learning_rate=0.05", "--set", "margin=1.0", "--set", "rephrase=supplied")


@pytest.fixture
def real(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """The command line on the tiny model of the family that `--model` names, and `cup.png`."""
    from vledit.editors.edited_model import EditedModel

    monkeypatch.setattr(session, "load_model", lambda name, device, dtype: EditedModel(tiny(name)))
    picture(1).save(tmp_path / "cup.png")
    return cli


def edit(cli: Cli, *more: object, answer: str = "two cups") -> Ran:
    arguments = ("--image", "cup.png", "--question", QUESTIONS[0], "--answer", answer, "--model", "pocket")
    return cli("edit", *arguments, "--rephrase", "What can be seen in the picture?", *SETTINGS, *more)


def ask(cli: Cli, *more: object) -> Ran:
    return cli("ask", QUESTIONS[0], "--image", "cup.png", "--model", "pocket", *more)


def test_an_edit_is_there_in_the_next_process_and_gone_when_removed(real: Cli):
    before = ask(real, "--json").json["answer"]
    made = edit(real, "--id", "cups", "--json").json
    assert made["after"] == "two cups"
    assert made["before"] == before
    found = ask(real, "--codebook", "codebook.vledit", "--json").json
    assert (found["answer"], found["decision"]["entry"]) == ("two cups", "cups")
    assert real("codebook", "remove", "codebook.vledit", "cups").code == 0
    assert ask(real, "--codebook", "codebook.vledit", "--json").json["answer"] == before
    real("codebook", "restore", "codebook.vledit", "cups")
    assert ask(real, "--codebook", "codebook.vledit").out == "two cups\n"


@pytest.mark.parametrize(
    ("more", "answer", "words"),
    [
        ((), "word " * 200, "tokens long; at most"),
        (("--set", "site=99.mlp.out"), "two cups", "99"),
        (("--set", "site=-1.mlp.aside"), "two cups", "mlp.out"),
    ],
)
def test_what_only_the_model_can_refuse(real: Cli, tmp_path: Path, more, answer, words):
    ran = edit(real, *more, answer=answer)
    assert ran.code == 2
    assert words in ran.err
    assert not (tmp_path / "codebook.vledit").exists()


def test_a_codebook_of_another_model_is_refused(real: Cli):
    assert edit(real).code == 0
    ran = real("ask", QUESTIONS[0], "--model", "blip2", "--codebook", "codebook.vledit", "--json")
    assert ran.code == 4
    assert ran.json["kind"] == "ModelMismatchError"
