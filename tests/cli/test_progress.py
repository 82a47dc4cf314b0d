"""Every command that may take longer than two seconds shows progress on stderr."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import vledit.cli
from vledit.cli import output
from vledit.cli.output import steps
from vledit.codebook import Codebook

from .test_json import commands

SHOWN = {"bar", "steps", "busy", "_bar", "Progress"}
"""What shows progress: a bar, or (`busy`) a sign of life while one thing goes on."""
PROMPT = {"codebook show", "token create", "token list", "token revoke", "editors", "data list", "data card"}
"""Reads one entry, or reads or writes a small file, without a model."""
ELSEWHERE = {"train-pocket", "data build icons", "reproduce"}
"""Prints a log as it runs; a bar from `vledit.data.icons`; what the commands show that it runs."""


@cache
def reach() -> dict[str, set[str]]:
    """Function of `vledit.cli` (module:name) → the functions that it calls, by name, in whatever depth."""
    calls: dict[str, set[str]] = {}
    for path in Path(vledit.cli.__path__[0]).glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        origin = {
            (name.asname or name.name): f"{node.module}:{name.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
            for name in node.names
        }
        local = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                used = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} - {node.name}
                calls[f"{path.stem}:{node.name}"] = {
                    origin.get(name, f"{path.stem}:{name}") for name in used if name in origin or name in local
                } | (used & SHOWN)

    def whole(start: str, seen: set[str]) -> set[str]:
        for name in calls.get(start, set()) - seen:
            seen.add(name)
            whole(name, seen)
        return seen

    return {name: {one.rpartition(":")[2] for one in whole(name, set())} for name in calls}


KNOWN = commands()


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_command_shows_progress_unless_it_is_prompt(name: str):
    callback = KNOWN[name].callback
    assert callback is not None
    found = reach()[f"{callback.__module__.rpartition('.')[2]}:{callback.__name__}"]
    assert bool(found & SHOWN) is (name not in PROMPT | ELSEWHERE), found


def test_entries_are_counted_while_files_are_checked_exported_and_merged(cli, apple, monkeypatch):
    for number, question in enumerate(("Whose?", "Whose mark?", "What is it?")):
        made = ("edit", "--image", apple, "--question", question, "--answer", "Dell", "--id", f"e{number}")
        assert cli(*made, "--codebook", "first.vledit" if number < 2 else "second.vledit").code == 0
    told: list[tuple[str, int, int]] = []

    def counted():
        class Steps:
            def __enter__(self):
                return lambda *one: told.append(one)

            def __exit__(self, *error):
                pass

        return Steps()

    for module in ("codebook", "codebook_join"):
        monkeypatch.setattr(f"vledit.cli.{module}.steps", counted)
    assert cli("codebook", "verify", "first.vledit").code == 0
    assert told == [("checking entries", 1, 2), ("checking entries", 2, 2)]
    told.clear()
    assert cli("codebook", "export", "first.vledit", "out.json").code == 0
    assert told == [("writing entries", 1, 2), ("writing entries", 2, 2)]
    told.clear()
    assert cli("codebook", "merge", "first.vledit", "second.vledit", "--out", "both.vledit").code == 0
    assert told == [*(("writing entries", n, 3) for n in (1, 2, 3)), ("comparing keys", 1, 1)]
    with Codebook.open("both.vledit") as book:
        assert len(book) == 3


def test_a_bar_is_shown_to_who_watches_and_to_nobody_else(monkeypatch):
    import io

    from rich.console import Console

    for watched in (True, False):
        shown = io.StringIO()
        monkeypatch.setattr(output, "errors", Console(file=shown, force_terminal=watched))
        with steps() as step:
            step("checking entries", 1, 2)
        assert ("checking entries" in shown.getvalue()) is watched
