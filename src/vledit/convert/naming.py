"""Published tensor names and what becomes of each: its name in `Blip2ForConditionalGeneration`, or why it is not needed.

Sources: LAVIS (`lavis/models/eva_vit.py`, `blip2_models/Qformer.py`) for the published names, transformers'
`models/blip_2` for the new ones.  LAVIS saves what it trained and all buffers, so that its checkpoints carry parts of
other models as well; each of them is named here with the reason why it is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

COPY = "copy"


@dataclass(frozen=True)
class Rule:
    """What becomes of published tensors of one kind.

    Args:
        pattern: regular expression of the whole published name.
        target: the new name, with `\\1` … for the pattern's groups; None: the tensor is left out.
        slot: what it is within the new tensor: "copy", all of it; "q" or "v", a part of the joined bias.
        why: where it is left out, the reason.
    """

    pattern: str
    target: str | None = None
    slot: str = COPY
    why: str = ""


@dataclass(frozen=True)
class Fate:
    """What becomes of one published tensor; `target` is None where it is left out because of `why`."""

    target: str | None
    slot: str = COPY
    why: str = ""


def fate(name: str, rules: Iterable[Rule]) -> Fate | None:
    """What the first rule that fits says of a published name; None: no rule knows it."""
    for rule in rules:
        if found := re.fullmatch(rule.pattern, name):
            return Fate(None if rule.target is None else found.expand(rule.target), rule.slot, rule.why)
    return None


_WB = "(weight|bias)"
_LAYER = r"vision_model.encoder.layers.\1"
_BLOCK = r"blocks\.(\d+)\."

VISION = (
    Rule("cls_token", "vision_model.embeddings.class_embedding"),
    Rule("pos_embed", "vision_model.embeddings.position_embedding"),
    Rule(rf"patch_embed\.proj\.{_WB}", r"vision_model.embeddings.patch_embedding.\1"),
    Rule(rf"{_BLOCK}norm([12])\.{_WB}", rf"{_LAYER}.layer_norm\2.\3"),
    Rule(rf"{_BLOCK}attn\.qkv\.weight", rf"{_LAYER}.self_attn.qkv.weight"),
    Rule(rf"{_BLOCK}attn\.q_bias", rf"{_LAYER}.self_attn.qkv.bias", slot="q"),
    Rule(rf"{_BLOCK}attn\.v_bias", rf"{_LAYER}.self_attn.qkv.bias", slot="v"),
    Rule(rf"{_BLOCK}attn\.proj\.{_WB}", rf"{_LAYER}.self_attn.projection.\2"),
    Rule(rf"{_BLOCK}mlp\.(fc[12])\.{_WB}", rf"{_LAYER}.mlp.\2.\3"),
    Rule(rf"(fc_)?norm\.{_WB}", why="EVA's own last norm: BLIP-2 puts its trained `ln_vision` in that place"),
    Rule(rf"head\.{_WB}", why="EVA-CLIP's projection into its text space: BLIP-2 does not use it"),
)
"""EVA ViT-g, as `eva_vit_g.pth` names it; a BLIP-2 checkpoint that holds it puts "visual_encoder." before each name."""

LAST_BLOCKS = "BLIP-2 reads what the block before EVA's last one gives, so the last one is not run"

_QLAYER = r"Qformer\.bert\.encoder\.layer\.(\d+)\."
_QNEW = r"qformer.encoder.layer.\1"
_TEXT_SIDE = "text side of the Q-Former (pre-training only): MiniGPT-4 gives it queries and no text"

QFORMER = (
    Rule("query_tokens", "query_tokens"),
    Rule(rf"ln_vision\.{_WB}", r"vision_model.post_layernorm.\1"),
    Rule(rf"Qformer\.bert\.embeddings\.LayerNorm\.{_WB}", r"qformer.layernorm.\1"),
    Rule(rf"{_QLAYER}(attention|crossattention)\.self\.(query|key|value)\.{_WB}", rf"{_QNEW}.\2.attention.\3.\4"),
    Rule(rf"{_QLAYER}(attention|crossattention)\.output\.(dense|LayerNorm)\.{_WB}", rf"{_QNEW}.\2.output.\3.\4"),
    Rule(rf"{_QLAYER}intermediate_query\.dense\.{_WB}", rf"{_QNEW}.intermediate_query.dense.\2"),
    Rule(rf"{_QLAYER}output_query\.(dense|LayerNorm)\.{_WB}", rf"{_QNEW}.output_query.\2.\3"),
    Rule(rf"{_QLAYER}intermediate\.dense\.{_WB}", why=_TEXT_SIDE),
    Rule(rf"{_QLAYER}output\.(dense|LayerNorm)\.{_WB}", why=_TEXT_SIDE),
    Rule(r"Qformer\.bert\.embeddings\.(word|position)_embeddings\.weight", why=_TEXT_SIDE),
    Rule(r"Qformer\.cls\..*", why="word prediction of the Q-Former's text side (pre-training only)"),
    Rule(r"Qformer\.bert\.embeddings\.position_ids", why="a buffer that counts 0, 1, 2, …"),
    Rule(rf"itm_head\.{_WB}", why="image-text matching (pre-training only)"),
    Rule(rf"(vision|text)_proj\.{_WB}|temp", why="image-text contrast (pre-training only)"),
    Rule(rf"(opt|t5|llm)_proj\.{_WB}", why="projection into the language model that BLIP-2 was trained with"),
    Rule(r"(opt|t5|llm)_model\..*", why="the language model that BLIP-2 was trained with"),
)
"""Q-Former and what goes with it, as `blip2_pretrained_*.pth` names it."""

LANGUAGE = (
    Rule(
        r".*\.rotary_emb\.inv_freq",
        why="rotary frequencies: a buffer that transformers computes from the configuration",
    ),
    Rule(r"((?:model\.|lm_head\.).*)", r"language_model.\1"),
)
"""Vicuna as a Hugging Face folder names it."""

PROJECTION = (
    Rule(rf"llama_proj\.{_WB}", r"language_projection.\1"),
    Rule(r"llama_model\..*\.rotary_emb\.inv_freq", why="rotary frequencies: a buffer of Vicuna's"),
    Rule(r"Qformer\.bert\.embeddings\.position_ids", why="a buffer that counts 0, 1, 2, …"),
)
"""What MiniGPT-4 trained, as `pretrained_minigpt4*.pth` names it."""
