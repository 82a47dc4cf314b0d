"""What README.md and docs/command_line.md tell people to type works: every command, and the Python example, on the stand-in."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import vledit.loading
from tests.demo.standins import StandIn
from vledit.cli.overview import COMMANDS

from .conftest import Cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {"README.md": README, "command_line.md": (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")}
HEAVY = ("data", "analyze", "bench", "report", "compare", "choose-alpha", "model-card", "train-pocket", "serve")
"""Commands that need the network or minutes: only that they exist, with the options that are shown."""


def blocks(language: str, page: str = "README.md") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def commands(page: str = "README.md") -> list[str]:
    lines = [line for block in blocks("console", page) for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def test_the_readme_has_commands_to_run():
    assert len(commands()) == 5
    assert len(commands("command_line.md")) > 30
    assert blocks("python")


def test_make_targets_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    asked = [command.split()[1] for command in commands() if command.startswith("make ")]
    assert asked
    assert set(asked) <= set(targets)


@pytest.mark.parametrize("page", PAGES)
def test_every_vledit_command_runs(page: str, cli: Cli):
    assert cli("demo").code == 0  # the pages build on what it leaves
    for command in commands(page):
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


def test_the_page_shows_every_command_that_is_not_for_other_pages():
    shown = {command.split()[1] for command in commands("command_line.md")}
    elsewhere = {"check", "token", "export", "convert", "fit", "fit-scope", "tune", "ablate", "reproduce"}
    assert shown | elsewhere == set(COMMANDS)
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    assert [name for name in elsewhere if f"vledit {name}" not in pages] == []


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
