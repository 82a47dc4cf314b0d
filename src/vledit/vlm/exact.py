"""Convolutions at full precision: on a GPU cuDNN may round their inputs to TF32, and then a batch differs from its single rows.

Measured on an H100 with `pocket`: largest logit difference between a row alone and in a batch 11.4 with TF32, 3e-5 without.  The
convolutions here are patch embeddings and small trunks, so full precision costs next to nothing.  The switch is global in
PyTorch: it is set for the duration of a call, never at import.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_convolutions(device: torch.device) -> Iterator[None]:
    """Within the context, float32 convolutions on a GPU are float32 throughout; nothing to do on other devices."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
