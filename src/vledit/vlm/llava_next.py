"""LLaVA-NeXT (1.6): a picture is cut into tiles of its own shape ("anyres"), so that its visual tokens vary in number.

The published checkpoints stand on several language models, each with a prompt of its own: the one that the processor
carries is taken; without one, that of the Mistral checkpoint below.  The papers do not use this family.  Site: the last
layer's `mlp.out`, as for BLIP-2; α: MiniGPT-4's, not chosen for this family.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .families import Family
from .llava import FAMILY as LLAVA
from .published import COUNTED, Published


def with_own_prompt(model: Any, processor: Any) -> Family:
    """The family with the prompt of the checkpoint at hand."""
    from .chat import answer_prefix, chat_prompts

    prompts = chat_prompts(processor, FAMILY.image_token)
    if prompts is None:
        return replace(FAMILY, complete=None)
    prompt, text_prompt = prompts
    return replace(FAMILY, complete=None, prompt=prompt, text_prompt=text_prompt, image_text="{image}",
                   answer_prefix=answer_prefix(prompt))  # fmt: skip


# fmt: off
# hub id, parameters, hidden, intermediate, layers, vocabulary, visual tokens
PUBLISHED = (
    Published("llava-hf/llava-v1.6-mistral-7b-hf", 7_566_747_648, 4096, 14336, 32, 32064, 1176,
              linear=7_302_283_264, kv_width=1024, source=COUNTED),
    Published("llava-hf/llava-v1.6-vicuna-7b-hf", 7_063_431_168, 4096, 11008, 32, 32064, 1176,
              linear=6_798_966_784, kv_width=4096, source=COUNTED),
    Published("llava-hf/llava-v1.6-vicuna-13b-hf", 13_351_499_776, 5120, 13824, 40, 32064, 1176,
              linear=13_021_216_768, kv_width=5120, source=COUNTED),
    Published("llava-hf/llava-v1.6-34b-hf", 34_752_083_968, 7168, 20480, 60, 64064, 1176,
              linear=33_831_256_064, kv_width=1024, source=COUNTED),
    Published("llava-hf/llama3-llava-next-8b-hf", 8_355_276_800, 4096, 14336, 32, 128320, 1176,
              linear=7_302_283_264, kv_width=1024, source=COUNTED),
)
# fmt: on

FAMILY = replace(
    LLAVA,
    name="llava_next",
    title="LLaVA-NeXT",
    model_types=(("llava_next", "*"),),
    model_class="transformers:LlavaNextForConditionalGeneration",
    prompt="[INST] {image}{question} [/INST]",
    text_prompt="[INST] {question} [/INST]",
    checkpoints={
        "llava-next-mistral-7b": "llava-hf/llava-v1.6-mistral-7b-hf",
        "llava-next-vicuna-7b": "llava-hf/llava-v1.6-vicuna-7b-hf",
        "llava-next-vicuna-13b": "llava-hf/llava-v1.6-vicuna-13b-hf",
        "llava-next-34b": "llava-hf/llava-v1.6-34b-hf",
        "llava-next-llama3-8b": "llava-hf/llama3-llava-next-8b-hf",
    },
    published=PUBLISHED,
    complete=with_own_prompt,
)
