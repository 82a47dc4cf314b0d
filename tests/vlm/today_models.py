"""Tiny random models of today's families, each of its true class, with its true processor: mixtures of experts, layers that
carry a state, pictures by cross attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLProcessor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
    Glm4vProcessor,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    Glm46VProcessor,
    LlamaConfig,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaProcessor,
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    Ovis2Processor,
    PixtralVisionConfig,
    Qwen2Config,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
    SiglipVisionConfig,
)
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

from vledit.vlm.gemma4 import pictures_of_gemma
from vledit.vlm.mistral3 import MARKS, pictures_of_mistral
from vledit.vlm.processors import for_pictures

from .more_models import gemma_tokenizer
from .qwen_llava_models import SIDES, VISION, _qwen, _text
from .tokens import SIZE, byte_level, qwen_tokenizer

QWEN_VISION = {"hidden_size": 16, "intermediate_size": 32, "depth": 2, "num_heads": 2, "patch_size": 4}
QWEN_VISION |= {"out_hidden_size": 32, "num_position_embeddings": 64}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
DELTA_NET = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
DELTA_NET |= {"head_dim": 8, "partial_rotary_factor": 1.0}


def _hybrid(layers: int) -> list[str]:
    """All but the last layer are gated delta nets."""
    return ["linear_attention"] * (layers - 1) + ["full_attention"]


def _qwen3_5(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    text = {**DELTA_NET, "layer_types": _hybrid(layers), **text}
    processor, shared = _qwen(
        Qwen3VLProcessor, layers, text, patch=4, mrope_interleaved=True, partial_rotary_factor=1.0
    )
    return Qwen3_5ForConditionalGeneration(Qwen3_5Config(vision_config=QWEN_VISION, **shared)), processor


def _qwen3_5_moe(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    text = {**DELTA_NET, **EXPERTS, "shared_expert_intermediate_size": 24, "layer_types": _hybrid(layers), **text}
    processor, shared = _qwen(
        Qwen3VLProcessor, layers, text, patch=4, mrope_interleaved=True, partial_rotary_factor=1.0
    )
    del shared["text_config"]["intermediate_size"]
    return Qwen3_5MoeForConditionalGeneration(Qwen3_5MoeConfig(vision_config=QWEN_VISION, **shared)), processor


def _qwen3_vl_moe(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    text = {"head_dim": 8, **EXPERTS, **text}
    processor, shared = _qwen(Qwen3VLProcessor, layers, text, patch=4, mrope_interleaved=True)
    vision = {**QWEN_VISION, "deepstack_visual_indexes": list(range(min(layers, 2)))}
    return Qwen3VLMoeForConditionalGeneration(Qwen3VLMoeConfig(vision_config=vision, **shared)), processor


def glm_tokenizer() -> Any:
    """As GLM-4's: byte level, the turn of the next speaker ends an answer."""
    marks = ["[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<think>", "</think>", "/nothink"]
    marks += [
        "<|begin_of_image|>",
        "<|end_of_image|>",
        "<|image|>",
        "<|begin_of_video|>",
        "<|end_of_video|>",
        "<|video|>",
    ]
    specials = ["<|endoftext|>", *marks]
    tokenizer = byte_level(specials, None, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    tokenizer.add_tokens(specials, special_tokens=True)
    return tokenizer


def _glm(processor_class: Any, layers: int, text: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    tokenizer = glm_tokenizer()
    limits = {"shortest_edge": 8 * 8 * 2, "longest_edge": 48 * 48 * 2}
    images = Glm4vImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2, size=limits)
    names = {"image_token_id": "<|image|>", "video_token_id": "<|video|>"}
    names |= {"image_start_token_id": "<|begin_of_image|>", "image_end_token_id": "<|end_of_image|>"}
    names |= {"video_start_token_id": "<|begin_of_video|>", "video_end_token_id": "<|end_of_video|>"}
    shared: dict[str, Any] = {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    shared["text_config"] = _text(layers, tokenizer, **{"rope_parameters": rope, "head_dim": 8, **text})
    shared["vision_config"] = {"depth": 1, "hidden_size": 16, "num_heads": 2, "image_size": 32, "patch_size": 4}
    shared["vision_config"] |= {"out_hidden_size": 32, "intermediate_size": 24}
    return for_pictures(processor_class)(images, tokenizer), shared


def _glm4v(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    """What its last layer can say is bounded by a norm; with this vocabulary no token of the tests' answers is out of reach."""
    processor, shared = _glm(Glm4vProcessor, layers, {"vocab_size": len(glm_tokenizer()) + 5, **text})
    return Glm4vForConditionalGeneration(Glm4vConfig(**shared)), processor


def _glm46v(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    processor, shared = _glm(Glm46VProcessor, layers, text)
    parts = {"text_config": {"model_type": "glm4v_text"}, "vision_config": {"model_type": "glm4v_vision"}}
    shared |= {name: {**kind, **shared[name]} for name, kind in parts.items()}
    return Glm46VForConditionalGeneration(Glm46VConfig(**shared)), processor


def _glm4v_moe(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    """The first layer is dense, each other one has routed experts and one that all tokens share."""
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "first_k_dense_replace": 1}
    processor, shared = _glm(Glm4vProcessor, layers, {**experts, **text})
    return Glm4vMoeForConditionalGeneration(Glm4vMoeConfig(**shared)), processor


def mistral_tokenizer() -> Any:
    """As Mistral Small's: byte level, `<s>` starts a text."""
    specials = ["<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", *MARKS.values()]
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = byte_level(specials, "<s>", **names)
    tokenizer.add_tokens(specials, special_tokens=True)
    return tokenizer


def _mistral3(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    tokenizer = mistral_tokenizer()
    images = PixtralImageProcessorPil(size={"longest_edge": 2 * SIZE}, patch_size={"height": 8, "width": 8})
    processor = pictures_of_mistral()(images, tokenizer, patch_size=8, spatial_merge_size=2)
    vision = PixtralVisionConfig(**VISION, num_hidden_layers=1, image_size=2 * SIZE, patch_size=8, head_dim=8)
    language = MistralConfig(**_text(layers, tokenizer, sliding_window=None, head_dim=8, **text))
    config = Mistral3Config(
        vision_config=vision.to_dict(),
        text_config=language.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
    )
    return Mistral3ForConditionalGeneration(config), processor


def _gemma4(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    """Sliding and full attention, an embedding of each token for every layer, capped logits.  The vocabulary: see `_glm4v`."""
    names = {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"}
    tokenizer = gemma_tokenizer(**names)
    tokenizer.add_tokens(["<|turn>", "<turn|>"], special_tokens=True)
    images = Gemma4ImageProcessorPil(patch_size=4, max_soft_tokens=70, pooling_kernel_size=2)
    processor = pictures_of_gemma()(images, tokenizer)
    settings = {"layer_types": ["sliding_attention"] * (layers - 1) + ["full_attention"], "sliding_window": 16}
    settings |= {"head_dim": 8, "global_head_dim": 16, "hidden_size_per_layer_input": 8}
    size = len(tokenizer) + 4
    settings |= {"vocab_size": size, "vocab_size_per_layer_input": size + 1, "final_logit_softcapping": 30.0}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"num_key_value_heads": 2, "head_dim": 8, "patch_size": 4, "pooling_kernel_size": 2}
    vision |= {"position_embedding_size": 64}
    marks = {"image_token_id": "<|image|>", "boi_token_id": "<|image>", "eoi_token_id": "<image|>"}
    config = Gemma4Config(
        text_config=_text(layers, tokenizer, **{**settings, **text}),
        vision_config=vision,
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in marks.items()},
    )
    return Gemma4ForConditionalGeneration(config), processor


def _ovis2(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    marks = ["<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    tokenizer = qwen_tokenizer()
    tokenizer.add_tokens(marks, special_tokens=True)
    images = Ovis2ImageProcessorPil(size=SIDES, crop_to_patches=True, max_patches=4)
    processor = Ovis2Processor(images, tokenizer, image_seq_length=16)
    settings = _text(layers, tokenizer, **text)
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": SIZE, "patch_size": 8, "vocab_size": 24}
    config = Ovis2Config(
        vision_config=vision,
        text_config=Qwen2Config(**settings).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(marks[1:]),
        vocab_size=settings["vocab_size"],
        hidden_size=settings["hidden_size"],
    )
    return Ovis2ForConditionalGeneration(config), processor


def _deepseek_vl(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    specials = ["<start>", "<end>", "<pad>", "<image_placeholder>"]
    names = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": "<pad>", "image_token": "<image_placeholder>"}
    tokenizer = byte_level(specials, "<start>", **names)
    tokenizer.add_tokens(specials, special_tokens=True)
    processor = DeepseekVLProcessor(DeepseekVLImageProcessorPil(size=SIDES, min_size=8), tokenizer, num_image_tokens=16)
    vision = SiglipVisionConfig(**VISION, num_hidden_layers=1, image_size=SIZE, patch_size=8, vision_use_head=False)
    config = DeepseekVLConfig(
        vision_config=vision.to_dict(),
        text_config=LlamaConfig(**{**_text(layers, tokenizer, **text), "max_position_embeddings": 1024}).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
    )
    return DeepseekVLForConditionalGeneration(config), processor


def llama3_tokenizer() -> Any:
    """As Llama 3.2 Vision's: the picture's mark is behind the vocabulary that can be said."""
    specials = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|pad|>",
    ]
    names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<|pad|>"}
    tokenizer = byte_level(specials, "<|begin_of_text|>", **names)
    tokenizer.add_tokens([*specials, "<|python_tag|>", "<|image|>"], special_tokens=True)
    return tokenizer


def _mllama(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    """The middle layer attends to the picture; its gates are open."""
    tokenizer = llama3_tokenizer()
    processor = MllamaProcessor(MllamaImageProcessorPil(size=SIDES, max_image_tiles=4), tokenizer)
    mark = tokenizer.convert_tokens_to_ids("<|image|>")
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_global_layers": 1}
    vision |= {"attention_heads": 2, "image_size": SIZE, "patch_size": 16, "vision_output_dim": 32}
    vision |= {"intermediate_layers_indices": [0], "max_num_tiles": 4}
    settings = {"cross_attention_layers": [1], "vocab_size": mark, **text}
    config = MllamaConfig(
        vision_config=vision, text_config=_text(layers, tokenizer, **settings), image_token_index=mark
    )
    model = MllamaForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if "gate" in name and parameter.ndim == 1:
            torch.nn.init.constant_(parameter, 0.7)
    return model, processor


BUILDERS: dict[str, Callable[[int, dict[str, Any]], tuple[Any, Any]]] = {
    "qwen3_5": _qwen3_5,
    "qwen3_5_moe": _qwen3_5_moe,
    "qwen3_vl_moe": _qwen3_vl_moe,
    "glm4v": _glm4v,
    "glm46v": _glm46v,
    "glm4v_moe": _glm4v_moe,
    "mistral3": _mistral3,
    "gemma4": _gemma4,
    "ovis2": _ovis2,
    "deepseek_vl": _deepseek_vl,
    "mllama": _mllama,
}
