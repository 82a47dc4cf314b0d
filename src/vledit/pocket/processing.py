"""Pictures and text to tensors for the embedded model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, BatchFeature, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from .configuration import IMAGE_TOKEN, PocketConfig


class PocketImageProcessor(BaseImageProcessor):
    """RGB pictures, resized to a square of `size` pixels and scaled as EfficientNet-Lite expects: `(x - 127) / 128`."""

    model_input_names = ["pixel_values"]  # noqa: RUF012

    def __init__(self, size: int = 192, **kwargs: Any):
        super().__init__(**kwargs)
        self.size = size

    def preprocess(self, images: Any, return_tensors: str | None = None, **_: Any) -> BatchFeature:
        """One PIL picture or a list of them → pixel_values (B, 3, size, size) float32."""
        if isinstance(images, Image.Image):
            images = [images]
        arrays = []
        for image in images:
            if not isinstance(image, Image.Image):
                image = Image.fromarray(np.asarray(image))
            image = image.convert("RGB")
            if image.size != (self.size, self.size):
                image = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
            arrays.append((np.asarray(image, dtype=np.float32).transpose(2, 0, 1) - 127.0) / 128.0)
        return BatchFeature({"pixel_values": np.stack(arrays)}, tensor_type=return_tensors)


class PocketProcessor(ProcessorMixin):
    """Text with one `<image>` per picture, and the pictures; each `<image>` becomes `num_query_tokens` placeholders."""

    attributes = ["image_processor", "tokenizer"]  # noqa: RUF012

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, num_query_tokens: int = 32, **kwargs: Any):
        self.num_query_tokens = num_query_tokens
        self.image_token = IMAGE_TOKEN
        super().__init__(image_processor, tokenizer, **kwargs)

    @classmethod
    def _get_arguments_from_pretrained(cls, source: Any, processor_dict: Any = None, **kwargs: Any) -> list[Any]:
        # transformers (5.23) looks up parts by class name among its own and needs torchvision to look further
        return [PocketImageProcessor.from_pretrained(source), AutoTokenizer.from_pretrained(source)]

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:  # type: ignore[override]
        """Raises: ValueError where pictures and `<image>` marks do not match in number."""
        texts = [text] if isinstance(text, str) else list(text)
        marks = sum(t.count(IMAGE_TOKEN) for t in texts)
        pictures = [] if images is None else ([images] if isinstance(images, Image.Image) else list(images))
        if marks != len(pictures):
            raise ValueError(f"the text has {marks} '<image>' mark(s) but {len(pictures)} picture(s) were given")
        expanded = [t.replace(IMAGE_TOKEN, IMAGE_TOKEN * self.num_query_tokens) for t in texts]
        tensors = kwargs.pop("return_tensors", None)
        data = dict(self.tokenizer(expanded, add_special_tokens=False, return_tensors=tensors, **kwargs))
        if pictures:
            data["pixel_values"] = self.image_processor.preprocess(pictures, return_tensors=tensors)["pixel_values"]
        return BatchFeature(data, tensor_type=tensors)


AutoProcessor.register(PocketConfig, PocketProcessor)
_ = torch  # the processors' tensor_type="pt" needs torch to be importable
