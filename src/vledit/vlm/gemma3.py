"""Gemma 3 (`Gemma3ForConditionalGeneration`), the sizes that see: 4B, 12B, 27B.

A picture is always 256 soft tokens between `<start_of_image>` and `<end_of_image>` (pan and scan, which adds crops, is off as
in the processor's defaults).  The tokens of one picture attend to each other in both directions; the model knows them by
`token_type_ids` and without these is silently causal.  Five of six layers see a window of 1,024 tokens only; how each layer is
called is recorded layer by layer (`VLM.trunk`).  The MLP's output is normed before it is added (`SiteTail` knows): an edit of
one layer's MLP turns what is added, but cannot make it longer.

The checkpoints' settings name the end of the text first, but the chat model ends its turns with `<end_of_turn>`.

The papers do not use this family.  Site: the last layer's `mlp.out`, as for BLIP-2; α: MiniGPT-4's, not chosen for this
family (`vledit choose-alpha` does).  The projector's weight is a bare parameter and no linear layer; in its place the vision
side's sites are the last three MLP outputs of the picture encoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .families import Family
from .published import COUNTED, Published
from .site import Site

if TYPE_CHECKING:
    from torch import Tensor

    from .encoded import Encoded


def text_inputs(model: Any, encoded: Encoded) -> dict[str, Tensor]:
    """(B, T) int64: 1 for the pictures' soft tokens, 0 for text."""
    return {"token_type_ids": encoded.visual_mask.long()}


# fmt: off
# hub id, parameters, hidden, intermediate, layers, vocabulary, visual tokens
PUBLISHED = (
    Published("google/gemma-3-4b-it", 4_300_079_472, 2560, 10240, 34, 262208, 256,
              tied=True, linear=3_619_713_024, kv_width=1024, source=COUNTED),
    Published("google/gemma-3-12b-it", 12_187_325_040, 3840, 15360, 48, 262208, 256,
              tied=True, linear=11_169_460_224, kv_width=2048, source=COUNTED),
    Published("google/gemma-3-27b-it", 27_432_406_640, 5376, 21504, 62, 262208, 256,
              tied=True, linear=26_009_432_064, kv_width=2048, source=COUNTED),
)
# fmt: on

FAMILY = Family(
    name="gemma3",
    title="Gemma 3",
    model_types=(("gemma3", "gemma3_text"),),
    model_class="transformers:Gemma3ForConditionalGeneration",
    prompt="<start_of_turn>user\n{image}{question}<end_of_turn>\n<start_of_turn>model\n",
    text_prompt="<start_of_turn>user\n{question}<end_of_turn>\n<start_of_turn>model\n",
    image_token="<image_soft_token>",
    end_token="<end_of_turn>",
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.2,
    checkpoints={
        "gemma3-4b": "google/gemma-3-4b-it",
        "gemma3-12b": "google/gemma-3-12b-it",
        "gemma3-27b": "google/gemma-3-27b-it",
    },
    published=PUBLISHED,
    vision_sites=tuple(f"model.vision_tower.encoder.layers.{layer}.mlp.fc2" for layer in (-3, -2, -1)),
    text_inputs=text_inputs,
)
