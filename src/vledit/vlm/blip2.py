"""BLIP-2 with an OPT language model (`Blip2ForConditionalGeneration`).

The 32 visual tokens stand before everything, OPT's start token included.  Prompt: BLIP-2, Sec. 4.1.  Site and layer:
BalancEdit, Sec. 4.1 (`opt_model.model.decoder.layers[31].fc2`, the last of 32).
"""

from __future__ import annotations

from .families import Family
from .site import Site

FAMILY = Family(
    name="blip2",
    title="BLIP-2 (OPT)",
    model_types=(("blip-2", "opt"),),
    model_class="transformers:Blip2ForConditionalGeneration",
    prompt="Question: {question} Answer:",
    text_prompt="Question: {question} Answer:",
    image_token="<image>",
    image_first=True,
    count_image_tokens=lambda config: config.num_query_tokens,
    answer_prefix=" ",
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.2,
    checkpoints={
        "blip2": "Salesforce/blip2-opt-2.7b",
        "blip2-opt-2.7b": "Salesforce/blip2-opt-2.7b",
        "blip2-opt-6.7b": "Salesforce/blip2-opt-6.7b",
    },
)
