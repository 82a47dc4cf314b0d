"""A model whose answer provably comes from one token: one attention head looks at it, everything else adds nothing.

Every token's embedding is 1 in place `ALL`; the one that is looked at has `MARK` beside it, and a code of what to answer.  In
the looking layer, keys read MARK and queries ALL, so that every token behind the marked one looks at it (its score is higher
by so much that the others get less than 1e-6); values read the code, which goes to the places that the two answers' words
are read from.  All other layers' attention and all MLPs give zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.vlm.models import QUERY_TOKENS, parts
from vledit.vlm import VLM, registry

ALL, MARK, FIRST, SECOND = 15, 14, 0, 1
LAYERS, LOOKING = 3, 1
WIDTH = 32
WORDS = ("tea", "cat")
"""What is answered for the codes 0 and 1."""


class FixedFeatures(nn.Module):
    """In place of the projection of visual tokens: gives what it holds, whatever the picture."""

    def __init__(self, features: Tensor):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        return self.features.expand(len(x), -1, -1)


def _plain(count: int, seed: int) -> Tensor:
    """Tokens with ALL and a little noise in places that nothing reads."""
    found = torch.zeros(count, WIDTH)
    found[:, ALL] = 1.0
    found[:, 4:10] = 0.1 * torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return found


def marked(tokens: Tensor, place: int, code: int) -> Tensor:
    """The same with one of them marked, with a code."""
    tokens = tokens.clone()
    tokens[place, MARK] = 1.0
    tokens[place, (FIRST, SECOND)[code]] = 1.0
    return tokens


def model(place: int | None, code: int = 0, noise: int = 0, word: str = "") -> VLM:
    """The model whose answer hangs on visual token `place`, or where `place` is None, on the text token of `word`.

    Args:
        noise: changes everything about the other visual tokens that nothing reads.
    """
    built, processor = parts(
        "pocket", LAYERS, num_attention_heads=1, num_key_value_heads=1, tie_word_embeddings=False, hidden_size=WIDTH
    )
    tokenizer = processor.tokenizer
    with torch.no_grad():
        for parameter in built.language_model.parameters():
            parameter.zero_()
        for name, module in built.language_model.named_modules():
            if name.endswith("norm"):
                module.weight.fill_(1.0)
        embeddings = _plain(len(built.get_input_embeddings().weight), 1)
        if place is None:
            (token,) = tokenizer(" " + word, add_special_tokens=False)["input_ids"]
            embeddings = marked(embeddings, token, code)
        built.get_input_embeddings().weight.copy_(embeddings)
        attention = built.language_model.model.layers[LOOKING].self_attn
        attention.k_proj.weight[ALL, MARK] = 20.0
        attention.q_proj.weight[ALL, ALL] = 20.0
        for at in (FIRST, SECOND):
            attention.v_proj.weight[at, at] = 1.0
            attention.o_proj.weight[at, at] = 20.0
            (word_id, *_) = tokenizer(WORDS[at], add_special_tokens=False)["input_ids"]
            built.language_model.lm_head.weight[word_id, at] = 10.0
    visual = _plain(QUERY_TOKENS, 2 + noise)
    built.language_projection = FixedFeatures(visual if place is None else marked(visual, place, code))
    return VLM(built, processor, registry.family_of(built.config))
