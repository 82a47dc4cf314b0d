"""Every command prints one JSON document with --json, whether it succeeds or refuses what it was given."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
import typer

from vledit.cli.app import build

from .conftest import Cli

WITHOUT = {"serve"}
"""Runs until it is stopped; its log is JSON lines by default."""
ARGUMENTS = {
    "demo": "--brand Nobody",
    "ask": "What? --image apple.png",
    "edit": "--image apple.png --question What? --answer Dell",
    "codebook list": "made.vledit",
    "codebook show": "made.vledit first",
    "codebook remove": "made.vledit first",
    "codebook restore": "made.vledit first",
    "codebook purge": "made.vledit first --yes",
    "codebook export": "made.vledit out.json",
    "codebook history": "made.vledit",
    "codebook verify": "made.vledit",
    "codebook merge": "made.vledit nowhere.vledit --out both.vledit",
    "codebook diff": "made.vledit made.vledit",
    "check": "made.vledit --probes nowhere.csv",
    "token create": "me --store tokens.db",
    "token list": "--store tokens.db",
    "token revoke": "nobody --store tokens.db",
    "export": "--edits nowhere --peft out",
    "models": "",
    "editors": "",
    "convert minigpt4": "--qformer a.pth --vicuna b --projection c.pth --out out",
    "convert check": "nowhere",
    "data list": "",
    "data card": "icons",
    "data sheet": "icons sheet.png",
    "data edits": "icons",
    "data check": "evqa --annotations nowhere.json",
    "data build icons": "--only nothing",
    "data build okedit": "--source no.csv --out out --llm http://127.0.0.1:9 --llm-model m --image-model icons",
    "fit": "--editor ft --out out",
    "fit-scope": "--split nowhere --out out",
    "bench": "--editors nobody",
    "choose-alpha": "--model nowhere/at/all --benchmark nothing",
    "compare": "nowhere.jsonl nowhere.jsonl",
    "report": "nowhere.jsonl",
    "analyze attribution": "--editors nobody",
    "analyze masking": "--editors nobody",
    "analyze kl": "--editors nobody",
    "analyze retrieval": "--benchmark nothing",
    "analyze scope": "--benchmark nothing",
    "tune": "--editor nobody",
    "ablate": "nothing",
    "reproduce": "nothing",
    "train-pocket": "--dtype nothing --folder run",
    "model-card": "--against nowhere.json",
}
"""Command → arguments with which it ends at once."""


def commands() -> dict[str, click.Command]:
    """Every command that does something, by its words."""
    found: dict[str, click.Command] = {}

    def walk(command: click.Command, words: list[str]) -> None:
        children = getattr(command, "commands", None)
        if not children:
            found[" ".join(words)] = command
        for name, child in (children or {}).items():
            walk(child, [*words, name])

    walk(typer.main.get_command(build()), [])
    return found


def test_every_command_is_in_the_list_and_has_the_option():
    known = commands()
    assert set(known) == set(ARGUMENTS) | WITHOUT
    for name, command in known.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert ("--json" in options) is (name not in WITHOUT), name


@pytest.mark.parametrize("name", ARGUMENTS)
def test_stdout_is_one_json_document(name: str, cli: Cli, apple: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("VLEDIT_CACHE", str(tmp_path / "cache"))
    made = ("edit", "--image", apple, "--question", "Whose?", "--answer", "Dell", "--id", "first")
    if "made.vledit" in ARGUMENTS[name]:
        assert cli(*made, "--codebook", "made.vledit").code == 0
    ran = cli(*name.split(), *ARGUMENTS[name].split(), "--json")
    found = json.loads(ran.out)
    assert ran.code in (0, 1, 2, 3, 5, 8), ran.err
    if ran.code not in (0, 8) and name not in ("codebook verify",):
        assert found["error"]
        assert found["kind"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("ask --nonsense", "No such option"),
        ("codebook merge made.vledit made.vledit", "Missing option"),
        ("codebook show made.vledit", "Missing argument"),
        ("bench --limit many", "valid integer"),
        ("nothing", "No such command"),
        ("--nonsense models", "No such option"),
    ],
)
def test_a_usage_error_is_json_too(arguments: str, said: str, cli: Cli):
    ran = cli(*arguments.split(), "--json")
    found = json.loads(ran.out)
    assert ran.code == 2
    assert said in found["error"]
    assert found["kind"]
    assert "Usage" in ran.err
    plain = cli(*arguments.split())
    assert (plain.code, plain.out) == (2, "")
