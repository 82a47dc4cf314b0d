"""LFM2-VL (`Lfm2VlForConditionalGeneration`): SigLIP 2 at any resolution, pixel unshuffle, two linears, LFM2.

A small picture keeps its shape and is 64 to 256 visual tokens; a larger one is cut into tiles of 512 × 512 pixels
(256 tokens each, their places written as `<|img_row_1_col_1|>`), and a small copy of the whole follows.

Most decoder layers are short convolutions, which read their row from left to right: prompts cannot share a prefix,
and transformers does no assisted decoding with them. A layer's block is `feed_forward`, with linears `w1` (gate),
`w3` (up) and `w2` (out). The prompt is that of the checkpoint's own chat template where there is one.

The papers do not use this family. Site: the last layer's `mlp.out`; α: MiniGPT-4's, not chosen for this family
(`vledit choose-alpha` does).
"""

from __future__ import annotations

from typing import Any

from .chat import as_the_processor_says
from .families import Family
from .published import ASSUMED, Published
from .site import Site

PROMPT = "<|startoftext|><|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n"
MARK = "<image>"


def load_processor(source: str, config: Any) -> Any:
    """transformers' processor, with an image processor that needs no torchvision."""
    from transformers import AutoTokenizer
    from transformers.models.lfm2_vl.processing_lfm2_vl import Lfm2VlProcessor

    from .readers.lfm2_vl import Lfm2VlImageProcessor

    tokenizer = AutoTokenizer.from_pretrained(source)
    return Lfm2VlProcessor(
        Lfm2VlImageProcessor.from_pretrained(source), tokenizer, chat_template=tokenizer.chat_template
    )


def image_size(processor: Any, config: Any) -> tuple[int, int]:
    """One tile."""
    side = processor.image_processor.tile_size if processor is not None else 512
    return side, side


def complete(model: Any, processor: Any) -> Family:
    """The family, with the prompt of the checkpoint's own template."""
    return as_the_processor_says(FAMILY, processor, MARK)


# fmt: off
# hub id, parameters, hidden, intermediate, layers, vocabulary, visual tokens
PUBLISHED = (
    Published("LiquidAI/LFM2-VL-450M", 448_718_848, 1024, 4608, 16, 65536, 256,
              tied=True, linear=381_222_912, kv_width=512, source=ASSUMED),
    Published("LiquidAI/LFM2-VL-1.6B", 1_596_625_904, 2048, 8192, 16, 65536, 256,
              tied=True, linear=1_461_579_776, kv_width=512, source=ASSUMED),
)
# fmt: on

FAMILY = Family(
    name="lfm2_vl",
    title="LFM2-VL",
    model_types=(("lfm2_vl", "*"),),
    model_class="transformers:Lfm2VlForConditionalGeneration",
    prompt=PROMPT,
    text_prompt=PROMPT.replace("{image}", ""),
    image_token=MARK,
    end_token="<|im_end|>",
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.2,
    checkpoints={
        "lfm2-vl-450m": "LiquidAI/LFM2-VL-450M",
        "lfm2-vl-1.6b": "LiquidAI/LFM2-VL-1.6B",
        "lfm2-vl-3b": "LiquidAI/LFM2-VL-3B",
    },
    published=PUBLISHED,
    vision_sites=("model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2"),
    load_processor=load_processor,
    image_size=image_size,
    complete=complete,
)
