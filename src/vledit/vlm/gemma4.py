"""Gemma 4 (`Gemma4ForConditionalGeneration`): E2B, E4B, 31B, and the mixture 26B-A4B.

A picture keeps its shape and becomes at most 280 soft tokens between `<|image>` and `<image|>` (its processor's names:
`boi_token`, `eoi_token`); its pixels come as patches with their places.  The model knows soft tokens by
`mm_token_type_ids`.  Sliding and full attention differ in head width; the small models add an embedding of each token to
every layer, which is given to the layer beside the hidden states.

The mixture's layers have a dense MLP and experts side by side: `mlp` is the dense one, whose output is normed, added to
the experts' and normed again.  Edits act there.

The papers do not use this family.  Site: the last layer's `mlp.out`, as for Gemma 3; α: MiniGPT-4's, not chosen for this
family (`vledit choose-alpha` does).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from .families import Family
from .site import Site

if TYPE_CHECKING:
    from torch import Tensor

    from .encoded import Encoded

SIDE = 16
"""Soft tokens along each side of the pictures that stand for "the model's own size": it has none."""


def text_inputs(model: Any, encoded: Encoded) -> dict[str, Tensor]:
    """(B, T) int64: 1 for the pictures' soft tokens, 0 for text."""
    return {"mm_token_type_ids": encoded.visual_mask.long()}


@cache
def pictures_of_gemma() -> type[Any]:
    """The processor's class; made when it is asked for, so that this file needs no transformers."""
    from transformers import ProcessorMixin

    class PicturesOfGemma(ProcessorMixin):
        """`Gemma4Processor` for pictures alone: its parts for sound and videos need packages of their own."""

        def __init__(
            self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **unused: Any
        ) -> None:
            super().__init__(image_processor, tokenizer, chat_template=chat_template)
            self.image_token, self.image_token_id = tokenizer.image_token, tokenizer.image_token_id

        @property
        def unused_input_names(self) -> list[str]:
            return ["num_soft_tokens_per_image"]

        def replace_image_token(self, image_inputs: Any, image_idx: int, **unused: Any) -> str:
            count = int(image_inputs["num_soft_tokens_per_image"][image_idx])
            return self.tokenizer.boi_token + self.image_token * count + self.tokenizer.eoi_token

    PicturesOfGemma.__name__ = PicturesOfGemma.__qualname__ = "Gemma4Processor"
    return PicturesOfGemma


def load_processor(source: str, config: Any) -> Any:
    """Tokenizer, chat template, and image processor on Pillow."""
    from transformers import AutoTokenizer, Gemma4ImageProcessorPil

    tokenizer = AutoTokenizer.from_pretrained(source)
    images = Gemma4ImageProcessorPil.from_pretrained(source)
    return pictures_of_gemma()(images, tokenizer, chat_template=tokenizer.chat_template)


def image_size(processor: Any, config: Any) -> tuple[int, int]:
    """A square of `SIDE` × `SIDE` soft tokens; a checkpoint without eyes has the usual sizes."""
    vision = config.vision_config
    side = SIDE * getattr(vision, "patch_size", 16) * getattr(vision, "pooling_kernel_size", 3)
    return side, side


def after_projection(config: Any, logits: Tensor) -> Tensor:
    """Soft-capped, where the checkpoint says so."""
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else cap * (logits / cap).tanh()


FAMILY = Family(
    name="gemma4",
    title="Gemma 4",
    model_types=(("gemma4", "*"),),
    model_class="transformers:Gemma4ForConditionalGeneration",
    prompt="<|turn>user\n{image}{question}<turn|>\n<|turn>model\n",
    text_prompt="<|turn>user\n{question}<turn|>\n<|turn>model\n",
    image_token="<|image|>",
    end_token="<turn|>",
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.2,
    checkpoints={
        "gemma4-e2b": "google/gemma-4-E2B-it",
        "gemma4-e4b": "google/gemma-4-E4B-it",
        "gemma4-26b-a4b": "google/gemma-4-26B-A4B-it",
        "gemma4-31b": "google/gemma-4-31B-it",
    },
    vision_sites=("model.embed_vision.embedding_projection",),
    load_processor=load_processor,
    text_inputs=text_inputs,
    image_size=image_size,
    after_projection=after_projection,
)
