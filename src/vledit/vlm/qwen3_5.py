"""Qwen3.5: dense (`qwen3_5`) and mixtures of experts (`qwen3_5_moe`).

Pictures as Qwen3-VL's (which see), without deepstack.  Three of four decoder layers are gated delta nets: they carry a state
along the row instead of attending, so that a row's prompts cannot share a prefix (`forest` refuses and one row is run per
answer), and a draft that was refused cannot be taken back: transformers itself does no assisted decoding with them.

The chat model thinks aloud unless told not to; the prompt here is the template's own for `enable_thinking=False`, an empty
thought, so that an answer follows at once.

The papers do not use this family.  Site: the last layer's `mlp.out` (it is a layer that attends), of the mixtures its whole
MLP block: which experts a token is sent to then makes no difference to an edit.  α: MiniGPT-4's, not chosen for this family
(`vledit choose-alpha` does).
"""

from __future__ import annotations

from dataclasses import replace

from .qwen3_vl import FAMILY as QWEN3_VL
from .site import BLOCK, Site

THOUGHT = "<think>\n\n</think>\n\n"
PROMPT = f"<|im_start|>user\n{{image}}{{question}}<|im_end|>\n<|im_start|>assistant\n{THOUGHT}"

DENSE = replace(
    QWEN3_VL,
    name="qwen3_5",
    title="Qwen3.5",
    model_types=(("qwen3_5", "*"),),
    model_class="transformers:Qwen3_5ForConditionalGeneration",
    prompt=PROMPT,
    text_prompt=PROMPT.replace("{image}", ""),
    checkpoints={
        "qwen3.5-0.8b": "Qwen/Qwen3.5-0.8B",
        "qwen3.5-2b": "Qwen/Qwen3.5-2B",
        "qwen3.5-4b": "Qwen/Qwen3.5-4B",
        "qwen3.5-9b": "Qwen/Qwen3.5-9B",
        "qwen3.5-27b": "Qwen/Qwen3.5-27B",
    },
    published=(),
)

MIXTURE = replace(
    DENSE,
    name="qwen3_5_moe",
    title="Qwen3.5 (mixture of experts)",
    model_types=(("qwen3_5_moe", "*"),),
    model_class="transformers:Qwen3_5MoeForConditionalGeneration",
    default_site=Site(-1, BLOCK),
    checkpoints={
        "qwen3.5-35b-a3b": "Qwen/Qwen3.5-35B-A3B",
        "qwen3.5-122b-a10b": "Qwen/Qwen3.5-122B-A10B",
        "qwen3.5-397b-a17b": "Qwen/Qwen3.5-397B-A17B",
    },
    three_layers=(),
)
