"""Llama 3.2 Vision (`MllamaForConditionalGeneration`): a picture is let in by cross attention, at some decoder layers.

No token of the prompt is a piece of the picture.  One mark, `<|image|>`, says where it is let in: tokens from there on attend to
its tiles.  `visual_mask` is that mark alone, so what reads an edit's key at visual tokens reads one token.

transformers leaves the cross-attention layers out where a batch has no picture, and where some rows have one it lets the
others attend to all tiles of an empty one.  Here every row has a picture or an absent one, whose features are zeros:
cross attention to zeros adds exactly nothing, so that a row without a picture is what it is by itself, and every decoder layer is
called in every batch.  (An absent picture goes through the vision part and is thrown away, which costs time.)

transformers reads a prompt with a picture in one piece, and its mask of the picture is not made for a draft's tokens, so that
prefill in chunks is ignored and assisted decoding refused.

Layers above the last cross attention are as any Llama's.  The vision side's site is the last linear before the projector, whose
output is masked as said.

The papers do not use this family.  Site: the last layer's `mlp.out`, as for BLIP-2; α: MiniGPT-4's, not chosen for this
family (`vledit choose-alpha` does).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .families import Family
from .processors import load_any
from .site import Site

if TYPE_CHECKING:
    from torch import Tensor

    from .encoded import Encoded

PROMPT = (
    "<|start_header_id|>user<|end_header_id|>\n\n{image}{question}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
PICTURES = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
_HOOKED = "_vledit_absent_pictures"


def read_pictures(processor: Any, pictures: Sequence[Any], question: str) -> Mapping[str, Any]:
    """Pixels (1, pictures, tiles, 3, H, W) of one row, the number of its pictures' shapes, and which tiles there are."""
    read = processor.image_processor([list(pictures)], return_tensors="pt")
    return {name: read[name] for name in PICTURES}


def text_inputs(model: Any, encoded: Encoded) -> dict[str, Tensor]:
    """(B, T, pictures, tiles) int64: which tiles each token sees; and an absent picture for every row that has none."""
    import torch

    batch, length = encoded.input_ids.shape
    _complete_rows(model, encoded, batch)
    tiles = encoded.model_inputs["aspect_ratio_mask"]
    seen = torch.zeros(batch, length, *tiles.shape[1:], dtype=torch.long, device=encoded.input_ids.device)
    for row, marks in enumerate(encoded.visual_mask):
        places, end = marks.nonzero()[:, 0].tolist(), length
        for number in range(len(places) - 1, -1, -1):
            start = places[number]
            if number + 1 < len(places) and places[number + 1] != start + 1:  # pictures in a row are seen together
                end = places[number + 1]
            seen[row, start:end, number] = tiles[row, number]
    encoded.picture_sizes["cross_attention_mask"] = (1,) * batch
    return {"cross_attention_mask": seen}


def _complete_rows(model: Any, encoded: Encoded, batch: int) -> None:
    """Puts an absent picture, of no tile at all, where a row has none."""
    import torch

    inputs, vision = encoded.model_inputs, model.config.vision_config
    if not encoded.picture_sizes:
        side, tiles = vision.image_size, vision.max_num_tiles
        device, dtype = encoded.input_ids.device, model.dtype
        inputs["pixel_values"] = torch.zeros(0, 1, tiles, vision.num_channels, side, side, device=device, dtype=dtype)
        inputs["aspect_ratio_ids"] = torch.zeros(0, 1, dtype=torch.long, device=device)
        inputs["aspect_ratio_mask"] = torch.zeros(0, 1, tiles, dtype=torch.long, device=device)
    sizes = encoded.picture_sizes.get("pixel_values", (0,) * batch)
    place = [row for row, size in enumerate(sizes) if size]
    for name in PICTURES:
        whole = inputs[name].new_zeros(batch, *inputs[name].shape[1:])
        whole[place] = inputs[name]
        inputs[name], encoded.picture_sizes[name] = whole, (1,) * batch


def complete(model: Any, processor: Any) -> Family:
    """Makes the model give zeros for pictures that are not there, and every row its own tiles.

    transformers hands the decoder's layers (B·pictures·tiles, patches, H), which they read as (B, pictures·tiles·patches, H);
    it is given in this form, so that a row's tiles can be told from another's (`Trunk.select`).
    """
    body = model.model
    if getattr(body, _HOOKED, False):
        return FAMILY
    setattr(body, _HOOKED, True)

    seen = threading.local()  # hooks are shared by copies of the model, which may run in other threads

    def note(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        seen.there = kwargs["aspect_ratio_mask"].sum(-1) > 0

    def clear(module: Any, args: tuple, output: Tensor) -> Tensor:
        return output * seen.there.to(output)[:, :, None, None, None]

    def by_row(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        states = kwargs.get("cross_attention_states")
        if states is None:
            return None
        batch = next(kwargs[name] for name in ("inputs_embeds", "input_ids") if kwargs.get(name) is not None).shape[0]
        return args, {**kwargs, "cross_attention_states": states.reshape(batch, -1, states.shape[-1])}

    body.language_model.register_forward_pre_hook(by_row, with_kwargs=True)
    body.vision_model.register_forward_pre_hook(note, with_kwargs=True)
    body.multi_modal_projector.register_forward_hook(clear)
    return FAMILY


FAMILY = Family(
    name="mllama",
    title="Llama 3.2 Vision",
    model_types=(("mllama", "*"),),
    model_class="transformers:MllamaForConditionalGeneration",
    prompt=PROMPT,
    text_prompt=PROMPT.replace("{image}", ""),
    image_token="<|image|>",
    end_token="<|eot_id|>",
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.2,
    checkpoints={
        "llama-3.2-11b-vision": "meta-llama/Llama-3.2-11B-Vision-Instruct",
        "llama-3.2-90b-vision": "meta-llama/Llama-3.2-90B-Vision-Instruct",
    },
    vision_sites=("model.vision_model.global_transformer.layers.-1.mlp.fc2",),
    load_processor=load_any,
    read_pictures=read_pictures,
    text_inputs=text_inputs,
    complete=complete,
    whole_prompts=True,
    drafts=False,
)
