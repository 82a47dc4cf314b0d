"""The commands and Python blocks of the tutorials run in their order, on a small random model.

What the small model answers is not looked at. Commands that take minutes (`bench` and the like) are not run; only their
options are looked up.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer

import vledit.loading
from tests.vlm.models import picture, tiny
from vledit.cli import session
from vledit.cli.app import build
from vledit.editors.balancedit import BalancEditConfig
from vledit.editors.edited_model import EditedModel

from .cli.conftest import Cli, cli

__all__ = ["cli"]

DOCS = Path(__file__).parents[1] / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
BLOCK = re.compile(r"```(console|python)\n(.*?)```", re.DOTALL)
MINUTES = ("bench", "compare", "report", "fit", "data", "reproduce", "serve", "ablate")
SHELL = ("printf", "cat", "cp", "head")
NOT_RUN = (".", "make", "cd", "git", "curl", "pip")
"""What sets up the machine, or needs a server."""
QUICK = {"steps": 200, "learning_rate": 0.05, "margin": 1.0}
"""Settings of BalancEdit with which a small random model learns."""


@pytest.fixture
def small(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """The command line on the small model, in a folder that holds what `make demo` leaves there."""
    vlm = tiny("pocket")
    monkeypatch.setattr(vlm, "max_answer_tokens", 6)
    monkeypatch.setattr(session, "load_model", lambda name, device, dtype: EditedModel(vlm))
    monkeypatch.setattr(vledit.loading, "load", lambda name: EditedModel(vlm))
    usual = BalancEditConfig.from_settings.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        BalancEditConfig, "from_settings", classmethod(lambda cls, given: usual(cls, {**QUICK, **given}))
    )
    (tmp_path / "demo").mkdir()
    picture(1).save(tmp_path / "demo" / "apple.png")
    return cli


def has_its_options(arguments: list[str]) -> None:
    """Raises AssertionError unless the command and every option exist."""
    command = typer.main.get_command(build())
    words = list(arguments)
    while getattr(command, "commands", None):
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known | {"--help"}, arguments


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_from_the_top(path: Path, small: Cli, tmp_path: Path):
    found = BLOCK.findall(path.read_text(encoding="utf-8"))
    assert found
    for language, text in found:
        if language == "python":
            exec(compile(text, path.name, "exec"), {})
            continue
        for line in text.replace("\\\n", " ").splitlines():
            if not line.startswith("$ "):
                continue
            program, *arguments = shlex.split(line.removeprefix("$ "))
            if program == "vledit" and arguments[0] in MINUTES:
                has_its_options(arguments)
            elif program == "vledit":
                ran = small(*arguments)
                assert ran.code in (0, 8), f"{line}: {ran.err}{ran.out}"
            elif program in SHELL:
                subprocess.run(["bash", "-c", line.removeprefix("$ ")], cwd=tmp_path, check=True)
            else:
                assert program in NOT_RUN, line
