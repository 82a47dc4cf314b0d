"""Tensors from the bytes of a safetensors file, each in memory of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def tensors_of(data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file's content, copied to where torch allocates.

    In the file they start at any multiple of 8 bytes, which depends on the length of the header.  Libraries of matrix products
    add up in another order for a matrix that does not start at a multiple of 16, so that an edit loaded in place could
    answer with other bits than the edit that was saved.

    Raises: safetensors.SafetensorError for bytes that are no such file.
    """
    from safetensors.torch import load

    return {name: tensor.clone() for name, tensor in load(data).items()}
