"""Finds the family of a model.  Families of other packages join through the entry point group `vledit.families`."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ..errors import UnfitModelError, UnknownNameError
from .families import Family

_BUILT_IN = {
    "pocket": "vledit.vlm.pocket:FAMILY",
    "blip2": "vledit.vlm.blip2:FAMILY",
    "minigpt4": "vledit.vlm.minigpt4:FAMILY",
    "qwen2_vl": "vledit.vlm.qwen2_vl:FAMILY",
    "qwen2_5_vl": "vledit.vlm.qwen2_5_vl:FAMILY",
    "qwen3_vl": "vledit.vlm.qwen3_vl:FAMILY",
    "qwen3_vl_moe": "vledit.vlm.qwen3_vl_moe:FAMILY",
    "qwen3_5": "vledit.vlm.qwen3_5:DENSE",
    "qwen3_5_moe": "vledit.vlm.qwen3_5:MIXTURE",
    "glm4v": "vledit.vlm.glm4v:GLM4V",
    "glm46v": "vledit.vlm.glm4v:GLM46V",
    "glm4v_moe": "vledit.vlm.glm4v:MIXTURE",
    "llama4": "vledit.vlm.llama4:FAMILY",
    "lfm2_vl": "vledit.vlm.lfm2_vl:FAMILY",
    "molmo2": "vledit.vlm.molmo2:FAMILY",
    "minicpm_v_4_6": "vledit.vlm.minicpm_v:MINICPM_V_4_6",
    "minicpm_v_4_7": "vledit.vlm.minicpm_v:MINICPM_V_4_7",
    "cohere2_vision": "vledit.vlm.cohere2_vision:FAMILY",
    "mistral3": "vledit.vlm.mistral3:FAMILY",
    "gemma4": "vledit.vlm.gemma4:FAMILY",
    "mllama": "vledit.vlm.mllama:FAMILY",
    "ovis2": "vledit.vlm.ovis2:FAMILY",
    "deepseek_vl": "vledit.vlm.deepseek_vl:FAMILY",
    "llava": "vledit.vlm.llava:FAMILY",
    "llava_next": "vledit.vlm.llava_next:FAMILY",
    "llava_onevision": "vledit.vlm.llava_onevision:FAMILY",
    "instructblip": "vledit.vlm.instructblip:FAMILY",
    "idefics3": "vledit.vlm.idefics:IDEFICS3",
    "smolvlm": "vledit.vlm.idefics:SMOLVLM",
    "internvl": "vledit.vlm.internvl:FAMILY",
    "gemma3": "vledit.vlm.gemma3:FAMILY",
    "paligemma": "vledit.vlm.paligemma:FAMILY",
}
GROUP = "vledit.families"


@cache
def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def family_names() -> list[str]:
    """Names of all families, built in and installed."""
    return sorted({*_BUILT_IN, *_installed()})


@cache
def family(name: str) -> Family:
    """The family of that name; only its own file is imported.

    Raises:
        UnknownNameError: there is none; the message suggests the near miss.
    """
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        return getattr(import_module(module), attribute)
    if name in _installed():
        return _installed()[name].load()
    raise UnknownNameError("model family", name, family_names())


def family_of(config: Any) -> Family:
    """The family that covers a Hugging Face config; for models with pictures that none covers, the generic one.

    Raises:
        UnfitModelError: none does, and the config says nothing of pictures; or its language model is an encoder-decoder.
    """
    for name in family_names():
        candidate = family(name)
        if candidate.matches(config):
            return candidate
    text_config = getattr(config, "text_config", None)
    text_type = getattr(text_config, "model_type", "none")
    if getattr(text_config or config, "is_encoder_decoder", False) or getattr(config, "is_encoder_decoder", False):
        raise UnfitModelError(
            f"models of type '{config.model_type}' with a language model of type '{text_type}' are not supported: it is an "
            "encoder-decoder, and edits need one stack of decoder layers that prompt and answer pass. Take a checkpoint "
            "with a decoder alone, e.g. the Vicuna variant of InstructBLIP or the OPT variant of BLIP-2.",
            config.model_type,
        )
    if any(getattr(config, said, None) is not None for said in ("vision_config", "image_token_id")):
        from .generic import GENERIC

        return GENERIC
    raise UnfitModelError(
        f"no family covers models of type '{config.model_type}' with a language model of type '{text_type}', and the "
        "config says nothing of pictures (it has neither vision_config nor image_token_id), so that the generic family cannot "
        "be used either. "
        f"Known families: {', '.join(family_names())}. Add one through the entry point group '{GROUP}'.",
        config.model_type,
    )


def checkpoints() -> dict[str, str]:
    """Short name → Hugging Face id of every published checkpoint that a family names."""
    return {short: hub for name in family_names() for short, hub in family(name).checkpoints.items()}
