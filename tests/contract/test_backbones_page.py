"""`docs/backbones.md` and its machine-readable twin are those of one run, and every tiny model was in it."""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from tests.vlm.models import FAMILIES
from vledit.vlm import registry

from .conftest import CLAUSES, chosen
from .rows import CELLS, EDITORS, LEFT_OUT

ROOT = Path(__file__).resolve().parents[2]
AGAIN = "run `make backbones`"


@pytest.fixture(scope="module")
def backbones():
    """benchmarks/backbones.py as a module."""
    spec = spec_from_file_location("backbones", ROOT / "benchmarks" / "backbones.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def proven(backbones):
    return json.loads(backbones.TWIN.read_text())


def test_the_page_says_what_the_twin_says(backbones, proven):
    assert backbones.PAGE.read_text() == backbones.page(proven), AGAIN


def test_every_family_was_run(proven):
    """With every editor, but for the cells that `rows.LEFT_OUT` names."""
    run = set(proven) - {"run"}
    assert run == set(FAMILIES), AGAIN
    assert set(registry.family_names()) <= {proven[name]["family"] for name in run}, AGAIN
    for name in run:
        assert set(proven[name]["editors"]) == {one for one in EDITORS if (name, one) not in LEFT_OUT}, (name, AGAIN)
    assert {clause.replace(" ", "_") for clause in proven["run"]["clauses"]} == {
        clause.removeprefix("test_") for clause in CLAUSES
    }, AGAIN


def test_the_covering_choice_has_every_pair():
    """Of family and editor, and of editor and clause."""
    cells = [(*cell, clause) for cell in CELLS for clause in CLAUSES if chosen(cell, clause)]
    assert {cell[:2] for cell in cells} == set(CELLS)
    assert {cell[1:] for cell in cells} == {(editor, clause) for editor in EDITORS for clause in CLAUSES}
    assert len(cells) < len(CELLS) * 1.5


def test_a_red_cell_is_shown(backbones, proven):
    name = FAMILIES[0]
    clause = next(iter(proven["run"]["clauses"]))
    row = {**proven[name], "failed": {f"{clause}: ft": "AssertionError: 1 != 2"}, "contract": "failed"}
    page = backbones.page({**proven, name: row})
    assert "✗ ft" in page
    assert f"- {name}, {clause}: ft: AssertionError: 1 != 2" in page
