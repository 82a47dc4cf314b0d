"""One parameter for all: the cell (family, editor) of the table."""

import pytest

from .rows import CELLS, made


@pytest.fixture(params=CELLS, ids="-".join)
def cell(request):
    """(family, editor)."""
    return request.param


@pytest.fixture
def one(cell):
    """The cell's edit, made once."""
    return made(*cell)
