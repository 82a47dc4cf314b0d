"""What remains of an answer when tokens are hidden: the masking study (Table 1 of "transient blindness"), and deletion.

Masking: in the top layers only the tokens that attribution found can be attended to.  The answer should stay. The control is the
same number of random tokens of picture and text.  Deletion: in all layers the tokens of picture and question from which the last
token takes most (`Attribution.taken`) cannot be attended to.  The answer should change. The control is the same number of other
tokens of picture and question, drawn at random.  (Ranked by their scores over all layers, the first tokens of the template would
come first: attention rests on them when there is nothing to attend to, but the answer does not depend on them.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .anatomised import logits_hiding
from .attribution import Attribution

if TYPE_CHECKING:
    from ..vlm.base import VLM, Encoded

REMOVED = (1, 2, 4, 8)
DRAWS = 3
"""Random draws that a figure is compared with, per case."""


@dataclass(frozen=True)
class Kept:
    """What one way of hiding leaves of an answer.

    Attributes:
        exact: every token of it is still the likeliest. token: share of them.
        log_probability: of the whole answer, in nats.
    """

    exact: bool
    token: float
    log_probability: float


def spans(n_layers: int, count: int = 8) -> list[int]:
    """From which layer on is masked: the top eighth of the layers, the top two eighths, …, all of them (0)."""
    return list(dict.fromkeys(n_layers - max(1, round(n_layers * part / count)) for part in range(1, count + 1)))


def hiding(vlm: VLM, encoded: Encoded, ways: Sequence[Tensor]) -> list[Kept]:
    """What each way of hiding leaves of the answer that is forced behind the prompt.

    Args:
        encoded: one row with its answer.
        ways: each (L, T) bool; see `logits_hiding`.
    """
    logits = logits_hiding(vlm, encoded, torch.stack(list(ways))).float()
    targets = encoded.targets
    right = (logits.argmax(-1) == targets).cpu()
    told = logits.log_softmax(-1).gather(-1, targets.expand(len(logits), -1)[..., None])[..., 0].sum(-1).cpu()
    return [Kept(bool(row.all()), float(row.float().mean()), float(p)) for row, p in zip(right, told, strict=True)]


def but_keys(
    found: Attribution, encoded: Encoded, n_layers: int, start: int, draw: torch.Generator | None = None
) -> Tensor:
    """(L, T) bool: from layer `start` on, every token of the prompt but the key tokens of that layer.

    Args:
        draw: as many tokens of the picture and of the text as there are keys are drawn instead; the last one always stays.
    """
    hidden = torch.zeros(n_layers, encoded.input_ids.shape[1], dtype=torch.bool)
    prompt = encoded.prompt_mask[0].cpu()
    for layer in range(start, n_layers):
        keys = _padded(found.keys(layer), len(prompt))
        if draw is not None:
            keys = _drawn_like(keys, prompt, encoded.visual_mask[0].cpu(), found.start, draw)
        hidden[layer] = prompt & ~keys
    return hidden


def best(found: Attribution, encoded: Encoded, count: int) -> list[int]:
    """The tokens of picture and question that the start takes most from; fewer where there are fewer."""
    tokens = [token for token in content(encoded).nonzero().flatten().tolist() if found.taken[token] > 0]
    return sorted(tokens, key=lambda token: (-found.taken[token], token))[:count]


def content(encoded: Encoded) -> Tensor:
    """(T,) bool: the tokens of the picture and of the question itself, without the template's."""
    return (encoded.visual_mask[0] | encoded.question_mask[0]).cpu()


def without(tokens: Sequence[int], encoded: Encoded, n_layers: int) -> Tensor:
    """(L, T) bool: these tokens in every layer."""
    hidden = torch.zeros(n_layers, encoded.input_ids.shape[1], dtype=torch.bool)
    hidden[:, list(tokens)] = True
    return hidden


def others_like(tokens: Sequence[int], encoded: Encoded, start: int, draw: torch.Generator) -> list[int]:
    """As many tokens of picture and of question as these, none of them or the start; fewer where there are fewer left."""
    visual = encoded.visual_mask[0].cpu()
    free = content(encoded)
    free[[*tokens, start]] = False
    found = []
    for side in (visual, ~visual):
        count = sum(bool(side[token]) for token in tokens)
        found += _some(free & side, count, draw)
    return found


def _drawn_like(keys: Tensor, prompt: Tensor, visual: Tensor, start: int, draw: torch.Generator) -> Tensor:
    found = torch.zeros_like(keys)
    rest = prompt.clone()
    rest[start] = False
    for side in (visual, ~visual):
        found[_some(rest & side, int((keys & rest & side).sum()), draw)] = True
    found[start] = True
    return found


def _some(among: Tensor, count: int, draw: torch.Generator) -> list[int]:
    places = among.nonzero().flatten()
    return places[torch.randperm(len(places), generator=draw)[:count]].tolist()


def _padded(keys: Tensor, length: int) -> Tensor:
    """The answer's tokens come behind the prompt's."""
    return torch.cat([keys, torch.zeros(length - len(keys), dtype=torch.bool)])
