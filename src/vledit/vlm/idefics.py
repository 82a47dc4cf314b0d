"""Idefics3 and SmolVLM: SigLIP, pixel shuffle, one linear projection, and a Llama (Llama 3 or SmolLM2).

A picture is scaled up and cut into tiles; each tile is written as a fake token, its place (`<row_1_col_1>`) and its visual
tokens, and a small copy of the whole picture follows (`<global-img>`).  Pixels have five dimensions: row, tile, colour,
height, width.  Rows with fewer tiles are filled up with tiles that are 0 everywhere, which the model finds and drops.
(A real tile is never 0 everywhere: normalised, no grey of 8 bits is exactly 0.)

The first SmolVLM are `Idefics3ForConditionalGeneration` with a SmolLM2, whose start token is part of the prompt's template;
Llama 3's tokenizer puts its own.  SmolVLM2 has classes of its own, with videos.

The papers do not use these families.  Site: the last layer's `mlp.out`, as for BLIP-2; α: MiniGPT-4's, not chosen for these
families (`vledit choose-alpha` does).
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

from .families import Family
from .processors import picture_loader
from .published import COUNTED, Published
from .site import Site

END = "<end_of_utterance>"
PROMPT = f"User:{{image}}{{question}}{END}\nAssistant:"
TEXT_PROMPT = f"User: {{question}}{END}\nAssistant:"  # the template's blank depends on what comes first
START = "<|im_start|>"


def _with_start_token(model: Any, processor: Any) -> Family:
    """Idefics3 itself, or one of the first SmolVLM, told by the tokenizer."""
    return FIRST_SMOLVLM if processor.tokenizer.bos_token == START else IDEFICS3


def _load_smolvlm(source: str, config: Any) -> Any:
    """The processor wants a package that spells numbers, `num2words`; it does so for videos only."""
    module: Any = import_module("transformers.models.smolvlm.processing_smolvlm")
    module.num2words = module.num2words or str
    return picture_loader("SmolVLMProcessor")(source, config)


# fmt: off
# hub id, parameters, hidden, intermediate, layers, vocabulary, visual tokens
PUBLISHED_IDEFICS3 = (
    Published("HuggingFaceM4/Idefics3-8B-Llama3", 8_462_086_384, 4096, 14336, 32, 128259, 2873,
              linear=7_409_266_688, kv_width=1024, source=COUNTED),
    Published("HuggingFaceTB/SmolVLM-256M-Instruct", 256_484_928, 576, 1536, 30, 49280, 1088,
              linear=198_180_864, kv_width=192, source=COUNTED),
    Published("HuggingFaceTB/SmolVLM-500M-Instruct", 507_482_304, 960, 2560, 32, 49280, 1088,
              linear=411_303_936, kv_width=320, source=COUNTED),
    Published("HuggingFaceTB/SmolVLM-Instruct", 2_246_272_880, 2048, 8192, 24, 49155, 1377,
              linear=2_042_916_864, kv_width=2048, source=COUNTED),
)
PUBLISHED_SMOLVLM = (
    Published("HuggingFaceTB/SmolVLM2-256M-Video-Instruct", 256_484_928, 576, 1536, 30, 49280, 1088,
              linear=198_180_864, kv_width=192, source=COUNTED),
    Published("HuggingFaceTB/SmolVLM2-500M-Video-Instruct", 507_482_304, 960, 2560, 32, 49280, 1088,
              linear=411_303_936, kv_width=320, source=COUNTED),
    Published("HuggingFaceTB/SmolVLM2-2.2B-Instruct", 2_246_784_880, 2048, 8192, 24, 49280, 1377,
              linear=2_042_916_864, kv_width=2048, source=COUNTED),
)
# fmt: on

IDEFICS3 = Family(
    name="idefics3",
    title="Idefics3, SmolVLM 1",
    model_types=(("idefics3", "llama"),),
    model_class="transformers:Idefics3ForConditionalGeneration",
    prompt=PROMPT,
    text_prompt=TEXT_PROMPT,
    image_token="<image>",
    answer_prefix=" ",
    end_token=END,
    default_site=Site(-1, "mlp.out"),
    default_alpha=0.2,
    checkpoints={
        "idefics3-8b": "HuggingFaceM4/Idefics3-8B-Llama3",
        "smolvlm-256m": "HuggingFaceTB/SmolVLM-256M-Instruct",
        "smolvlm-500m": "HuggingFaceTB/SmolVLM-500M-Instruct",
        "smolvlm-2.2b": "HuggingFaceTB/SmolVLM-Instruct",
    },
    published=PUBLISHED_IDEFICS3,
    vision_sites=("model.connector.modality_projection.proj",),
    complete=_with_start_token,
)

FIRST_SMOLVLM = replace(IDEFICS3, prompt=START + PROMPT, text_prompt=START + TEXT_PROMPT)

SMOLVLM = replace(
    FIRST_SMOLVLM,
    name="smolvlm",
    title="SmolVLM2",
    model_types=(("smolvlm", "llama"),),
    model_class="transformers:SmolVLMForConditionalGeneration",
    checkpoints={
        "smolvlm2-256m": "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
        "smolvlm2-500m": "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        "smolvlm2-2.2b": "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    },
    published=PUBLISHED_SMOLVLM,
    complete=None,
    load_processor=_load_smolvlm,
)
