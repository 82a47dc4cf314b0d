"""Pictures to what the model takes: pixel tensors, and the placeholders that stand for them in the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .families import Family


@dataclass(frozen=True)
class PictureInputs:
    """The pictures of one row.

    Attributes:
        placeholders: for every picture how it is written in the prompt; none for a row without a picture.
        inputs: name → tensor, all of the row's pictures along dimension 0 (patches, tiles or pictures: as the model
            wants them).
    """

    placeholders: tuple[str, ...] = ()
    inputs: Mapping[str, Tensor] = field(default_factory=dict)


def read_row(family: Family, processor: Any, config: Any, pictures: Sequence[Any], question: str) -> PictureInputs:
    """The pictures of one row, by the image processor of the checkpoint.

    A row is read by itself: how many tiles or crops a picture is cut into may depend on the row's other pictures, but
    must not on those of other rows.

    Args:
        pictures: PIL pictures, RGB.

    Raises:
        InputError: the processor has no rule for placeholders and the family gives no number.
    """
    if not pictures:
        return PictureInputs()
    read = (family.read_pictures or _read)(processor, pictures, question)
    unused = set(getattr(processor, "unused_input_names", ()))  # e.g. counts that only the placeholders depend on
    inputs = {name: value for name, value in read.items() if isinstance(value, Tensor) and name not in unused}
    return PictureInputs(_placeholders(family, processor, config, read, len(pictures)), inputs)


def _read(processor: Any, pictures: Sequence[Any], question: str) -> Mapping[str, Any]:
    """As the processor itself would call its image processor."""
    defaults = getattr(type(processor), "images_kwargs", None) or {}
    return processor.image_processor(list(pictures), **{**defaults, "return_tensors": "pt"})


def _placeholders(family: Family, processor: Any, config: Any, read: Any, count: int) -> tuple[str, ...]:
    if family.count_image_tokens is not None:
        return (family.image_token * family.count_image_tokens(config),) * count
    if not writes_pictures(processor):
        raise InputError(
            f"processor: {type(processor).__name__} does not say how a picture is written in a prompt, and family "
            f"'{family.name}' gives no number of placeholders. Use transformers 5.23 or newer."
        )
    own = _own_settings(processor)
    return tuple(processor.replace_image_token(read, image_idx=index, **own) for index in range(count))


def _own_settings(processor: Any) -> dict[str, Any]:
    """What a processor tells its `replace_image_token` when it is called as a whole: its settings beside the usual ones."""
    from transformers.processing_utils import ProcessingKwargs

    asked = getattr(processor, "valid_processor_kwargs", ProcessingKwargs).__annotations__
    usual = ProcessingKwargs.__annotations__
    names = [name for name in asked if name not in usual] + ["image_token_divisor"]
    return {name: value for name in names if (value := getattr(processor, name, None)) is not None}


def writes_pictures(processor: Any) -> bool:
    """Whether a processor says how a picture is written in a prompt (`replace_image_token`)."""
    from transformers import ProcessorMixin

    abstract = getattr(ProcessorMixin, "replace_image_token", None)
    return getattr(type(processor), "replace_image_token", abstract) is not abstract


def own_size(family: Family, processor: Any, config: Any) -> tuple[int, int]:
    """(width, height) in pixels of the model's own input."""
    return sized(family, processor, config)[0]


def sized(family: Family, processor: Any, config: Any) -> tuple[tuple[int, int], str]:
    """(width, height) in pixels of the model's own input, and what was assumed of it ("" where it is said).

    Args:
        processor: None where there is none yet.
    """
    if family.image_size is not None:
        return family.image_size(processor, config), ""
    vision = getattr(config, "vision_config", None)
    images = getattr(processor, "image_processor", None)
    for owner, name in ((config, "image_size"), (vision, "image_size"), (images, "crop_size"), (images, "size")):
        if (found := _sides(getattr(owner, name, None))) is not None:
            return found, ""
    patch, merge = getattr(vision, "patch_size", None), getattr(vision, "spatial_merge_size", None)
    if isinstance(patch, int) and isinstance(merge, int):
        side = TOKENS_A_SIDE * patch * merge
        return (side, side), f"picture size {side} × {side}: {TOKENS_A_SIDE} visual tokens a side; any size is taken"
    size = getattr(images, "size", None)
    for name in ("longest_edge", "shortest_edge"):
        side = _entry(size, name)
        if isinstance(side, int) and 0 < side <= LARGEST_SIDE:
            return (side, side), f"picture size {side} × {side}: the image processor's {name}; any shape is taken"
    return (USUAL_SIDE, USUAL_SIDE), f"picture size {USUAL_SIDE} × {USUAL_SIDE}: neither config nor processor says one"


TOKENS_A_SIDE = 16
"""Visual tokens along each side of the pictures that stand for "the model's own size" where it has none."""
LARGEST_SIDE = 4096
"""A processor's `longest_edge` above this is a number of pixels of the whole picture."""
USUAL_SIDE = 448


def _sides(size: Any) -> tuple[int, int] | None:
    """(width, height) of a size in one of the forms that configs know; None where it says neither."""
    if isinstance(size, int) and size > 0:
        return size, size
    if isinstance(size, Sequence) and len(size) == 2 and all(isinstance(side, int) for side in size):
        return size[1], size[0]
    width, height = _entry(size, "width"), _entry(size, "height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def _entry(size: Any, name: str) -> Any:
    return size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)


def joined(rows: Sequence[PictureInputs]) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    """All rows' pictures as one batch.

    Where rows differ in more than dimension 0 (tiles per picture, length of an instruction), the shorter are filled up
    with zeros, as the processors do.

    Returns:
        name → tensor; name → how much of its dimension 0 belongs to each row.
    """
    names = dict.fromkeys(name for row in rows for name in row.inputs)
    tensors, sizes = {}, {}
    for name in names:
        parts = [row.inputs[name] for row in rows if name in row.inputs]
        shape = [max(sides) for sides in zip(*(part.shape[1:] for part in parts), strict=True)]
        tensors[name] = torch.cat([_filled(part, shape) for part in parts])
        sizes[name] = tuple(len(row.inputs[name]) if name in row.inputs else 0 for row in rows)
    return tensors, sizes


def _filled(part: Tensor, shape: Sequence[int]) -> Tensor:
    if list(part.shape[1:]) == list(shape):
        return part
    filled = part.new_zeros(len(part), *shape)
    filled[(slice(None), *(slice(side) for side in part.shape[1:]))] = part
    return filled
