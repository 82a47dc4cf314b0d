"""Tiny random models of every family, with tokenizers trained on a few lines: nothing is downloaded."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from PIL import Image
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from vledit.vlm import VLM, registry

from . import more_models, qwen_llava_models, tiled_models, today_models
from .tokens import SIZE, TEXT, llama_tokenizer, opt_tokenizer, pocket_tokenizer

__all__ = ["SIZE", "TEXT", "llama_tokenizer", "opt_tokenizer", "pocket_tokenizer"]

QUESTIONS = ["What is shown in the picture?", "Which animal is this?", "Who made this thing here, and what is it for?"]
ANSWERS = ["a cat", "golden retriever", "tea"]
TODAY = {**today_models.BUILDERS, **tiled_models.BUILDERS}
BUILDERS = {**qwen_llava_models.BUILDERS, **more_models.BUILDERS, **TODAY}
FAMILIES = ("blip2", "minigpt4", "pocket", *BUILDERS)
FIRST = tuple(name for name in FAMILIES if name not in TODAY)
"""Those that all tests of this folder run on; the others have tests of their own (`test_today_families`) and the contract."""
QUERY_TOKENS = 4


def picture(seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    values = torch.randint(
        0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )
    return Image.fromarray(values.numpy())


_BOUNDS = ("post_feedforward_layernorm.weight", "post_mlp_layernorm.weight")
"""The norms of what an MLP gives, as Gemma and GLM call them, bound what it can say; trained ones leave it room."""


def _lively(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights large enough that the answer depends on the prompt."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            scale = 0.6 if "lm_head" in name or "embed_tokens" in name else 0.25
            scale = 0.1 if "linear_attn" in name else scale  # a delta net's state would blow rounding up
            torch.nn.init.normal_(parameter, std=scale)
        elif "bias" in name:
            torch.nn.init.normal_(parameter, std=0.05)
        elif name.endswith(_BOUNDS):
            torch.nn.init.constant_(parameter, 20.0)
    return model


def _blip2(
    text_config: LlamaConfig | OPTConfig, tokenizer: PreTrainedTokenizerFast
) -> tuple[torch.nn.Module, Blip2Processor]:
    processor = Blip2Processor(
        BlipImageProcessorPil(size={"height": SIZE, "width": SIZE}), tokenizer, num_query_tokens=QUERY_TOKENS
    )
    vision = Blip2VisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=SIZE, patch_size=16
    )
    qformer = Blip2QFormerConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        encoder_hidden_size=16,
        vocab_size=8,
    )
    config = Blip2Config(
        vision_config=vision.to_dict(),
        qformer_config=qformer.to_dict(),
        text_config=text_config.to_dict(),
        num_query_tokens=QUERY_TOKENS,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return Blip2ForConditionalGeneration(config), processor


def _pocket(text: dict[str, Any]) -> tuple[Any, Any]:
    from vledit.pocket.configuration import PocketConfig
    from vledit.pocket.modeling import PocketForConditionalGeneration
    from vledit.pocket.processing import PocketImageProcessor, PocketProcessor

    tokenizer = pocket_tokenizer()
    settings = {
        "intermediate_size": 48,
        "vocab_size": len(tokenizer) + 3,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
        "bos_token_id": 1,
        "pad_token_id": 2,
    }
    config = PocketConfig(
        LlamaConfig(**{**settings, **text}),
        image_size=SIZE,
        num_query_tokens=QUERY_TOKENS,
        qformer_hidden_size=16,
        qformer_layers=2,
        qformer_heads=2,
        qformer_intermediate_size=32,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return PocketForConditionalGeneration(config), PocketProcessor(PocketImageProcessor(SIZE), tokenizer, QUERY_TOKENS)


def parts(family: str, layers: int = 3, **text: Any) -> tuple[Any, Any]:
    """A model with transformers' own initial weights, and its true processor; `text` changes its language model."""
    torch.manual_seed(7)
    if family in BUILDERS:
        return BUILDERS[family](layers, text)
    common = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4, "max_position_embeddings": 256}
    if family == "blip2":
        tokenizer = opt_tokenizer()
        tokens = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
        settings = {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.1, "vocab_size": len(tokenizer) + 3}
        return _blip2(OPTConfig(**{**common, **settings, **tokens, **text}), tokenizer)
    if family == "minigpt4":
        tokenizer = llama_tokenizer()
        tokens = {"bos_token_id": 1, "eos_token_id": 2}
        settings = {"intermediate_size": 48, "vocab_size": len(tokenizer) + 3}
        return _blip2(LlamaConfig(**{**common, **settings, **tokens, **text}), tokenizer)
    return _pocket({**common, **text})


def build(family: str, layers: int = 3, **text: Any) -> VLM:
    """A fresh tiny model; `text` overrides settings of its language model."""
    model, processor = parts(family, layers, **text)
    return VLM(_lively(model), processor, registry.family_of(model.config), name=f"tiny-{family}")


@cache
def tiny(family: str) -> VLM:
    """The shared one; tests must not change it."""
    return build(family)


class Full:
    """A transformation by a whole weight change, for the tests' own use."""

    def __init__(self, vlm: VLM, site: str, seed: int = 0, scale: float = 0.1):
        linear = vlm.site_module(site)
        generator = torch.Generator().manual_seed(seed)
        dtype = linear.weight.dtype
        self.weight = scale * torch.randn(linear.weight.shape, generator=generator).to(dtype)
        self.bias = scale * torch.randn(linear.weight.shape[0], generator=generator).to(dtype)

    def delta(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias)
