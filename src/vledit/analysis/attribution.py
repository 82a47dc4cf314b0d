"""Which tokens an answer comes from: Algorithm 1 of "transient blindness", and the share of the picture in it.

The algorithm goes backwards from the last token of the prompt, layer by layer.  A token's hidden state is h = h' + a + m: the
input of the layer, the output of attention and that of the MLP.  The share of attention (Eq. 3) is the share of the
distance ‖h − a‖ among the three distances, plus cos(h, a).  Tokens above γ are key tokens with this score, and the k tokens to
which they attend most are put into the queue of this layer. The next lower layer starts from the whole queue.

If attention and MLP add nothing, the value is ½.  The paper states neither γ nor k; see docs/devqa.md for these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .anatomised import Anatomised

GAMMA = 0.7
TOP_K = 3


@dataclass(frozen=True)
class LayerKeys:
    """What one layer passes on.

    Attributes:
        layer: 0-based.
        tokens: key tokens in the order in which they came to the queue; those from the layer above first.
        scores: token → its score, for those above γ.
        looks: (from, to, weight) for every token that is passed on.
    """

    layer: int
    tokens: tuple[int, ...]
    scores: Mapping[int, float]
    looks: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True)
class Attribution:
    """Of one prompt.

    Attributes:
        layers: the highest first.
        visual: per token whether it is of the picture.
        start: the last token.
        pulls: per layer, the lowest first, what the start takes from the picture there: its attention's score (Eq. 3) times
            the share of its attention weights that lies on the picture's tokens.  No threshold enters it, and other than the
            image share it also shows an edit of the last layer's MLP, above which no token looks anywhere.
    """

    layers: tuple[LayerKeys, ...]
    visual: tuple[bool, ...]
    start: int
    pulls: tuple[float, ...] = ()
    taken: tuple[float, ...] = ()
    """Per token, what the start takes from it in the top third of the layers: its attention's score times the weight on it."""

    def image_share(self, layer: int) -> float:
        """The picture's part of all scores of a layer (both of Eq. 16); NaN where no token but the start is above γ.

        The token where the tracing starts is in every layer's queue and no source of anything: it is not counted.
        """
        scores = {token: score for token, score in self._scores(layer).items() if token != self.start}
        total = sum(scores.values())
        return sum(score for token, score in scores.items() if self.visual[token]) / total if total else math.nan

    def _scores(self, layer: int) -> Mapping[int, float]:
        return next(one.scores for one in self.layers if one.layer == layer)

    def image_to_text(self, layer: int) -> float:
        """Eq. 16: scores of image tokens over those of text tokens; infinite without any of text."""
        share = self.image_share(layer)
        return math.inf if share == 1 else share / (1 - share)

    def shares(self) -> list[float]:
        """The image share of every layer, the lowest first."""
        return [self.image_share(one.layer) for one in sorted(self.layers, key=lambda one: one.layer)]

    def totals(self) -> dict[int, float]:
        """Token → its scores over all layers."""
        found: dict[int, float] = {}
        for one in self.layers:
            for token, score in one.scores.items():
                found[token] = found.get(token, 0.0) + score
        return found

    def keys(self, layer: int) -> Tensor:
        """(T,) bool: the key tokens of a layer."""
        found = torch.zeros(len(self.visual), dtype=torch.bool)
        found[list(next(one.tokens for one in self.layers if one.layer == layer))] = True
        return found


def contributions(parts: Anatomised) -> dict[str, Tensor]:
    """ "residual", "mlp", "attention" → (L, T): share of the distance plus cosine (Eq. 3), of every token in every layer."""
    whole = parts.leaving.float()
    named = {"residual": parts.entering.float(), "mlp": parts.mlp.float(), "attention": parts.attention.float()}
    far = {name: (whole - part).norm(dim=-1) for name, part in named.items()}
    total = torch.stack(list(far.values())).sum(0).clamp(min=1e-20)
    return {
        name: far[name] / total + torch.cosine_similarity(whole, part, dim=-1, eps=1e-20)
        for name, part in named.items()
    }


def attribute(parts: Anatomised, gamma: float = GAMMA, top_k: int = TOP_K, start: int | None = None) -> Attribution:
    """Algorithm 1.

    Args:
        gamma: what a token's score must exceed to count and to pass on.
        top_k: how many tokens it passes on to, itself not among them.
        start: where it begins (default: the last token of the prompt).
    """
    encoded = parts.encoded
    first = int(encoded.last_prompt_mask[0].nonzero()[-1]) if start is None else start
    scores = contributions(parts)["attention"]
    queue = [first]
    layers = []
    for layer in reversed(range(len(scores))):
        keys, found, looks = _layer(queue, scores[layer].tolist(), parts.weights[layer], gamma, top_k)
        layers.append(LayerKeys(layer, tuple(keys), found, tuple(looks)))
        queue = keys
    takes = scores[:, first, None].cpu() * parts.weights[:, first].cpu()  # (L, T)
    taken = takes[-max(1, round(len(takes) / 3)) :].sum(0)
    pulls = takes[:, parts.visual].sum(-1)
    visual = tuple(parts.visual.tolist())
    return Attribution(tuple(layers), visual, first, tuple(pulls.tolist()), tuple(taken.tolist()))


def _layer(
    queue: Sequence[int], scores: Sequence[float], weights: Tensor, gamma: float, top_k: int
) -> tuple[list[int], dict[int, float], list[tuple[int, int, float]]]:
    keys, known = list(queue), set(queue)
    found: dict[int, float] = {}
    looks = []
    place = 0
    while place < len(keys):
        token = keys[place]
        place += 1
        if scores[token] <= gamma:
            continue
        found[token] = scores[token]
        for other, weight in _most_looked_at(weights[token], token, top_k):
            looks.append((token, other, weight))
            if other not in known:
                known.add(other)
                keys.append(other)
    return keys, found, looks


def _most_looked_at(row: Tensor, token: int, top_k: int) -> list[tuple[int, float]]:
    row = row.clone()
    row[token] = 0.0
    values, indices = row.topk(min(top_k, len(row)))
    return [(int(i), float(v)) for v, i in zip(values, indices, strict=True) if v > 0]
