"""`vledit fit`: what is said where nothing is to be fitted, and what reaches the editor."""

import json
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from tests.editors.training.test_training_loop import Job
from tests.evaluate.small import case
from tests.vlm.models import tiny
from vledit.cli import fit as fit_command
from vledit.cli.app import build
from vledit.cli.benchmark_files import BenchmarkFiles
from vledit.editors import registry
from vledit.editors.base import setting
from vledit.editors.edited_model import EditedModel
from vledit.editors.training import artefact
from vledit.editors.training.settings import FitSettings


@dataclass(frozen=True)
class ToyFit(FitSettings):
    steps: int = setting(4, "optimiser steps")
    width: int = setting(8, "how wide it is")


class Toy:
    name = "toy"
    FitConfig = ToyFit
    seen: ToyFit

    @classmethod
    def published(cls, family):
        return {"width": 64} if family == "pocket" else {}

    @classmethod
    def fit(cls, fitting):
        cls.seen = fitting.settings
        return fitting.run(cls.name, Job())


@pytest.fixture
def toy(monkeypatch, tmp_path):
    monkeypatch.setenv("VLEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(registry._OWN, "toy", (f"{__name__}:Toy", "a toy"))
    monkeypatch.setattr(fit_command, "open_model", lambda name, *_, **__: EditedModel(tiny(name)))
    monkeypatch.setattr(BenchmarkFiles, "cases", lambda _self, split: [case(i) for i in range(3)])


def run(*arguments):
    return CliRunner().invoke(build(), ["fit", *arguments])


def test_an_editor_that_learns_nothing_beforehand_has_a_clear_error():
    done = run("--editor", "ft")
    assert done.exit_code == 2
    assert "editor: 'ft' learns nothing before its first edit" in done.output
    assert run("--editor", "balancedt").exit_code == 2


def test_settings_reach_the_editor_and_the_artefact_lies_where_it_looks(toy):
    done = run("--editor", "toy", "--steps", "6", "--set", "width=3", "--set", "seed=2", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (Toy.seen.steps, Toy.seen.width, Toy.seen.seed) == (6, 3, 2)
    found = artefact.find("toy", tiny("pocket"))
    assert str(found.folder) == said["folder"]
    assert said["manifest"]["data"]["benchmark"] == "icons"
    assert said["manifest"]["settings"]["width"] == 3
    again = run("--editor", "toy", "--steps", "6", "--set", "width=5", "--set", "seed=2")
    assert again.exit_code == 2
    assert "width: the run in" in again.output


def test_settings_are_listed_and_unknown_ones_named(toy):
    assert "width (a whole number, 8): how wide it is" in run("--editor", "toy", "--settings").output
    assert "Did you mean 'width'?" in run("--editor", "toy", "--set", "widht=3").output


def test_the_authors_settings_can_be_taken_and_changed(toy, tmp_path):
    assert run("--editor", "toy", "--published", "--steps", "2", "--out", str(tmp_path / "a")).exit_code == 0
    assert (Toy.seen.width, Toy.seen.steps) == (64, 2)
    curve = tmp_path / "curve.svg"
    again = run(
        "--editor", "toy", "--published", "--set", "width=9", "--out", str(tmp_path / "b"), "--curve", str(curve)
    )
    assert again.exit_code == 0
    assert Toy.seen.width == 9
    assert "<svg" in curve.read_text()
    none = run("--editor", "toy", "--published", "--model", "blip2", "--out", str(tmp_path / "c"))
    assert none.exit_code == 2
    assert "published: the authors of 'toy' gave no settings for the family 'blip2'" in none.output


def test_another_folder_is_a_run_of_its_own(toy, tmp_path):
    assert run("--editor", "toy", "--out", str(tmp_path / "a")).exit_code == 0
    assert (tmp_path / "a" / artefact.MANIFEST).exists()
    assert run("--editor", "toy", "--out", str(tmp_path / "a"), "--steps", "9").exit_code == 2
    assert run("--editor", "toy", "--out", str(tmp_path / "a"), "--steps", "9", "--restart").exit_code == 0


def test_the_cases_have_de_vqas_cells_where_they_are_asked_for(toy, monkeypatch):
    seen = []

    def cases(self, split):
        seen.append(self.devqa)
        return [case(i) for i in range(3)]

    monkeypatch.setattr(BenchmarkFiles, "cases", cases)
    assert run("--editor", "toy", "--devqa").exit_code == 0
    assert run("--editor", "toy", "--restart").exit_code == 0
    assert seen == ["all-MiniLM-L6-v2", ""]
