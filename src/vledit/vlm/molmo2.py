"""Molmo 2 (`Molmo2ForConditionalGeneration`): SigLIP 2, attention pooling, Qwen3 (4B, 8B) or OLMo (O-7B).

A picture is a small copy of the whole, then up to eight overlapping crops; every visual token pools 2 × 2 patches,
which it names by their numbers. Its features are added to the placeholder's embedding. All tokens that belong to
pictures, marks and line ends too, see each other, so that a prompt is read in one piece.

The papers do not use this family. Site: the last layer's `mlp.out`; α: MiniGPT-4's, not chosen for this family
(`vledit choose-alpha` does).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from .families import Family
from .published import ASSUMED, DERIVED, Published
from .site import Site

if TYPE_CHECKING:
    from torch import Tensor

    from .encoded import Encoded

PROMPT = "<|im_end|>{image}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
POOLING = "image_token_pooling"
MARK = "<|image|>"
OF_PICTURES = ("<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<im_end>", "<im_low>")


def joined(pictures: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The numbers of the patches that tokens pool, counted through all pictures of the batch."""
    import torch

    tokens = pictures["image_grids"][:, :2].prod(1) + pictures["image_grids"][:, 2:].prod(1)
    patches = pictures["image_num_crops"] * pictures["pixel_values"].shape[1]
    before = (patches.cumsum(0) - patches).repeat_interleave(tokens)[:, None]
    own = pictures[POOLING]
    return {POOLING: torch.where(own < 0, own, own + before)}


@cache
def pictures_of_molmo() -> type[Any]:
    """The processor's class without its part for videos; made when it is asked for, so that this file needs no transformers."""
    from transformers import ProcessorMixin
    from transformers.models.molmo2.processing_molmo2 import Molmo2Processor

    class PicturesOfMolmo(Molmo2Processor):
        def __init__(
            self,
            image_processor: Any = None,
            tokenizer: Any = None,
            chat_template: str | None = None,
            image_use_col_tokens: bool = True,
            use_single_crop_col_tokens: bool | None = None,
            use_single_crop_start_token: bool = True,
            **unused: Any,
        ) -> None:
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
            self.image_use_col_tokens = image_use_col_tokens
            self.use_single_crop_col_tokens = use_single_crop_col_tokens
            self.use_single_crop_start_token = use_single_crop_start_token
            self.image_token, self.video_token = MARK, None
            self.image_token_id, *self.image_token_ids = tokenizer.convert_tokens_to_ids([MARK, *OF_PICTURES])

    PicturesOfMolmo.__name__ = PicturesOfMolmo.__qualname__ = Molmo2Processor.__name__
    return PicturesOfMolmo


def load_processor(source: str, config: Any) -> Any:
    """transformers' processor for pictures alone, with an image processor that needs no torchvision."""
    from transformers import AutoTokenizer

    from .readers.molmo2 import Molmo2ImageProcessor

    tokenizer = AutoTokenizer.from_pretrained(source)
    images = Molmo2ImageProcessor.from_pretrained(source)
    return pictures_of_molmo()(images, tokenizer, chat_template=tokenizer.chat_template)


def complete(model: Any, processor: Any) -> Family:
    """The family; it knows which tokens belong to pictures, and what this tokenizer starts a text with."""
    import torch

    ids = sorted(set(processor.image_token_ids) - {None, processor.tokenizer.unk_token_id})
    start = processor.tokenizer.bos_token or processor.tokenizer.eos_token

    def text_inputs(model: Any, encoded: Encoded) -> dict[str, Tensor]:
        """(B, T) int64: 1 for tokens that belong to pictures."""
        of_pictures = torch.isin(encoded.input_ids, torch.tensor(ids, device=encoded.input_ids.device))
        return {"mm_token_type_ids": (of_pictures & encoded.prompt_mask).long()}

    family = replace(FAMILY, text_inputs=text_inputs, complete=None)
    prompts = {name: start + getattr(FAMILY, name).removeprefix("<|im_end|>") for name in ("prompt", "text_prompt")}
    return replace(family, **prompts)


# fmt: off
# hub id, parameters, hidden, intermediate, layers, vocabulary, visual tokens
PUBLISHED = (
    Published("allenai/Molmo2-4B", 4_850_869_200, 2560, 9728, 36, 151936, 392,
              linear=4_071_220_736, kv_width=1024, source=ASSUMED),
    Published("allenai/Molmo2-8B", 8_694_602_192, 4096, 12288, 36, 151936, 392,
              linear=7_447_897_600, kv_width=1024, source=DERIVED),
)
# fmt: on

FAMILY = Family(
    name="molmo2",
    title="Molmo 2",
    model_types=(("molmo2", "*"),),
    model_class="transformers:Molmo2ForConditionalGeneration",
    prompt=PROMPT,
    text_prompt=PROMPT.replace("{image}", ""),
    image_token="<im_patch>",
    end_token="<|im_end|>",
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.2,
    checkpoints={
        "molmo2-4b": "allenai/Molmo2-4B",
        "molmo2-8b": "allenai/Molmo2-8B",
        "molmo2-o-7b": "allenai/Molmo2-O-7B",
    },
    published=PUBLISHED,
    vision_sites=(
        "model.multi_modal_projector.image_projector.up_proj",
        "model.multi_modal_projector.image_projector.down_proj",
    ),
    load_processor=load_processor,
    joined=joined,
    complete=complete,
    whole_prompts=True,
)
