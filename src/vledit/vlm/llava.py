"""LLaVA 1.5: CLIP, a projector of two linears, Vicuna.

576 visual tokens (24 × 24 patches of a 336-pixel picture) stand at `<image>`.  The papers do not use this family.  Site:
the last layer's `mlp.out`, as for BLIP-2; α: MiniGPT-4's, whose language model is Vicuna too, not chosen for this family.
"""

from __future__ import annotations

from .families import Family
from .published import COUNTED, Published
from .site import Site

PROJECTOR = ("model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2")

# fmt: off
# hub id, parameters, hidden, intermediate, layers, vocabulary, visual tokens
PUBLISHED = (
    Published("llava-hf/llava-1.5-7b-hf", 7_063_427_072, 4096, 11008, 32, 32064, 576,
              linear=6_798_966_784, kv_width=4096, source=COUNTED),
    Published("llava-hf/llava-1.5-13b-hf", 13_351_494_656, 5120, 13824, 40, 32064, 576,
              linear=13_021_216_768, kv_width=5120, source=COUNTED),
)
# fmt: on

FAMILY = Family(
    name="llava",
    title="LLaVA 1.5",
    model_types=(("llava", "*"),),
    model_class="transformers:LlavaForConditionalGeneration",
    prompt="USER: {image}{question} ASSISTANT:",
    text_prompt="USER: {question} ASSISTANT:",
    image_text="{image}\n",
    image_token="<image>",
    answer_prefix=" ",
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.2,
    checkpoints={
        "llava-1.5-7b": "llava-hf/llava-1.5-7b-hf",
        "llava-1.5-13b": "llava-hf/llava-1.5-13b-hf",
    },
    published=PUBLISHED,
    vision_sites=PROJECTOR,
)
