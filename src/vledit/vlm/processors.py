"""Processors of families that also take videos, loaded for still pictures alone.

Their video processors need torchvision, whose builds must fit that of torch to the letter; pictures need none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..errors import MissingDataError

VIDEO_PART = "video_processor"


@cache
def for_pictures(processor_class: type[Any]) -> type[Any]:
    """The same processor without its part for videos, saved and shown under the same name.

    Args:
        processor_class: a Hugging Face processor class whose first arguments are image_processor, tokenizer and
            video_processor, in this order; the third is None for the class that is returned.
    """

    class PictureProcessor(processor_class):
        # `__init__` is inherited as it is: transformers reads off its arguments which settings a saved processor has

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != VIDEO_PART]

        @classmethod
        def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
            return super().from_args_and_dict(args, {**processor_dict, VIDEO_PART: None}, **kwargs)

    PictureProcessor.__name__ = PictureProcessor.__qualname__ = processor_class.__name__
    return PictureProcessor


def picture_loader(processor_class: str) -> Callable[[str, Any], Any]:
    """A family's `load_processor`: (folder or id, config) → the processor named `processor_class`, for pictures alone."""

    def load(source: str, config: Any) -> Any:
        found = getattr(import_module("transformers"), processor_class)
        return for_pictures(found).from_pretrained(source)

    return load


def load_any(source: str, config: Any) -> Any:
    """`AutoProcessor` for a model of an unknown family.

    Raises:
        MissingDataError: the processor needs torchvision and there is none that works; names the build that fits.
    """
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(source)
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: torchvision of another build than torch
        without_video = "video processor" in str(error) and find_spec("torchvision") is None
        if "torchvision" not in str(error).lower() and not without_video:
            raise
        import torch

        minor = int(torch.__version__.split(".")[1])
        raise MissingDataError(
            f"its processor needs torchvision, in the build that fits torch {torch.__version__}: pip install "
            f"'torchvision==0.{minor + 15}.*', from the index that your torch came from (https://pytorch.org/get-started)."
        ) from error
