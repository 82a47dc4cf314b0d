"""Settings that make training fast on this machine: memory allocation, and the dtype of the frozen part."""

from __future__ import annotations

import ctypes
import time

import torch
import torch.nn.functional as F

from ..errors import UnknownNameError


def hold_memory() -> None:
    """Tells glibc to keep freed memory: giving it back and asking again took half of the time in batched convolutions."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((-3, 1 << 30), (-1, 2**31 - 1), (-2, 1 << 28)):
            libc.mallopt(option, value)
    except OSError:
        pass


def frozen_dtype(name: str) -> torch.dtype:
    """The dtype of that name; for "auto" the faster one here.

    A processor without bfloat16 instructions was seen to multiply in it nine times slower than in float32, one with them
    twice as fast (docs/experiments.md).
    """
    choices = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    if name == "auto":
        return min(choices.values(), key=_seconds_of_a_product)
    if name not in choices:
        raise UnknownNameError("dtype", name, ("auto", *choices))
    return choices[name]


def _seconds_of_a_product(dtype: torch.dtype, size: int = 512, tries: int = 5) -> float:
    """The shortest of some matrix products, the first not counted."""
    matrix = torch.ones(size, size, dtype=dtype)
    taken = []
    for _ in range(tries + 1):
        began = time.perf_counter()
        F.linear(matrix, matrix)
        taken.append(time.perf_counter() - began)
    return min(taken[1:])
