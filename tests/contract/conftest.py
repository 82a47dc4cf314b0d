"""One parameter for all: the cell (family, editor) of the table."""

import pytest
import torch

from .rows import CELLS, made

torch.set_num_threads(1)


@pytest.fixture(params=CELLS, ids="-".join)
def cell(request):
    """(family, editor)."""
    return request.param


@pytest.fixture
def one(cell):
    """The cell's edit, made once."""
    return made(*cell)
