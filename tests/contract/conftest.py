"""One parameter for all: the cell (family, editor) of the table."""

import pytest

from .rows import CELLS, EDITORS, FAMILIES, made

EVERY = 7
"""Without `--whole` one cell in seven is run, with every pair of family and editor and of editor and clause among them."""

JOINED_LAST = ("hice", "serac", "lte", "lemoe")
"""Rows whose every family has not been looked at yet: `make contract` runs them, the covering choice does not."""


def pytest_collection_modifyitems(config, items):
    """Leaves out what a covering choice need not run; `make contract` runs everything."""
    if config.getoption("--whole", default=False):
        return
    clauses: dict[str, int] = {}
    kept, left = [], []
    for item in items:
        cell = getattr(item, "callspec", None) and item.callspec.params.get("cell")
        if not cell:
            kept.append(item)
            continue
        clause = clauses.setdefault(item.originalname, len(clauses))
        if cell[1] in JOINED_LAST:
            left.append(item)
            continue
        place = list(FAMILIES).index(cell[0]) + list(EDITORS).index(cell[1]) + clause
        (kept if place % EVERY == 0 else left).append(item)
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
