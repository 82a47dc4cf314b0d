"""Qwen3-VL, the mixtures of experts.

As Qwen3-VL (which see); every decoder layer's MLP is a router and experts.  The site is the whole MLP block of the last layer:
what enters it and what leaves it, so that neither an edit's key nor its change depends on which experts a token is sent to.

The papers do not use this family.  α: MiniGPT-4's, not chosen for this family (`vledit choose-alpha` does).
"""

from __future__ import annotations

from dataclasses import replace

from .qwen3_vl import FAMILY as QWEN3_VL
from .site import BLOCK, Site

FAMILY = replace(
    QWEN3_VL,
    name="qwen3_vl_moe",
    title="Qwen3-VL (mixture of experts)",
    model_types=(("qwen3_vl_moe", "*"),),
    model_class="transformers:Qwen3VLMoeForConditionalGeneration",
    default_site=Site(-1, BLOCK),
    checkpoints={
        "qwen3-vl-30b-a3b": "Qwen/Qwen3-VL-30B-A3B-Instruct",
        "qwen3-vl-235b-a22b": "Qwen/Qwen3-VL-235B-A22B-Instruct",
    },
    published=(),
    three_layers=(),
)
