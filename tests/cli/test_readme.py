"""What the README tells people to type works: every command, and the Python example, on the stand-in."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import vledit.loading
from tests.demo.standins import StandIn

from .conftest import Cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HEAVY = ("data", "analyze", "bench", "report", "compare", "choose-alpha", "model-card", "train-pocket", "serve")
"""Commands that need the network or minutes: only that they exist, with the options that are shown."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    return [
        line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")
    ]


def test_the_readme_has_commands_to_run():
    assert len(commands()) > 15
    assert blocks("python")


def test_make_targets_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    asked = [command.split()[1] for command in commands() if command.startswith("make ")]
    assert asked
    assert set(asked) <= set(targets)


def test_every_vledit_command_runs(cli: Cli):
    assert cli("demo").code == 0  # the README builds on what it leaves
    for command in commands():
        program, *arguments = shlex.split(command)
        if program == "vledit":
            heavy = arguments[0] in HEAVY
            ran = (
                cli(*arguments[: 2 if arguments[0] in ("data", "analyze") else 1], "--help")
                if heavy
                else cli(*arguments)
            )
            assert ran.code == 0, f"{command}: {ran.err}"
            if heavy:
                assert all(option in ran.out for option in arguments if option.startswith("--")), command


def test_the_python_example_runs(cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert cli("demo").code == 0
    monkeypatch.setattr(vledit.loading, "load", lambda name: StandIn())
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "Apple"
    assert printed[1].startswith("Dell because: ")


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
