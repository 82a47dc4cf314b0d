"""DeepSeek-VL 1.3B (`DeepseekVLForConditionalGeneration`): SigLIP, two linears, a DeepSeek language model built as Llama.

576 visual tokens for every picture.  The 7B, which sees through SAM as well, has a class of its own and is used through the
generic family.

The papers do not use this family.  Site: the last layer's `mlp.out`, as for BLIP-2; α: MiniGPT-4's, not chosen for this
family (`vledit choose-alpha` does).
"""

from __future__ import annotations

from .families import Family
from .processors import load_any
from .site import Site

SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language.\n\n"
)
PROMPT = SYSTEM + "User: {image}{question}\n\nAssistant:"

FAMILY = Family(
    name="deepseek_vl",
    title="DeepSeek-VL 1.3B",
    model_types=(("deepseek_vl", "*"),),
    model_class="transformers:DeepseekVLForConditionalGeneration",
    prompt=PROMPT,
    text_prompt=PROMPT.replace("{image}", ""),
    image_token="<image_placeholder>",
    answer_prefix=" ",
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.2,
    checkpoints={"deepseek-vl-1.3b": "deepseek-community/deepseek-vl-1.3b-chat"},
    vision_sites=("model.aligner.linear1", "model.aligner.linear2"),
    load_processor=load_any,
)
