"""Llama 4 (`Llama4ForConditionalGeneration`): Scout, all of whose layers are mixtures of experts, and Maverick, every other.

A picture is laid on a canvas of tiles (up to 16); each is 144 `<|patch|>`, with separators between them, and where
there are several a small copy of the whole follows, behind `<|image|>`. Layers see chunks of 8,192 tokens, but every
fourth, which sees all and has no positions.

A layer's block is `feed_forward`: of a mixture one routed expert and one that all tokens share. Edits act on the
whole of it, so that neither key nor change depends on which expert a token is sent to.

The papers do not use this family. α: MiniGPT-4's, not chosen for this family (`vledit choose-alpha` does).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .families import Family
from .published import ASSUMED, DERIVED, Published
from .site import BLOCK, Site

if TYPE_CHECKING:
    from torch import Tensor

    from .encoded import Encoded

PROMPT = "<|header_start|>user<|header_end|>\n\n{image}{question}<|eot|><|header_start|>assistant<|header_end|>\n\n"


def embedded(model: Any, encoded: Encoded) -> Tensor:
    """(B, T, E): `generate` looks for pictures where this class does not leave them, so they are put in beforehand."""
    embeds = model.get_input_embeddings()(encoded.input_ids)
    if not encoded.picture_sizes:
        return embeds
    seen = model.get_image_features(**encoded.picture_inputs, return_dict=True).last_hidden_state
    features = model.multi_modal_projector(seen.reshape(-1, seen.shape[-1]))
    return embeds.masked_scatter(encoded.visual_mask[..., None], features.to(embeds))


def load_processor(source: str, config: Any) -> Any:
    """transformers' processor, with an image processor that needs no torchvision."""
    from transformers import AutoTokenizer
    from transformers.models.llama4.processing_llama4 import Llama4Processor

    from .readers.llama4 import Llama4ImageProcessor

    tokenizer, vision = AutoTokenizer.from_pretrained(source), config.vision_config
    images = Llama4ImageProcessor.from_pretrained(source)
    settings: dict[str, Any] = {"patch_size": vision.patch_size, "pixel_shuffle_ratio": vision.pixel_shuffle_ratio}
    if tokenizer.chat_template is not None:
        settings["chat_template"] = tokenizer.chat_template
    return Llama4Processor(images, tokenizer, **settings)


# fmt: off
# hub id, parameters, hidden, intermediate, layers, vocabulary, visual tokens
PUBLISHED = (
    Published("meta-llama/Llama-4-Scout-17B-16E-Instruct", 108_225_039_360, 5120, 8192, 48, 202048, 144,
              linear=9_517_589_504, kv_width=1024, source=DERIVED),
    Published("meta-llama/Llama-4-Maverick-17B-128E-Instruct", 401_583_781_376, 5120, 16384, 48, 202048, 144,
              linear=12_965_814_784, kv_width=1024, source=ASSUMED),
)
# fmt: on

FAMILY = Family(
    name="llama4",
    title="Llama 4",
    model_types=(("llama4", "*"),),
    model_class="transformers:Llama4ForConditionalGeneration",
    prompt=PROMPT,
    text_prompt=PROMPT.replace("{image}", ""),
    image_token="<|patch|>",
    end_token="<|eot|>",
    default_site=Site(-1, BLOCK),
    default_alpha=0.2,
    checkpoints={
        "llama-4-scout": "meta-llama/Llama-4-Scout-17B-16E-Instruct",
        "llama-4-maverick": "meta-llama/Llama-4-Maverick-17B-128E-Instruct",
    },
    published=PUBLISHED,
    three_layers=(),
    vision_sites=("multi_modal_projector.linear_1",),
    load_processor=load_processor,
    embedded=embedded,
)
