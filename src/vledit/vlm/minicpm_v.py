"""MiniCPM-V 4.6 and 4.7: SigLIP at any resolution, two mergers, Qwen3.5 as the language model.

A picture is written as `<image_id>0</image_id><image>…</image>`, and where it is large, slices of it follow in
`<slice>…</slice>`, row after row. Its pixels come as one strip of patches, (1, 3, P, patches · P), for a whole batch.
4.7 places its tokens in three dimensions, on the canvas that the slices make up; 4.6 counts them one after the other.

Three of four decoder layers are gated delta nets (see `qwen3_5`). The prompt is that of the checkpoint's own chat
template where there is one; here is 4.6's, with an empty thought, so that an answer follows at once.

The papers do not use these models. Site: the last layer's `mlp.out` (it is a layer that attends); α: MiniGPT-4's, not
chosen for this family (`vledit choose-alpha` does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from .chat import as_the_processor_says
from .families import Family
from .published import ASSUMED, Published
from .site import Site

if TYPE_CHECKING:
    from torch import Tensor

    from .encoded import Encoded

PROMPT = "<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
MARK = "<|image_pad|>"
PIXELS = "pixel_values"
USUAL_SIDE = 448


def read_pictures(processor: Any, pictures: Sequence[Any], question: str) -> Mapping[str, Any]:
    """Patches (n, 3, P, P) of all slices of all pictures, rows and columns of patches in each slice; what else there is, is for
    the prompt alone."""
    read = dict(processor.image_processor(list(pictures), return_tensors="pt"))
    side = read[PIXELS].shape[2]
    strip = read[PIXELS][0]
    read[PIXELS] = strip.reshape(3, side, -1, side).permute(2, 0, 1, 3)
    return read


def joined(pictures: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Patches (n, 3, P, P) as one strip (1, 3, P, n · P)."""
    side = pictures[PIXELS].shape[2]
    return {PIXELS: pictures[PIXELS].permute(1, 2, 0, 3).reshape(1, 3, side, -1)}


def text_inputs(model: Any, encoded: Encoded) -> dict[str, Tensor]:
    """4.7: which tokens are visual, (B, T) int64, and the positions of all, (3, B, T) int64."""
    types = encoded.visual_mask.long()
    positions, _ = model.model.get_rope_index(
        encoded.input_ids,
        mm_token_type_ids=types,
        target_sizes=encoded.model_inputs.get("target_sizes"),
        attention_mask=encoded.attention_mask,
    )
    return {"mm_token_type_ids": types, "position_ids": positions}


@cache
def pictures_of_minicpm(processor_class: str) -> type[Any]:
    """The processor's class without its part for videos; made when it is asked for, so that this file needs no transformers."""
    import transformers

    parent = getattr(transformers, processor_class)

    class PicturesOfMiniCPM(parent):
        def __init__(
            self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **unused: Any
        ) -> None:
            transformers.ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
            self.slice_mode, self.default_use_image_id = image_processor.slice_mode, image_processor.use_image_id
            self.image_token_divisor = 4 if image_processor.downsample_mode == "4x" else 16
            for name in (
                "image",
                "image_start",
                "image_end",
                "slice_start",
                "slice_end",
                "image_id_start",
                "image_id_end",
            ):
                setattr(self, f"{name}_token", getattr(tokenizer, f"{name}_token"))
            self.image_token_id, self.video_token = tokenizer.image_token_id, tokenizer.video_token

        def _process_images(self, images: Any, **settings: Any) -> Any:
            self.whole = True  # `__call__` numbers the pictures itself
            try:
                return super()._process_images(images, **settings)
            finally:
                self.whole = False

        def replace_image_token(self, image_inputs: Any, image_idx: int, **settings: Any) -> str:
            settings = {"image_token_divisor": self.image_token_divisor, **settings}
            written = super().replace_image_token(image_inputs, image_idx, **settings)
            if getattr(self, "whole", False) or not self.default_use_image_id:
                return written
            return f"{self.image_id_start_token}{image_idx}{self.image_id_end_token}{written}"

    PicturesOfMiniCPM.__name__ = PicturesOfMiniCPM.__qualname__ = processor_class
    return PicturesOfMiniCPM


def load_processor(source: str, config: Any, processor_class: str = "MiniCPMV4_6Processor") -> Any:
    """Tokenizer, chat template, and image processor on Pillow."""
    from transformers import AutoTokenizer
    from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil

    tokenizer = AutoTokenizer.from_pretrained(source)
    images = MiniCPMV4_6ImageProcessorPil.from_pretrained(source)
    return pictures_of_minicpm(processor_class)(images, tokenizer, chat_template=tokenizer.chat_template)


def image_size(processor: Any, config: Any) -> tuple[int, int]:
    """One slice."""
    side = processor.image_processor.scale_resolution if processor is not None else USUAL_SIDE
    return side, side


def complete(model: Any, processor: Any) -> Family:
    """The model's family, with the prompt of the checkpoint's own template."""
    family = next(one for one in (MINICPM_V_4_6, MINICPM_V_4_7) if one.matches(model.config))
    return as_the_processor_says(family, processor, MARK)


# fmt: off
# hub id, parameters, hidden, intermediate, layers, vocabulary, visual tokens
PUBLISHED = (
    Published("openbmb/MiniCPM-V-4.6", 1_300_428_016, 1024, 3584, 24, 248094, 64,
              tied=True, linear=1_039_110_144, kv_width=512, source=ASSUMED),
)
# fmt: on

MINICPM_V_4_6 = Family(
    name="minicpm_v_4_6",
    title="MiniCPM-V 4.6",
    model_types=(("minicpmv4_6", "*"),),
    model_class="transformers:MiniCPMV4_6ForConditionalGeneration",
    prompt=PROMPT,
    text_prompt=PROMPT.replace("{image}", ""),
    image_text="{image}\n",
    image_token=MARK,
    end_token="<|im_end|>",
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.2,
    checkpoints={"minicpm-v-4.6": "openbmb/MiniCPM-V-4.6"},
    published=PUBLISHED,
    vision_sites=("model.merger.mlp.0.linear_1", "model.merger.mlp.0.linear_2"),
    load_processor=load_processor,
    read_pictures=read_pictures,
    joined=joined,
    image_size=image_size,
    complete=complete,
)

MINICPM_V_4_7 = replace(
    MINICPM_V_4_6,
    name="minicpm_v_4_7",
    title="MiniCPM-V 4.7",
    model_types=(("minicpmv4_7", "*"),),
    model_class="transformers:MiniCPMV4_7ForConditionalGeneration",
    checkpoints={"minicpm-v-4.7": "openbmb/MiniCPM-V-4.7-1B"},
    published=(),
    load_processor=partial(load_processor, processor_class="MiniCPMV4_7Processor"),
    text_inputs=text_inputs,
)
