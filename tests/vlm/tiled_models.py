"""Tiny random models of families that cut pictures into tiles or strips, each of its true class, with its true processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import (
    Cohere2Config,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    Lfm2Config,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    Llama4Config,
    Llama4ForConditionalGeneration,
    MiniCPMV4_6Config,
    MiniCPMV4_6ForConditionalGeneration,
    MiniCPMV4_7Config,
    MiniCPMV4_7ForConditionalGeneration,
    Molmo2Config,
    Molmo2ForConditionalGeneration,
    Qwen3_5TextConfig,
    Siglip2VisionConfig,
    SiglipVisionConfig,
)
from transformers.models.cohere2_vision.processing_cohere2_vision import Cohere2VisionProcessor
from transformers.models.lfm2_vl.processing_lfm2_vl import Lfm2VlProcessor
from transformers.models.llama4.processing_llama4 import Llama4Processor
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil

from vledit.vlm.minicpm_v import pictures_of_minicpm
from vledit.vlm.molmo2 import pictures_of_molmo
from vledit.vlm.readers.cohere2_vision import Cohere2VisionImageProcessor
from vledit.vlm.readers.lfm2_vl import Lfm2VlImageProcessor
from vledit.vlm.readers.llama4 import Llama4ImageProcessor
from vledit.vlm.readers.molmo2 import Molmo2ImageProcessor

from .qwen_llava_models import SIDES, VISION, _text
from .today_models import DELTA_NET, _hybrid
from .tokens import SIZE, byte_level


def _tokenizer(specials: list[str], start: str | None, extra: list[str], **names: str) -> Any:
    tokenizer = byte_level(specials, start, **names)
    tokenizer.add_tokens([*specials, *extra], special_tokens=True)
    return tokenizer


def _llama4(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    """Every layer is a mixture; all but the middle one see chunks.  A picture is up to four tiles of four visual tokens."""
    specials = ["<|begin_of_text|>", "<|eot|>", "<|header_start|>", "<|header_end|>", "<|pad|>"]
    marks = [
        "<|patch|>",
        "<|image|>",
        "<|image_start|>",
        "<|image_end|>",
        "<|tile_x_separator|>",
        "<|tile_y_separator|>",
    ]
    names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot|>", "pad_token": "<|pad|>"}
    tokenizer = _tokenizer([*specials, *marks], "<|begin_of_text|>", [], **names)
    processor = Llama4Processor(Llama4ImageProcessor(size=SIDES, max_patches=4), tokenizer, patch_size=8)
    vision = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": SIZE, "patch_size": 8, "vision_output_dim": 24}
    vision |= {"projector_input_dim": 24, "projector_output_dim": 24}
    settings = {"head_dim": 8, "intermediate_size": 24, "intermediate_size_mlp": 48, "num_local_experts": 4}
    settings |= {"num_experts_per_tok": 1, "no_rope_layers": [1, 0, 1][:layers], "attention_chunk_size": 48}
    config = Llama4Config(
        vision_config=vision,
        text_config=_text(layers, tokenizer, **{**settings, **text}),
        image_token_index=tokenizer.convert_tokens_to_ids("<|patch|>"),
    )
    return Llama4ForConditionalGeneration(config), processor


def _lfm2_vl(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    """All but the last layer are short convolutions.  Large pictures are cut into tiles of four visual tokens."""
    specials = ["<|pad|>", "<|startoftext|>", "<|im_start|>", "<|im_end|>"]
    marks = ["<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"]
    marks += [f"<|img_row_{row}_col_{column}|>" for row in (1, 2) for column in (1, 2)]
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|pad|>"}
    tokenizer = _tokenizer([*specials, *marks], None, [], **names)
    sizes = {"encoder_patch_size": 8, "tile_size": SIZE, "size": SIDES, "max_tiles": 4}
    images = Lfm2VlImageProcessor(min_image_tokens=2, max_image_tokens=4, max_pixels_tolerance=1.5, **sizes)
    processor = Lfm2VlProcessor(images, tokenizer)
    vision = Siglip2VisionConfig(**VISION, num_hidden_layers=1, patch_size=8, num_patches=16, vision_use_head=False)
    kinds = ["full_attention" if kind == "full_attention" else "conv" for kind in _hybrid(layers)]
    settings = {"layer_types": kinds, "block_auto_adjust_ff_dim": False, **text}
    config = Lfm2VlConfig(
        vision_config=vision.to_dict(),
        text_config=Lfm2Config(**_text(layers, tokenizer, **settings)).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_size=24,
        projector_use_layernorm=False,
    )
    return Lfm2VlForConditionalGeneration(config), processor


def _molmo2(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    """Pictures' tokens are behind the vocabulary that can be said."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    marks = ["<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<low_res_im_start>", "<|image|>", "<im_low>"]
    marks += ["<frame_start>", "<frame_end>", "<|video|>"]
    names = {"bos_token": "<|im_end|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    tokenizer = _tokenizer(specials, None, [], **names)
    said = len(tokenizer)
    tokenizer.add_tokens(marks, special_tokens=True)
    images = Molmo2ImageProcessor(size=SIDES, patch_size=8, max_crops=4, overlap_margins=[1, 1])
    processor = pictures_of_molmo()(images, tokenizer)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, **heads}
    vision |= {"image_size": [SIZE, SIZE], "patch_size": 8, "num_position_embeddings": 16}
    settings = _text(layers, tokenizer, **{"head_dim": 8, "vocab_size": said, **text})
    adapter = {"hidden_size": 16, "intermediate_size": 32, "text_hidden_size": settings["hidden_size"], **heads}
    ids = {"image_start_token_id": "<im_start>", "low_res_image_start_token_id": "<low_res_im_start>"}
    ids |= {"image_end_token_id": "<im_end>", "image_patch_id": "<im_patch>"}
    ids |= {"frame_start_token_id": "<frame_start>", "frame_end_token_id": "<frame_end>"}
    config = Molmo2Config(
        vision_config=vision,
        adapter_config={**adapter, "vision_feature_layer": [-1, -2]},
        text_config={**settings, "additional_vocab_size": len(tokenizer) - said},
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in ids.items()},
    )
    return Molmo2ForConditionalGeneration(config), processor


