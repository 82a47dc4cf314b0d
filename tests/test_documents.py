"""What a document or a docstring names is there: files, Python modules, commands and options of `vledit`."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import typer

from vledit.cli.app import build

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
SOURCES = [*(ROOT / "src").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
HISTORY = {"experiments.md", "CHANGELOG.md", "decisions.md"}
"""What was once: files that are gone may be named there."""
MADE = {"own.csv", "edits.csv", "companions.csv"}
"""Files that a command of the page makes, or its reader."""
PROMISED = ("docs/build_a_benchmark.md", "vledit data build --review")
"""Named already and being written; to be taken out here when it is there."""
NAMED = re.compile(
    r"(?<![\w/.*…-])((?:docs|benchmarks|tests|src/vledit|scripts)/[\w./-]*\w\.(?:py|md|jsonl?|png|csv|ya?ml))"
)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
PAGE = re.compile(r"`(\w+\.(?:md|py|csv|json))`")
COMMAND = re.compile(r"(?:`|\$ |^    )vledit ((?:[a-z][\w-]*)(?: [^`\n]*)?)", re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]+")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_links_lead_somewhere(path: Path):
    targets = LINK.findall(path.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (path.parent / target).exists()]
    notebooks = [f"examples/{one.stem}.md" for one in (ROOT / "examples").glob("*.ipynb")]  # pages of the site
    assert [target for target in missing if target not in notebooks] == []


def test_files_that_are_named_are_there():
    missing = []
    for path in [*DOCUMENTS, *SOURCES]:
        if path.name not in HISTORY:
            named = NAMED.findall(path.read_text(encoding="utf-8"))
            missing += [f"{relative(path)}: {name}" for name in named if not (ROOT / name).exists()]
    assert [one for one in missing if not one.endswith(PROMISED)] == []


def test_pages_that_docstrings_name_are_there():
    there = {path.name for folder in ("src", "docs", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.*")}
    there |= {path.name for path in ROOT.glob("*.*")}
    missing = []
    for path in SOURCES:
        docstrings = re.findall(r'"""(.*?)"""', path.read_text(encoding="utf-8"), re.DOTALL)
        pages = [name for text in docstrings for name in PAGE.findall(text) if name.endswith((".md", ".csv", ".py"))]
        missing += [f"{relative(path)}: {name}" for name in pages if name not in there | MADE]
    assert missing == []


def commands() -> dict[str, click.Command]:
    """Every command by its words: "data build"."""
    found: dict[str, click.Command] = {}

    def walk(command: click.Command, words: list[str]) -> None:
        found[" ".join(words)] = command
        for name, child in getattr(command, "commands", {}).items():
            walk(child, [*words, name])

    walk(typer.main.get_command(build()), [])
    return found


def test_commands_and_options_that_are_named_exist():
    known = commands()
    wrong = []
    for path in [*DOCUMENTS, *SOURCES]:
        if path.name in HISTORY:
            continue
        for line in COMMAND.findall(path.read_text(encoding="utf-8")):
            words = line.split()
            name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in known), "")
            if not name:
                wrong.append(f"{relative(path)}: vledit {line}")
                continue
            options = {
                option for parameter in known[name].params for option in (*parameter.opts, *parameter.secondary_opts)
            }
            unknown = set(OPTION.findall(line.split("#")[0])) - options - {"--help", "--json", "--debug"}
            wrong += [f"{relative(path)}: vledit {name} {option}" for option in sorted(unknown)]
    assert [one for one in wrong if not one.endswith(PROMISED)] == []


def test_tests_that_the_page_of_checks_names_are_there():
    text = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 50
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).exists() or (name and f"def {name}(" not in (ROOT / path).read_text(encoding="utf-8"))
    ]
    assert missing == []
