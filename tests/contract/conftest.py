"""One parameter for all: the cell (family, editor) of the table."""

import re
from pathlib import Path

import pytest

from .rows import CELLS, EDITORS, FAMILIES, made

EVERY = 20
"""Without `--whole` one cell in twenty is run.  There are as many clauses, and more families, so that every pair of family and
editor and every pair of editor and clause is among them (`test_backbones_page`); `--every 7` runs more."""


CLAUSES = tuple(
    name
    for path in sorted(Path(__file__).parent.glob("test_contract_*.py"))
    for name in re.findall(r"^def (test_\w+)\(one\b", path.read_text(encoding="utf-8"), re.MULTILINE)
)
"""The tests that are of one cell, whichever of them are collected."""


def chosen(cell: tuple[str, str], clause: str, every: int = EVERY) -> bool:
    """Whether the choice has this cell."""
    places = (list(FAMILIES).index(cell[0]), list(EDITORS).index(cell[1]), CLAUSES.index(clause))
    return sum(places) % every == 0


def _of_layers(params: dict[str, str]) -> bool:
    """Of the rows of `test_contract_layers` the choice has one method at each site."""
    from .test_contract_layers import METHODS, ROWS, SITES

    places = (list(ROWS).index(params["vlm"]), METHODS.index(params["method"]), SITES.index(params["role"]))
    return sum(places) % len(METHODS) == 0


def _of_habits(params: dict[str, str]) -> bool:
    from .test_habits_of_editors import CHOSEN

    return (params["name"], params["around"]) in CHOSEN


CHOICES = {"test_an_edit_fires_is_undone_and_kept": _of_layers, "test_an_editor_works_alike_within": _of_habits}
"""Tests with a choice of their own, by name; every other test of every folder runs."""


def pytest_collection_modifyitems(config, items):
    """Leaves out what a covering choice need not run; `make contract` runs everything."""
    if config.getoption("--whole", default=False):
        return
    every = config.getoption("--every", default=0) or EVERY
    kept, left = [], []
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        cell = params.get("cell")
        if not cell:
            choice = CHOICES.get(getattr(item, "originalname", ""))
            (kept if choice is None or choice(params) else left).append(item)
            continue
        (kept if chosen(cell, item.originalname, every) else left).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


@pytest.fixture(params=CELLS, ids="-".join)
def cell(request):
    """(family, editor)."""
    return request.param


@pytest.fixture
def one(cell):
    """The cell's edit, made once."""
    return made(*cell)
