"""Mistral Small 3.1 and 3.2 (`Mistral3ForConditionalGeneration`): Pixtral, a patch merger, Mistral.

A picture is scaled down to at most 1,540 pixels a side and written row by row, `[IMG_BREAK]` between the rows and `[IMG_END]`
after the last; each visual token stands for 28 × 28 pixels.  transformers' own processor asks for torchvision, which the
picture's part of it does not need: `PicturesOfMistral` is the same rule on Pillow alone.

The papers do not use this family.  Site: the last layer's `mlp.out`, as for BLIP-2; α: MiniGPT-4's, not chosen for this
family (`vledit choose-alpha` does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from .families import Family
from .qwen2_vl import SIDE
from .site import Site

MARKS = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}


@cache
def pictures_of_mistral() -> type[Any]:
    """The processor's class; made when it is asked for, so that this file needs no transformers."""
    from transformers import ProcessorMixin

    class PicturesOfMistral(ProcessorMixin):
        """Writes a picture as rows of `[IMG]` with a break after each; the settings are those of a saved PixtralProcessor."""

        def __init__(
            self,
            image_processor: Any = None,
            tokenizer: Any = None,
            patch_size: int = 16,
            spatial_merge_size: int = 1,
            chat_template: Any = None,
            image_token: str = MARKS["image_token"],
            image_break_token: str = MARKS["image_break_token"],
            image_end_token: str = MARKS["image_end_token"],
            **unused: Any,
        ) -> None:
            super().__init__(image_processor, tokenizer, chat_template=chat_template)
            self.patch_size, self.spatial_merge_size = patch_size, spatial_merge_size
            self.image_token, self.image_end_token = image_token, image_end_token
            self.image_break_token = image_break_token
            self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)

        @property
        def unit(self) -> int:
            """Pixels along each side of a visual token."""
            return self.patch_size * self.spatial_merge_size

        def replace_image_token(self, image_inputs: Any, image_idx: int, **unused: Any) -> str:
            height, width = (int(side) // self.unit for side in image_inputs["image_sizes"][image_idx])
            row = self.image_token * width
            return self.image_break_token.join([row] * height) + self.image_end_token

    PicturesOfMistral.__name__ = PicturesOfMistral.__qualname__ = "PixtralProcessor"
    return PicturesOfMistral


def load_processor(source: str, config: Any) -> Any:
    """Tokenizer, image processor on Pillow, and the settings of the saved processor."""
    from transformers import AutoTokenizer, PixtralImageProcessorPil

    own = pictures_of_mistral()
    settings, _ = own.get_processor_dict(source)
    kept = {name: settings[name] for name in ("chat_template", *MARKS) if name in settings}
    return own(
        PixtralImageProcessorPil.from_pretrained(source),
        AutoTokenizer.from_pretrained(source),
        patch_size=config.vision_config.patch_size,
        spatial_merge_size=config.spatial_merge_size,
        **kept,
    )


def read_pictures(processor: Any, pictures: Sequence[Any], question: str) -> Mapping[str, Any]:
    """Pixels (n, 3, H, W), the smaller pictures filled up, and the true `image_sizes` (n, 2) of each in pixels."""
    unit = processor.patch_size * processor.spatial_merge_size
    return processor.image_processor(list(pictures), patch_size=unit, return_tensors="pt")


def image_size(processor: Any, config: Any) -> tuple[int, int]:
    """A square of `SIDE` × `SIDE` visual tokens."""
    side = SIDE * config.vision_config.patch_size * config.spatial_merge_size
    return side, side


FAMILY = Family(
    name="mistral3",
    title="Mistral Small 3.1, 3.2",
    model_types=(("mistral3", "*"),),
    model_class="transformers:Mistral3ForConditionalGeneration",
    prompt="[INST]{image}{question}[/INST]",
    text_prompt="[INST]{question}[/INST]",
    image_token="[IMG]",
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.2,
    checkpoints={
        "mistral-small-3.1-24b": "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
        "mistral-small-3.2-24b": "mistralai/Mistral-Small-3.2-24B-Instruct-2506",
    },
    vision_sites=("model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2"),
    load_processor=load_processor,
    read_pictures=read_pictures,
    image_size=image_size,
)
