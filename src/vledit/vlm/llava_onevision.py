"""LLaVA-OneVision: SigLIP, a projector of two linears, Qwen2.

One picture is cut into tiles of its own shape, up to nine; of several pictures in one request none is.  The papers do not
use this family.  Site: the last layer's `mlp.out`, as for BLIP-2; α: MiniGPT-4's, not chosen for this family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .llava import FAMILY as LLAVA
from .processors import picture_loader
from .published import COUNTED, Published


def read_pictures(processor: Any, pictures: Sequence[Any], question: str) -> Mapping[str, Any]:
    """A list in a list is how the image processor is told that the pictures belong together."""
    return processor.image_processor([list(pictures)], return_tensors="pt")


# fmt: off
# hub id, parameters, hidden, intermediate, layers, vocabulary, visual tokens
PUBLISHED = (
    Published("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", 893_675_552, 896, 4864, 24, 152000, 1485,
              tied=True, linear=497_680_384, kv_width=128, source=COUNTED),
    Published("llava-hf/llava-onevision-qwen2-7b-ov-hf", 8_030_807_584, 3584, 18944, 28, 152128, 1485,
              linear=6_680_281_088, kv_width=512, source=COUNTED),
    Published("llava-hf/llava-onevision-qwen2-72b-ov-hf", 73_181_570_592, 8192, 29568, 80, 152128, 1485,
              linear=70_427_213_824, kv_width=1024, source=COUNTED),
)
# fmt: on

FAMILY = replace(
    LLAVA,
    name="llava_onevision",
    title="LLaVA-OneVision",
    model_types=(("llava_onevision", "*"),),
    model_class="transformers:LlavaOnevisionForConditionalGeneration",
    answer_prefix="",
    image_text="{image}",
    prompt="<|im_start|>user {image}\n{question}<|im_end|><|im_start|>assistant\n",
    text_prompt="<|im_start|>user \n{question}<|im_end|><|im_start|>assistant\n",
    checkpoints={
        "llava-onevision-0.5b": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        "llava-onevision-7b": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        "llava-onevision-72b": "llava-hf/llava-onevision-qwen2-72b-ov-hf",
    },
    published=PUBLISHED,
    load_processor=picture_loader("LlavaOnevisionProcessor"),
    read_pictures=read_pictures,
)
