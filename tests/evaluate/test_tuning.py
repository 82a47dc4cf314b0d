"""`vledit tune`: what is searched, that a stopped search goes on, and that named settings mean what was found."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.vlm.models import tiny
from vledit.cli import tune as command
from vledit.editors.edited_model import EditedModel
from vledit.editors.named import published, resolved, tuned_folder
from vledit.editors.registry import editor_class
from vledit.errors import InputError, MissingDataError, UnknownNameError
from vledit.evaluate.outcomes import Outcome
from vledit.evaluate.tuning import SPACES, STUDY, Search, space, value_of

from .small import case
from .test_bench_command import cli  # noqa: F401  (fixture)

optuna = pytest.importorskip("optuna")
ABOUT = {"model": "m", "cases": "c"}


def outcome(family: str, cell: str, index: int, right: bool) -> Outcome:
    same = right if family == "locality" else None
    nan = math.nan
    return Outcome("a", "ft", family, cell, index, False, 0.0, right, same, nan, nan, nan, nan, True)


def records(reliability: int, generality: int, locality: int) -> list[dict[str, Any]]:
    """One edit; of four probes of each cell so many are right."""
    found = [outcome("reliability", "edit", i, i < reliability) for i in range(4)]
    found += [outcome("generality", cell, i, i < generality) for cell in ("text", "image") for i in range(4)]
    found += [outcome("locality", "near_image", i, i < locality) for i in range(4)]
    return [{"case": "a", "outcomes": found}]


def test_the_value_is_the_harmonic_mean_of_three_families():
    found = value_of(records(4, 2, 1))
    assert found == pytest.approx(
        {"value": 3 / (1 / 1 + 1 / 0.5 + 1 / 0.25), "reliability": 1, "generality": 0.5, "locality": 0.25}
    )
    assert value_of(records(0, 4, 4))["value"] == 0


def score(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Better the nearer the learning rate is to 1e-2, on a logarithmic scale."""
    away = abs(math.log10(settings["learning_rate"]) + 2)
    return records(4, 4, max(0, round(4 - 2 * away)))


