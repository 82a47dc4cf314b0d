"""Qwen3-VL.

As Qwen2-VL (which see), with 32 × 32 pixels for a visual token and without a system turn.  Features of lower vision
layers are added to the visual tokens after each of the first decoder layers ("deepstack"): `Trunk` keeps them.
"""

from __future__ import annotations

from dataclasses import replace

from .processors import picture_loader
from .published import COUNTED, Published
from .qwen2_vl import FAMILY as QWEN2_VL

# fmt: off
# hub id, parameters, hidden, intermediate, layers, vocabulary, visual tokens
PUBLISHED = (
    Published("Qwen/Qwen3-VL-2B-Instruct", 2_127_532_032, 2048, 6144, 28, 151936, 256,
              tied=True, linear=1_811_939_328, kv_width=1024, source=COUNTED),
    Published("Qwen/Qwen3-VL-4B-Instruct", 4_437_815_808, 2560, 9728, 36, 151936, 256,
              tied=True, linear=4_044_357_632, kv_width=1024, source=COUNTED),
    Published("Qwen/Qwen3-VL-8B-Instruct", 8_767_123_696, 4096, 12288, 36, 151936, 256,
              linear=7_249_526_784, kv_width=1024, source=COUNTED),
    Published("Qwen/Qwen3-VL-32B-Instruct", 33_357_390_064, 5120, 25600, 64, 151936, 256,
              linear=31_528_255_488, kv_width=1024, source=COUNTED),
)
# fmt: on

FAMILY = replace(
    QWEN2_VL,
    name="qwen3_vl",
    title="Qwen3-VL",
    model_types=(("qwen3_vl", "*"),),
    model_class="transformers:Qwen3VLForConditionalGeneration",
    prompt="<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n",
    text_prompt="<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n",
    checkpoints={
        "qwen3-vl-2b": "Qwen/Qwen3-VL-2B-Instruct",
        "qwen3-vl-4b": "Qwen/Qwen3-VL-4B-Instruct",
        "qwen3-vl-8b": "Qwen/Qwen3-VL-8B-Instruct",
        "qwen3-vl-32b": "Qwen/Qwen3-VL-32B-Instruct",
    },
    published=PUBLISHED,
    vision_sites=("model.visual.merger.linear_fc1", "model.visual.merger.linear_fc2"),
    load_processor=picture_loader("Qwen3VLProcessor"),
)
