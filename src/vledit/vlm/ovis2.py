"""Ovis 2 (`Ovis2ForConditionalGeneration`): AIMv2, a table of visual words, Qwen2.5.

A picture is cut into tiles where its shape asks for it; each tile is 256 `<IMG_ATOM>`, with marks for its place between
them.  A visual token is a mixture of the rows of an embedding table of its own.
transformers' class looks for the marks' embeddings beside the picture, in every piece of a prompt: a prompt is read whole.

The papers do not use this family.  Site: the last layer's `mlp.out`, as for BLIP-2; α: MiniGPT-4's, not chosen for this
family (`vledit choose-alpha` does).
"""

from __future__ import annotations

from .families import Family
from .processors import load_any
from .site import Site

PROMPT = "<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n"

FAMILY = Family(
    name="ovis2",
    title="Ovis 2",
    model_types=(("ovis2", "*"),),
    model_class="transformers:Ovis2ForConditionalGeneration",
    prompt=PROMPT,
    text_prompt=PROMPT.replace("{image}", ""),
    image_text="{image}\n",
    image_token="<IMG_ATOM>",
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.2,
    checkpoints={
        "ovis2-1b": "thisisiron/Ovis2-1B-hf",
        "ovis2-2b": "thisisiron/Ovis2-2B-hf",
    },
    vision_sites=("model.vision_tower.head_linear",),
    load_processor=load_any,
    whole_prompts=True,
)