def test_a_search_that_was_stopped_and_one_that_was_killed_go_on_to_the_same_trials(tmp_path):
    first = [{"learning_rate": 1e-3, "steps": 50, "margin": 2.0, "why": "default"}]
    whole = Search("ft", tmp_path / "whole", ABOUT, 3, first=first)
    whole.run(4, score)
    for count in (2, 4):
        stopped = Search("ft", tmp_path / "stopped", ABOUT, 3, first=first)
        stopped.run(count, score)
    strip = lambda rows: [{k: v for k, v in row.items() if k != "trial"} for row in rows]  # noqa: E731
    assert stopped.rows() == whole.rows()
    assert whole.rows()[0]["why"] == "default"
    assert whole.rows()[0]["learning_rate"] == 1e-3

    def dies(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
        raise KeyboardInterrupt

    killed = Search("ft", tmp_path / "killed", ABOUT, 3, first=first)
    with pytest.raises(KeyboardInterrupt):
        killed.run(4, dies)
    again = Search("ft", tmp_path / "killed", ABOUT, 3, first=first)
    again.run(1, score)
    assert strip(again.rows()) == strip(whole.rows()[:1])
    best = json.loads((tmp_path / "whole" / "best.json").read_bytes())
    assert best["value"] == max(row["value"] for row in whole.rows())
    top = max(whole.rows(), key=lambda row: row["value"])
    assert best["settings"]["learning_rate"] == top["learning_rate"]


def test_named_settings_are_tried_as_they_are_though_no_search_would_propose_them(tmp_path):
    asked = []

    def noted(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
        asked.append(dict(settings))
        return records(4, 4, 4) if settings["gate"] is None else records(1, 1, 1)

    search = Search("ike", tmp_path, ABOUT, first=[{"demonstrations": 0, "gate": None, "why": "default"}])
    search.run(3, noted)
    assert asked[0] == {"demonstrations": 0, "gate": None}
    assert None not in [one["gate"] for one in asked[1:]]
    assert search.rows()[0]["gate"] is None
    assert search.best == {"demonstrations": 0, "gate": None}
    assert json.loads((tmp_path / "best.json").read_bytes())["settings"] == search.best
    again = Search("ike", tmp_path, ABOUT, first=[{"demonstrations": 0, "gate": None, "why": "default"}])
    again.run(4, noted)
    assert len(asked) == 4, "what was tried is not tried again"


def test_edits_that_fail_are_counted_and_what_no_settings_can_mend_stops_the_search(tmp_path):
    def fails(kind: str, count: int) -> Any:
        failed = {"error": "fit it first", "error_type": kind, "outcomes": records(0, 0, 4)[0]["outcomes"]}
        return lambda settings: [failed] * count + records(4, 4, 4) * (2 - count)

    search = Search("ft", tmp_path / "some", ABOUT)
    search.run(1, fails("EditFailedError", 2))
    search.run(2, fails("MissingDataError", 1))
    assert [row["failed"] for row in search.rows()] == [2, 1]
    with pytest.raises(MissingDataError, match="fit it first"):
        search.run(3, fails("MissingDataError", 2))
    assert len(search.rows()) == 2


def test_another_search_in_the_folder_is_refused(tmp_path):
    Search("ft", tmp_path, ABOUT)
    with pytest.raises(InputError, match=r"cases.*--restart"):
        Search("ft", tmp_path, {**ABOUT, "cases": "others"})
    with pytest.raises(InputError, match="nothing is left"):
        Search("mend", tmp_path / "m", ABOUT, fixed={"scale": 1.0})
    with pytest.raises(InputError, match="recipe"):
        space("recipe")


@pytest.mark.parametrize("name", SPACES)
def test_every_searched_setting_is_one_of_the_editor(name: str):
    config = editor_class(name).Config
    ends = {key: one.choices[0] if one.choices else one.high for key, one in SPACES[name].items()}
    ends |= {key: int(value) for key, value in ends.items() if SPACES[name][key].kind == "int"}
    config.from_settings(ends)


def test_named_settings_are_looked_up_for_the_model(tmp_path, monkeypatch):
    monkeypatch.setenv("VLEDIT_CACHE", str(tmp_path))
    vlm = tiny("blip2")
    assert published("ft_v", "blip2") == {"steps": 15, "learning_rate": 2e-4}
    assert resolved("ft_v", {"settings": "published", "steps": 3}, vlm) == {"steps": 3, "learning_rate": 2e-4}
    assert resolved("ft", {"steps": 3}, vlm) == {"steps": 3}
    with pytest.raises(MissingDataError, match="vledit tune --editor ft"):
        resolved("ft", {"settings": "tuned"}, vlm)
    folder = tuned_folder("ft", vlm)
    folder.mkdir(parents=True)
    (folder / "best.json").write_text('{"settings": {"learning_rate": 0.5}}')
    assert resolved("ft", {"settings": "tuned"}, vlm) == {"learning_rate": 0.5}
    (tmp_path / "own.json").write_text('{"settings": {"rate": 0.5}}')
    with pytest.raises(UnknownNameError, match="rate"):
        resolved("ft", {"settings": str(tmp_path / "own.json")}, vlm)
    with pytest.raises(InputError, match="fit --editor mend --published"):
        published("mend", "blip2")
    with pytest.raises(InputError, match="none of default, published, tuned"):
        resolved("ft", {"settings": "best"}, vlm)


def test_tune_writes_the_best_a_plot_and_its_figures_and_bench_takes_them(cli, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(command, "benchmark_cases", lambda wanted: [case(0)])
    monkeypatch.setattr(command, "open_model", lambda *_, **__: EditedModel(tiny("pocket")))
    ran = cli("tune", "--editor", "ft", "--trials", 3, "--set", "steps=5", "--json")
    assert ran.code == 0, ran.err
    folder = Path(ran.json["folder"])
    rows = list(csv.DictReader((folder / "tried.csv").open()))
    assert [row["why"] for row in rows] == ["default", "published", ""]
    assert rows[1]["learning_rate"] == "0.01"
    assert rows[1]["margin"] == rows[0]["margin"]  # what the authors do not give is the default
    assert (folder / "tried.png").read_bytes()[:4] == b"\x89PNG"
    assert (folder / STUDY).exists()
    more = cli("tune", "--editor", "ft", "--trials", 4, "--set", "steps=5")
    assert more.code == 0, more.err
    assert len(list(csv.DictReader((folder / "tried.csv").open()))) == 4
    ran = cli("bench", "--editors", "t=ft:settings=tuned;p=ft:settings=published,steps=5", "--out", "r.jsonl")
    assert ran.code == 0, ran.err
    head = json.loads(Path("r.jsonl").read_text().splitlines()[0])["manifest"]
    tuned, authors = head["variants"]
    assert tuned["settings"]["steps"] == 5
    assert (
        tuned["settings"]["learning_rate"]
        == json.loads((folder / "best.json").read_bytes())["settings"]["learning_rate"]
    )
    assert authors["settings"] == {"learning_rate": 0.01, "steps": 5}
    assert cli("tune", "--editor", "ft", "--trials", 1, "--plot", "x.txt").code == 2
