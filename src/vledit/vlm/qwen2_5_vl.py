"""Qwen2.5-VL.

As Qwen2-VL (which see).  Without `mm_token_type_ids` it does not refuse but silently counts positions in one dimension.
"""

from __future__ import annotations

from dataclasses import replace

from .processors import picture_loader
from .published import COUNTED, Published
from .qwen2_vl import FAMILY as QWEN2_VL

# fmt: off
# hub id, parameters, hidden, intermediate, layers, vocabulary, visual tokens
PUBLISHED = (
    Published("Qwen/Qwen2.5-VL-3B-Instruct", 3_754_622_976, 2048, 11008, 36, 151936, 256,
              tied=True, linear=3_020_947_456, kv_width=256, source=COUNTED),
    Published("Qwen/Qwen2.5-VL-7B-Instruct", 8_292_166_656, 3584, 18944, 28, 152064, 256,
              linear=6_779_568_128, kv_width=512, source=COUNTED),
    Published("Qwen/Qwen2.5-VL-32B-Instruct", 33_452_718_336, 5120, 27648, 64, 152064, 256,
              linear=31_892_439_040, kv_width=1024, source=COUNTED),
    Published("Qwen/Qwen2.5-VL-72B-Instruct", 73_410_777_344, 8192, 29568, 80, 152064, 256,
              linear=70_915_194_880, kv_width=1024, source=COUNTED),
)
# fmt: on

FAMILY = replace(
    QWEN2_VL,
    name="qwen2_5_vl",
    title="Qwen2.5-VL",
    model_types=(("qwen2_5_vl", "*"),),
    model_class="transformers:Qwen2_5_VLForConditionalGeneration",
    checkpoints={
        "qwen2.5-vl-3b": "Qwen/Qwen2.5-VL-3B-Instruct",
        "qwen2.5-vl-7b": "Qwen/Qwen2.5-VL-7B-Instruct",
        "qwen2.5-vl-32b": "Qwen/Qwen2.5-VL-32B-Instruct",
        "qwen2.5-vl-72b": "Qwen/Qwen2.5-VL-72B-Instruct",
    },
    published=PUBLISHED,
    load_processor=picture_loader("Qwen2_5_VLProcessor"),
)
