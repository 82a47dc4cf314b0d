"""InstructBLIP with a Vicuna language model (`InstructBlipForConditionalGeneration`).

Unlike BLIP-2's, its Q-Former reads the instruction as well (BERT's tokens), so that one picture gives other visual tokens
with another question.  These tokens have absolute positions and are therefore filled up on the right.  As in BLIP-2, the 32
visual tokens stand before everything, the start token included.  Prompt: one of the templates of InstructBLIP's appendix,
which its evaluation uses for short answers.

The variants with Flan-T5 are refused (`registry.family_of`): an encoder-decoder has no one stack of decoder layers that
prompt and answer pass.

The papers do not use this family.  Site and α are MiniGPT-4's, which has the same language model (32 layers of Vicuna-7B);
α is not chosen for this family (`vledit choose-alpha` does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .families import Family
from .published import COUNTED, Published
from .site import Site

PROMPT = "Question: {question} Short answer:"


def read_pictures(processor: Any, pictures: Sequence[Any], question: str) -> Mapping[str, Any]:
    """Pixels (n, 3, H, W), and for each picture the prompt as the Q-Former reads it: ids and mask (n, L) int64."""
    pixels = processor.image_processor(list(pictures), return_tensors="pt")
    read = processor.qformer_tokenizer(PROMPT.format(question=str(question).strip()), return_tensors="pt")
    return {
        **pixels,
        "qformer_input_ids": read["input_ids"].repeat(len(pictures), 1),
        "qformer_attention_mask": read["attention_mask"].repeat(len(pictures), 1),
    }


# fmt: off
# hub id, parameters, hidden, intermediate, layers, vocabulary, visual tokens
PUBLISHED = (
    Published("Salesforce/instructblip-vicuna-7b", 7_913_210_624, 4096, 11008, 32, 32001, 32,
              linear=7_624_785_920, kv_width=4096, float32=24576, source=COUNTED),
    Published("Salesforce/instructblip-vicuna-13b", 14_191_448_832, 5120, 13824, 40, 32001, 32,
              linear=13_837_336_576, kv_width=5120, float32=24576, source=COUNTED),
)
# fmt: on

FAMILY = Family(
    name="instructblip",
    title="InstructBLIP (Vicuna)",
    model_types=(("instructblip", "llama"),),
    model_class="transformers:InstructBlipForConditionalGeneration",
    prompt=PROMPT,
    text_prompt=PROMPT,
    image_token="<image>",
    image_first=True,
    count_image_tokens=lambda config: config.num_query_tokens,
    answer_prefix=" ",
    default_site=Site(-1, "mlp.up"),
    default_alpha=0.2,
    checkpoints={
        "instructblip": "Salesforce/instructblip-vicuna-7b",
        "instructblip-vicuna-7b": "Salesforce/instructblip-vicuna-7b",
        "instructblip-vicuna-13b": "Salesforce/instructblip-vicuna-13b",
    },
    published=PUBLISHED,
    vision_sites=tuple(f"qformer.encoder.layer.{layer}.output_query.dense" for layer in (-3, -2, -1)),
    read_pictures=read_pictures,
)
