"""From a published file to scores: `vledit bench` on miniature files, with a tiny random model (mechanics only)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.vlm.models import tiny
from vledit.cli import session
from vledit.cli.app import build
from vledit.editors.edited_model import EditedModel
from vledit.evaluate.results import read_results

from .miniature_benchmarks import MULTI_HOP, RECORD, draw, pictures_of, write_json

EDITOR = "balancedit:steps=200,learning_rate=0.05,margin=1.0,rephrase=plugin,alpha=0.3"
Bench = Callable[..., Result]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    """`vledit bench` in an empty folder, on the tiny pocket."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(session, "load_model", lambda name, device, dtype, **_: EditedModel(tiny("pocket")))

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(build(), ["bench", "--editors", EDITOR, "--texts", "0", *map(str, arguments)])

    return run


def outcomes_by_cell(records: list[dict]) -> dict[str, int]:
    found: dict[str, int] = {}
    for record in records:
        for outcome in record["outcomes"]:
            cell = f"{outcome.family}/{outcome.cell}"
            found[cell] = found.get(cell, 0) + 1
    return found


def test_every_probe_of_a_file_is_scored(bench: Bench, tmp_path: Path):
    long = {**MULTI_HOP, "loc_ans": "word " * 212}  # as in the real files; no model takes so long an answer
    path = write_json(tmp_path / "eval_multihop.json", [MULTI_HOP, long])
    draw(tmp_path / "VLKEB_images", *pictures_of(MULTI_HOP))
    ran = bench("--benchmark", "vlkeb", "--annotations", path, "--images", tmp_path)
    assert ran.exit_code == 0, ran.stderr
    assert "not a file that we know" in ran.stderr
    head, records = read_results(tmp_path / "results.jsonl")
    assert [record["error"] for record in records] == ["", ""]
    assert outcomes_by_cell(records) == {
        "reliability/edit": 2,
        "generality/text": 2,
        "generality/image": 2,
        "locality/text": 2,
        "locality/random_image": 2,
        "portability/1-hop": 2,
        "portability/2-hop": 4,
        "portability/4-hop": 2,
    }
    assert head["manifest"]["data"]["counts"]["portability 2-hop"] == 4
    assert "split" not in head["manifest"]


def test_a_run_does_not_go_on_with_another_file(bench: Bench, tmp_path: Path):
    draw(tmp_path, *pictures_of(RECORD))
    first = write_json(tmp_path / "vqa_eval.json", [RECORD])
    options = ("--benchmark", "evqa", "--images", tmp_path, "--annotations")
    assert bench(*options, first).exit_code == 0
    assert bench(*options, first).exit_code == 0
    other = write_json(tmp_path / "other.json", [{**RECORD, "loc": "nq question: who is it"}])
    ran = bench(*options, other)
    assert ran.exit_code == 2
    assert "data" in ran.stderr
    assert bench(*options, first, "--as-published").exit_code == 2


def test_what_is_missing_stops_a_run_before_a_model_is_loaded(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(session, "load_model", refuse)
    path = write_json(tmp_path / "vqa_eval.json", [RECORD])
    ran = bench("--benchmark", "evqa", "--annotations", path)
    assert ran.exit_code == 5
    assert "3 pictures are missing" in ran.stderr
    assert not (tmp_path / "results.jsonl").exists()
