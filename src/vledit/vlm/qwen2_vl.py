"""Qwen2-VL.

A picture becomes as many visual tokens as its own size asks for (28 × 28 pixels each), with positions in three
dimensions: time, row, column.  The model computes them only where it is told which tokens are visual
(`mm_token_type_ids`), keeps what they skip on the module (`rope_deltas`), and counts padding where there is no picture:
so they are made here, for every row, and given.

The papers do not use this family.  Site: the last layer's `mlp.out`, as for BLIP-2; α: MiniGPT-4's, not chosen for this
family (`vledit choose-alpha` does).  De-VQA's Table 4 lists parameters of the first Qwen-VL: `w1` and `w2` of the last
three layers, which are the up and gate projections there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .families import Family, last_layers
from .processors import picture_loader
from .published import COUNTED, Published
from .site import Site

if TYPE_CHECKING:
    from torch import Tensor

    from .encoded import Encoded

PROMPT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n"
)
IMAGE_TEXT = "<|vision_start|>{image}<|vision_end|>"
LISTED = last_layers("mlp.in", "mlp.up")
SIDE = 16
"""Visual tokens along each side of the pictures that stand for "the model's own size": it has none."""


def text_inputs(model: Any, encoded: Encoded) -> dict[str, Tensor]:
    """Which tokens are visual, (B, T) int64, and the positions of all, (3, B, T) int64."""
    types = encoded.visual_mask.long()
    positions, _ = model.model.get_rope_index(
        encoded.input_ids,
        mm_token_type_ids=types,
        image_grid_thw=encoded.model_inputs.get("image_grid_thw"),
        attention_mask=encoded.attention_mask,
    )
    return {"mm_token_type_ids": types, "position_ids": positions}


def image_size(processor: Any, config: Any) -> tuple[int, int]:
    """A square of `SIDE` × `SIDE` visual tokens."""
    side = SIDE * config.vision_config.patch_size * config.vision_config.spatial_merge_size
    return side, side


# fmt: off
# hub id, parameters, hidden, intermediate, layers, vocabulary, visual tokens
PUBLISHED = (
    Published("Qwen/Qwen2-VL-2B-Instruct", 2_208_985_600, 1536, 8960, 28, 151936, 256,
              tied=True, linear=1_973_420_032, kv_width=256, source=COUNTED),
    Published("Qwen/Qwen2-VL-7B-Instruct", 8_291_375_616, 3584, 18944, 28, 152064, 256,
              linear=7_198_998_528, kv_width=512, source=COUNTED),
    Published("Qwen/Qwen2-VL-72B-Instruct", 73_405_560_320, 8192, 29568, 80, 152064, 256,
              linear=70_909_952_000, kv_width=1024, source=COUNTED),
)
# fmt: on

FAMILY = Family(
    name="qwen2_vl",
    title="Qwen2-VL",
    model_types=(("qwen2_vl", "*"),),
    model_class="transformers:Qwen2VLForConditionalGeneration",
    prompt=PROMPT,
    text_prompt=PROMPT.replace("{image}", ""),
    image_text=IMAGE_TEXT,
    image_token="<|image_pad|>",
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.2,
    checkpoints={
        "qwen2-vl-2b": "Qwen/Qwen2-VL-2B-Instruct",
        "qwen2-vl-7b": "Qwen/Qwen2-VL-7B-Instruct",
        "qwen2-vl-72b": "Qwen/Qwen2-VL-72B-Instruct",
    },
    published=PUBLISHED,
    three_layers=LISTED,
    vision_sites=("model.visual.merger.mlp.0", "model.visual.merger.mlp.2"),
    load_processor=picture_loader("Qwen2VLProcessor"),
    text_inputs=text_inputs,
    image_size=image_size,
)
