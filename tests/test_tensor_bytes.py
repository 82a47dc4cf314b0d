"""Tensors that are read from a file start where torch's own do, wherever they start in the file."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save

from vledit.tensor_bytes import tensors_of


@pytest.mark.parametrize("more", range(0, 64, 8))
def test_what_is_read_multiplies_to_the_bits_of_what_was_written(more):
    torch.manual_seed(0)
    weight, rows = torch.randn(64, 64), torch.randn(7, 64)
    found = tensors_of(save({"weight": weight}, {"about": "x" * more}))["weight"]  # a longer header moves the tensor
    assert found.data_ptr() % 64 == 0
    assert torch.equal(found, weight)
    assert torch.equal(rows @ found.T, rows @ weight.T)
