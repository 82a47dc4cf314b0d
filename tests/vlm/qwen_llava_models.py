"""Tiny random models of the Qwen-VL and LLaVA families, each of its true class, with its true processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    MistralConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vledit.vlm.processors import for_pictures

from .tokens import SIZE, qwen_tokenizer, vicuna_tokenizer

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava", "llava_next", "llava_onevision")
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
PINPOINTS = [[SIZE, 2 * SIZE], [2 * SIZE, SIZE], [2 * SIZE, 2 * SIZE]]
SIDES = {"height": SIZE, "width": SIZE}
NEXT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[INST] "
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    " [/INST]{% endfor %}"
)
"""As the Mistral checkpoint of LLaVA-NeXT carries it, shortened to what a user says."""


def _text(layers: int, tokenizer: Any, **changes: Any) -> dict[str, Any]:
    settings = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "vocab_size": len(tokenizer) + 3,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return {**settings, **changes}


def _qwen(processor_class: Any, layers: int, text: dict[str, Any], patch: int, **rope: Any) -> tuple[Any, dict]:
    """The processor, and what the three configs share.  Visual tokens of 8 or 16 pixels, at most 36 of them."""
    tokenizer = qwen_tokenizer()
    limits = {"shortest_edge": (2 * patch) ** 2, "longest_edge": (12 * patch) ** 2}
    images = Qwen2VLImageProcessorPil(patch_size=patch, merge_size=2, temporal_patch_size=2, size=limits)
    sections = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0, **rope}
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    shared: dict[str, Any] = {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    shared["text_config"] = _text(layers, tokenizer, rope_parameters=sections, **text)
    return for_pictures(processor_class)(images, tokenizer), shared


def _qwen2_vl(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    processor, shared = _qwen(Qwen2VLProcessor, layers, text, patch=4)
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(vision_config=vision, **shared)), processor


def _qwen2_5_vl(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    processor, shared = _qwen(Qwen2_5_VLProcessor, layers, text, patch=4)
    vision = {"hidden_size": 16, "intermediate_size": 32, "depth": 2, "num_heads": 2, "patch_size": 4}
    vision |= {"window_size": 16, "out_hidden_size": 32, "fullatt_block_indexes": [1]}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(vision_config=vision, **shared)), processor


def _qwen3_vl(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    """Deepstack features go in after every decoder layer, the last one too."""
    processor, shared = _qwen(Qwen3VLProcessor, layers, {"head_dim": 8, **text}, patch=4, mrope_interleaved=True)
    vision = {"hidden_size": 16, "intermediate_size": 32, "depth": 3, "num_heads": 2, "patch_size": 4}
    vision |= {"out_hidden_size": 32, "num_position_embeddings": 64}
    vision["deepstack_visual_indexes"] = list(range(min(layers, 3)))
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(vision_config=vision, **shared)), processor


def _llava(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    tokenizer = vicuna_tokenizer()
    images = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=SIDES)
    strategy = {"vision_feature_select_strategy": "default"}
    processor = LlavaProcessor(images, tokenizer, patch_size=8, num_additional_image_tokens=1, **strategy)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION, num_hidden_layers=2, image_size=SIZE, patch_size=8).to_dict(),
        text_config=LlamaConfig(**_text(layers, tokenizer, **text)).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        **strategy,
    )
    return LlavaForConditionalGeneration(config), processor


def _llava_next(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    tokenizer = vicuna_tokenizer()
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size=SIDES, image_grid_pinpoints=PINPOINTS, do_pad=True
    )
    strategy = {"vision_feature_select_strategy": "default"}
    processor = LlavaNextProcessor(
        images, tokenizer, patch_size=8, num_additional_image_tokens=1, chat_template=NEXT_TEMPLATE, **strategy
    )
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**VISION, num_hidden_layers=2, image_size=SIZE, patch_size=8).to_dict(),
        text_config=MistralConfig(**_text(layers, tokenizer, sliding_window=None, **text)).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=16,
        **strategy,
    )
    return LlavaNextForConditionalGeneration(config), processor


def _llava_onevision(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    tokenizer = qwen_tokenizer()
    images = LlavaOnevisionImageProcessorPil(size=SIDES, image_grid_pinpoints=PINPOINTS)
    strategy = {"vision_feature_select_strategy": "full"}
    processor = for_pictures(LlavaOnevisionProcessor)(images, tokenizer, num_image_tokens=16, **strategy)
    vision = SiglipVisionConfig(
        **VISION, num_hidden_layers=2, image_size=SIZE, patch_size=8, vision_use_head=False
    ).to_dict()
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=Qwen2Config(**_text(layers, tokenizer, **text)).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=PINPOINTS,
        **strategy,
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


BUILDERS: dict[str, Callable[[int, dict[str, Any]], tuple[Any, Any]]] = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
}
