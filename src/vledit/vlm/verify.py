"""Teacher-forced verification: the result of greedy decoding, determined by one pass over prompt and answer.

Greedy decoding gives an answer exactly if, with the answer put after the prompt, every one of its tokens (its end
included) is the argmax; so no generation loop is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .encoded import Encoded


@dataclass(frozen=True)
class Verified:
    """What teacher forcing says of each row's answer.

    Attributes:
        exact: (B,) bool, greedy decoding would give exactly this answer and end there (EOS included).
        token: (B,) float32, share of the answer's tokens (EOS included) that are the argmax.
        predicted: per row the argmax at every answer position, (n_i,) int64.
        log_probability: (B,) float32, log-probability of the whole answer, EOS included.
    """

    exact: Tensor
    token: Tensor
    predicted: list[Tensor]
    log_probability: Tensor


def score(logits: Tensor, encoded: Encoded) -> Verified:
    """logits: (n, V) at `encoded.predict_mask`, row after row."""
    logits = logits.float()
    targets, counts = encoded.targets, encoded.answer_mask.sum(1).tolist()
    predicted = logits.argmax(-1)
    token = torch.stack([right.float().mean() for right in (predicted == targets).split(counts)])
    log_probabilities = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    total = torch.stack([part.sum() for part in log_probabilities.split(counts)])
    return Verified(token == 1, token, list(predicted.split(counts)), total)
