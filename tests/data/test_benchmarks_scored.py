"""From a published file to scores: `vledit bench` on miniature files, with a tiny random model (mechanics only)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.vlm.models import tiny
from vledit import retrieval
from vledit.cli import session
from vledit.cli.app import build
from vledit.data.devqa import EDIT, LOCALITY_CELLS
from vledit.editors.edited_model import EditedModel
from vledit.evaluate.results import read_results

from .miniature_benchmarks import ENTITY, MULTI_HOP, RECORD, draw, pictures_of, write_json
from .words_encoder import WordsEncoder

EDITOR = "balancedit:steps=200,learning_rate=0.05,margin=1.0,rephrase=plugin,alpha=0.3"
Bench = Callable[..., Result]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    """`vledit bench` in an empty folder, on the tiny pocket."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(session, "load_model", lambda name, device, dtype, **_: EditedModel(tiny("pocket")))

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(
            build(), ["bench", "--rephrases", "supplied", "--editors", EDITOR, "--texts", "0", *map(str, arguments)]
        )

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


@pytest.mark.parametrize(("name", "record"), [("evqa", RECORD), ("vlkeb", ENTITY)])
def test_devqa_on_a_published_file_with_a_missing_picture_and_a_record_of_text(
    name: str, record: dict, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(retrieval, "encoder", lambda name: WordsEncoder())
    folder = record["image"].split("/")[0]
    other = {
        **record, "src": "What color is the dog in the picture?", "alt": "brown", "pred": "red",
        "image": f"{folder}/dog.jpg", "image_rephrase": f"{folder}/dog_2.jpg", "m_loc": f"{folder}/gone.jpg",
        "rephrase": "The dog has which color?",
    }  # fmt: skip
    gone = {**other, "src": "Who is in this picture?", "image": f"{folder}/gone_too.jpg", "alt": "a man"}
    text = {
        **record, "src": "What is the capital of Peru?", "alt": "Cusco", "pred": "Lima",
        "rephrase": "Which city is the capital of Peru?", "image": None, "image_rephrase": None,
    }  # fmt: skip
    path = write_json(tmp_path / "eval.json", [record, other, gone, text])
    missing = (other["m_loc"], gone["image"])
    draw(tmp_path, *[picture for picture in pictures_of(record, other, gone, text) if picture not in missing])
    options = ("--devqa", "--benchmark", name, "--annotations", path, "--images", tmp_path)
    assert bench(*options).exit_code == 5
    ran = bench(*options, "--skip-missing")
    assert ran.exit_code == 0, ran.stderr
    assert "1 of 4 records are left out" in ran.stderr
    head, records = read_results(tmp_path / "results.jsonl")
    assert head["manifest"]["devqa"] == {"retriever": "all-MiniLM-L6-v2"}
    assert [record["error"] for record in records] == [""] * 3
    cells = [{o.cell for o in record["outcomes"] if o.cell in LOCALITY_CELLS} for record in records]
    assert cells[0] == cells[1] == set(LOCALITY_CELLS)
    # of a record of text there is no I1, and its question without a picture is the edit itself
    assert cells[2] == set(LOCALITY_CELLS) - {"T1I4", "T2I1", "T3I1", "T4I1"}
    assert EDIT not in cells[0]
    for record in records:
        pictures = {o.cell[2:]: o.image for o in record["outcomes"] if o.cell in LOCALITY_CELLS}
        assert pictures["I4"] is None
        assert len({*pictures.values()}) == len(pictures)
        edit = next(o for o in record["outcomes"] if o.family == "reliability")
        assert edit.base_answer  # what blindness is calibrated with
