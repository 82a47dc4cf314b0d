"""The embedded model: EfficientNet-Lite0, Q-Former and SmolLM2-135M, assembled from packages at first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .families import Family
from .site import Site


def _register_classes() -> None:
    import_module("vledit.pocket.modeling")
    import_module("vledit.pocket.processing")


def _load_processor(source: str, config: Any) -> Any:
    """By hand: `AutoProcessor` cannot find image processors that live outside transformers (5.23)."""
    from transformers import AutoTokenizer

    processing = import_module("vledit.pocket.processing")
    images = processing.PocketImageProcessor(config.image_size)
    return processing.PocketProcessor(images, AutoTokenizer.from_pretrained(source), config.num_query_tokens)


FAMILY = Family(
    name="pocket",
    title="pocket (SmolLM2-135M, embedded)",
    model_types=(("vledit_pocket", "llama"),),
    model_class="vledit.pocket.modeling:PocketForConditionalGeneration",
    prompt="<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n",
    text_prompt="<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n",
    image_token="<image>",
    count_image_tokens=lambda config: config.num_query_tokens,
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.4,  # chosen on 40 validation edits of `icons` (docs/ablations.md)
    vision_sites=tuple(f"qformer.layers.layers.{layer}.linear2" for layer in (-2, -1)),
    trained_tokens=128,  # rows of its training (pocket/train.py)
    prepare=_register_classes,
    load_processor=_load_processor,
)