def _minicpm(config_class: Any, model_class: Any, name: str, layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    """Pictures of more than 32 × 32 pixels are cut into slices of four visual tokens."""
    marks = {"image_token": "<|image_pad|>", "image_start_token": "<image>", "image_end_token": "</image>"}
    marks |= {"slice_start_token": "<slice>", "slice_end_token": "</slice>"}
    marks |= {"image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>", "video_token": "<|video_pad|>"}
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *marks.values()]
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    tokenizer = _tokenizer(specials, None, [], **names, extra_special_tokens=marks)
    images = MiniCPMV4_6ImageProcessorPil(patch_size=4, scale_resolution=SIZE, max_slice_nums=4)
    processor = pictures_of_minicpm(name)(images, tokenizer)
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": SIZE, "patch_size": 4}
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0, "mrope_interleaved": True}
    rope |= {"partial_rotary_factor": 1.0}
    settings = {**DELTA_NET, "layer_types": _hybrid(layers), "rope_parameters": rope, **text}
    ids = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    if config_class is MiniCPMV4_7Config:
        ids |= {"image_start_id": "<image>", "image_end_id": "</image>", "slice_start_id": "<slice>"}
        ids |= {"slice_end_id": "</slice>"}
    config = config_class(
        vision_config=vision,
        text_config=Qwen3_5TextConfig(**_text(layers, tokenizer, **settings)).to_dict(),
        insert_layer_id=0,
        **{key: tokenizer.convert_tokens_to_ids(token) for key, token in ids.items()},
    )
    if config_class is MiniCPMV4_7Config:
        config.newline_id = tokenizer("\n")["input_ids"][-1]
    return model_class(config), processor


def _minicpm_v_4_6(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    return _minicpm(MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration, "MiniCPMV4_6Processor", layers, text)


def _minicpm_v_4_7(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    return _minicpm(MiniCPMV4_7Config, MiniCPMV4_7ForConditionalGeneration, "MiniCPMV4_7Processor", layers, text)


def _cohere2_vision(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    """Sliding and full attention; attention and MLP side by side."""
    marks = {"image_token": "<|IMG_PATCH|>", "boi_token": "<|START_OF_IMG|>", "eoi_token": "<|END_OF_IMG|>"}
    marks |= {"img_line_break_token": "<|IMG_LINE_BREAK|>"}
    specials = ["<PAD>", "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>"]
    specials += ["<|CHATBOT_TOKEN|>", "<|START_RESPONSE|>", *marks.values()]
    names = {"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>", "pad_token": "<PAD>"}
    tokenizer = _tokenizer(specials, "<BOS_TOKEN>", [], **names, extra_special_tokens=marks)
    images = Cohere2VisionImageProcessor(size=SIDES, patch_size=2, max_patches=4)
    processor = Cohere2VisionProcessor(images, tokenizer)
    vision = SiglipVisionConfig(**VISION, num_hidden_layers=1, image_size=SIZE, patch_size=8, vision_use_head=False)
    kinds = ["sliding_attention"] * (layers - 1) + ["full_attention"]
    settings = _text(layers, tokenizer, **{"layer_types": kinds, "sliding_window": 16, "logit_scale": 1.0, **text})
    config = Cohere2VisionConfig(
        vision_config=vision.to_dict(),
        text_config=Cohere2Config(**settings).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        alignment_intermediate_size=32,
        tie_word_embeddings=False,
    )
    return Cohere2VisionForConditionalGeneration(config), processor


BUILDERS: dict[str, Callable[[int, dict[str, Any]], tuple[Any, Any]]] = {
    "llama4": _llama4,
    "lfm2_vl": _lfm2_vl,
    "molmo2": _molmo2,
    "minicpm_v_4_6": _minicpm_v_4_6,
    "minicpm_v_4_7": _minicpm_v_4_7,
    "cohere2_vision": _cohere2_vision,
}
