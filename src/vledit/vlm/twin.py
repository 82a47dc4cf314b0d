"""A second model object over the same weights, so that two threads can each run a pass at once.

Hooks, locks and generation settings belong to a model object; the weights are never written to.  A twin has its own of the
former and shares the latter.
"""

from __future__ import annotations

import copy
from itertools import chain

from .base import VLM


def twin(vlm: VLM) -> VLM:
    """A model with the weights of `vlm`, the very same tensors, and everything else of its own."""
    with vlm.lock:
        fingerprint = vlm.fingerprint
        memo = {id(tensor): tensor for tensor in chain(vlm.model.parameters(), vlm.model.buffers())}
        made = copy.deepcopy(vlm, memo)
    made._prompter = vlm._prompter  # its lock is for the tokenizer, which both have
    made.__dict__["fingerprint"] = fingerprint  # hashing the weights again would take seconds
    return made
