"""Losses that most fitted editors are trained with, on the positions that predict an answer's tokens."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def answer_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood of answer tokens: logits (n, V), targets (n,) → a number, in nats per token."""
    return F.cross_entropy(logits.float(), targets)


def kl_from_base(base: Tensor, logits: Tensor) -> Tensor:
    """KL(base ‖ edited), mean over positions, over the whole vocabulary, in nats.

    The direction is MEND's (Mitchell et al., 2022, Eq. 4): mass that the base has and the edited model lost is what costs.

    Args:
        base: (n, V) log-probabilities of the base.
        logits: (n, V) logits of the edited model.
    """
    return F.kl_div(F.log_softmax(logits.float(), -1), base, reduction="none", log_target=True).sum(-1).mean()
