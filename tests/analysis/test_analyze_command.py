"""`vledit analyze` as a user types it, on a tiny model and a few made-up cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.data.words_encoder import WordsEncoder
from tests.evaluate.small import case
from tests.vlm.models import tiny
from vledit.analysis.notes import read_notes
from vledit.cli import session
from vledit.cli.app import build
from vledit.cli.benchmark_files import BenchmarkFiles
from vledit.data.devqa import DevQA
from vledit.editors.edited_model import EditedModel
from vledit.retrieval import Index

EDITOR = "ft:steps=200,learning_rate=0.05,margin=1.0"
Cli = Callable[..., Any]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """`vledit analyze` in an empty folder; two cases with De-VQA's cells that they can have."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(session, "load_model", lambda name, device, dtype, **_: EditedModel(tiny("pocket")))
    made = [case(i) for i in range(2)]
    cases = DevQA(made, Index(WordsEncoder())).wrap_all(made)
    monkeypatch.setattr(BenchmarkFiles, "cases", lambda self, split="test", limit=0: cases)
    return lambda *words: CliRunner().invoke(build(), ["analyze", *map(str, words)])


def test_attribution_of_base_and_editor_goes_on_in_its_file_and_makes_a_page(cli: Cli, tmp_path: Path):
    options = ("attribution", "--editors", EDITOR, "--cells", "edit,near_image", "--gamma", 0.3, "--out", "a.jsonl")
    ran = cli(*options, "--page", "a.html", "--show", 1)
    assert ran.exit_code == 0, ran.stderr
    assert "Pull of the picture" in ran.stdout
    head, lines = read_notes(tmp_path / "a.jsonl")
    assert (head["analysis"], head["gamma"]) == ("attribution", 0.3)
    assert [(line["variant"], line["case"]) for line in lines] == [
        (name, f"case-{n}") for n in (0, 1) for name in ("base", EDITOR)
    ]
    assert all(len(line["shares"]["near_image"]) == len(line["pulls"]["edit"]) == 3 for line in lines)
    # the site is in the last layer: what lies below is as before, what the last token takes there is not
    assert lines[0]["pulls"]["edit"][:2] == pytest.approx(lines[1]["pulls"]["edit"][:2], abs=1e-5)
    assert lines[0]["pulls"]["edit"][2] != pytest.approx(lines[1]["pulls"]["edit"][2], abs=1e-4)
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page.count('class="flow picture"') == 2
    assert "http" not in page.replace("http://www.w3.org", "")
    whole = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "a.jsonl").write_bytes(whole[:-20])  # as a kill leaves it
    assert cli(*options).exit_code == 0
    assert (tmp_path / "a.jsonl").read_bytes() == whole
    other = cli(*options[:-4], "--gamma", 0.4, "--out", "a.jsonl")
    assert other.exit_code == 2
    assert "gamma" in other.stderr


def test_masking_says_what_stays_of_an_edited_answer(cli: Cli):
    ran = cli("masking", "--editors", EDITOR, "--gamma", 0.2, "--json")
    assert ran.exit_code == 0, ran.stderr
    ways = json.loads(ran.stdout)["kept"][EDITOR]["edit"]
    assert ways["whole"]["mean"] == 1.0
    assert ways["whole"]["n"] == 2
    assert {"keys/0", "random/0"} <= set(ways)
    assert cli("masking", "--cells", "T9I9").exit_code == 2


def test_kl_is_positive_where_the_edit_acts(cli: Cli):
    ran = cli("kl", "--editors", EDITOR, "--cells", "edit,text", "--json")
    assert ran.exit_code == 0, ran.stderr
    found = json.loads(ran.stdout)["kl"][EDITOR]
    assert found["edit"]["text"]["mean"] > 0
    assert found["edit"]["image"]["mean"] > 0
    assert found["edit"]["ratio"]["n"] == 2
    assert found["text"] == {}  # a question without a picture has no ratio
    assert cli("kl", "--editors", "", "--cells", "edit").exit_code == 2


def test_results_without_blindness_are_refused_before_a_model_is_loaded(cli: Cli, tmp_path: Path):
    (tmp_path / "r.jsonl").write_text('{"manifest": {"schema": 2}}\n')
    ran = cli("attribution", "--results", "r.jsonl")
    assert ran.exit_code == 2
    assert "--devqa" in ran.stderr


@pytest.mark.parametrize("command", ["attribution", "masking"])
def test_a_model_that_cannot_be_traced_is_refused_with_the_reason(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
):
    monkeypatch.setattr(session, "load_model", lambda name, device, dtype, **_: EditedModel(tiny("mllama")))
    ran = cli(command, "--cells", "edit", "--out", "a.jsonl")
    assert ran.exit_code == 2
    assert "cross attention" in ran.stderr
    assert not (tmp_path / "a.jsonl").exists()
