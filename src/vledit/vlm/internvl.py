"""InternVL 3 and 3.5 (`InternVLForConditionalGeneration`): InternViT, pixel shuffle, two linears, Qwen2.5 or Qwen3.

A picture is cut into 1 to 12 tiles of 448 × 448 pixels, as its shape asks for, and where there are several a small copy of
the whole follows; each is 256 visual tokens.  The image processor by itself does not cut: that it should is a default of the
whole processor, which is therefore asked (`picture_inputs`).

Only the checkpoints in Hugging Face's own form (`-hf`, `-HF`) are covered.  Other language models than Qwen (InternLM, as Llama)
are written the same way and taken too, but not tried.  InternVL 3.5 thinks aloud only where a system prompt asks for it; none
is given here.

The papers do not use this family.  Site: the last layer's `mlp.out`, as for BLIP-2; α: MiniGPT-4's, not chosen for this
family (`vledit choose-alpha` does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .families import Family
from .processors import picture_loader
from .published import COUNTED, Published
from .site import Site


def read_pictures(processor: Any, pictures: Sequence[Any], question: str) -> Mapping[str, Any]:
    """Pixels of all tiles (n_tiles, 3, H, W); how many of them each picture has is for the prompt alone."""
    read = processor.image_processor(list(pictures), **{**processor.images_kwargs, "return_tensors": "pt"})
    return {"pixel_values": read["pixel_values"], "num_patches": read["num_patches"].tolist()}


# fmt: off
# hub id, parameters, hidden, intermediate, layers, vocabulary, visual tokens
PUBLISHED = (
    Published("OpenGVLab/InternVL3-1B-hf", 938_119_296, 896, 4864, 24, 151674, 256,
              linear=664_289_280, kv_width=128, source=COUNTED),
    Published("OpenGVLab/InternVL3-2B-hf", 2_088_883_712, 1536, 8960, 28, 151674, 256,
              linear=1_620_836_352, kv_width=256, source=COUNTED),
    Published("OpenGVLab/InternVL3-8B-hf", 7_944_300_032, 3584, 18944, 28, 151674, 256,
              linear=6_854_803_456, kv_width=512, source=COUNTED),
    Published("OpenGVLab/InternVL3-14B-hf", 15_117_182_976, 5120, 13824, 48, 151674, 256,
              linear=13_561_233_408, kv_width=1024, source=COUNTED),
    Published("OpenGVLab/InternVL3-38B-hf", 38_388_164_992, 5120, 27648, 64, 151674, 256,
              linear=36_826_972_160, kv_width=1024, source=COUNTED),
    Published("OpenGVLab/InternVL3-78B-hf", 78_408_318_336, 8192, 29568, 80, 151674, 256,
              linear=75_914_215_424, kv_width=1024, source=COUNTED),
    Published("OpenGVLab/InternVL3_5-1B-HF", 1_060_824_064, 1024, 3072, 28, 151936, 256,
              linear=747_634_688, kv_width=1024, source=COUNTED),
    Published("OpenGVLab/InternVL3_5-2B-HF", 2_348_273_664, 2048, 6144, 28, 151936, 256,
              linear=1_723_858_944, kv_width=1024, source=COUNTED),
    Published("OpenGVLab/InternVL3_5-4B-HF", 4_732_415_488, 2560, 9728, 36, 151936, 256,
              linear=3_952_345_088, kv_width=1024, source=COUNTED),
    Published("OpenGVLab/InternVL3_5-8B-HF", 8_528_244_736, 4096, 12288, 36, 151936, 256,
              linear=7_281_311_744, kv_width=1024, source=COUNTED),
    Published("OpenGVLab/InternVL3_5-14B-HF", 15_119_450_112, 5120, 17408, 40, 151936, 256,
              linear=13_561_233_408, kv_width=1024, source=COUNTED),
)
# fmt: on

FAMILY = Family(
    name="internvl",
    title="InternVL 3, 3.5",
    model_types=(("internvl", "*"),),
    model_class="transformers:InternVLForConditionalGeneration",
    prompt="<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n",
    text_prompt="<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n",
    image_text="{image}\n",
    image_token="<IMG_CONTEXT>",
    end_token="<|im_end|>",
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.2,
    checkpoints={
        "internvl3-1b": "OpenGVLab/InternVL3-1B-hf",
        "internvl3-2b": "OpenGVLab/InternVL3-2B-hf",
        "internvl3-8b": "OpenGVLab/InternVL3-8B-hf",
        "internvl3-14b": "OpenGVLab/InternVL3-14B-hf",
        "internvl3-38b": "OpenGVLab/InternVL3-38B-hf",
        "internvl3-78b": "OpenGVLab/InternVL3-78B-hf",
        "internvl3.5-1b": "OpenGVLab/InternVL3_5-1B-HF",
        "internvl3.5-2b": "OpenGVLab/InternVL3_5-2B-HF",
        "internvl3.5-4b": "OpenGVLab/InternVL3_5-4B-HF",
        "internvl3.5-8b": "OpenGVLab/InternVL3_5-8B-HF",
        "internvl3.5-14b": "OpenGVLab/InternVL3_5-14B-HF",
    },
    published=PUBLISHED,
    vision_sites=("model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2"),
    load_processor=picture_loader("InternVLProcessor"),
    read_pictures=read_pictures,
)
