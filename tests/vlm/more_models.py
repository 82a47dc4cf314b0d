"""Tiny random models of InstructBLIP, Idefics3, SmolVLM, InternVL, Gemma 3 and PaliGemma, each of its true class.

The true processors come with them, those of SmolVLM and InternVL less their part for videos.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    Gemma2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaTokenizer,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVisionConfig,
    LlamaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMProcessor,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm import processing_smolvlm
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from vledit.vlm.processors import for_pictures

from .tokens import SIZE, TEXT, byte_level, llama_tokenizer

TILE_TOKENS = 4
"""Visual tokens of one picture, or of one tile of it, in all of these."""


def _specials(tokenizer: PreTrainedTokenizerFast, tokens: list[str]) -> PreTrainedTokenizerFast:
    tokenizer.add_tokens(tokens, special_tokens=True)
    return tokenizer


def idefics_tokenizer(llama3: bool) -> PreTrainedTokenizerFast:
    """Llama 3's starts every text with a token of its own; SmolLM2's does not, its start token is in the template."""
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    marks = ["<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>", *places]
    if llama3:
        ends = {"eos_token": "<end_of_utterance>", "pad_token": "<|end_of_text|>"}
        specials = ["<|begin_of_text|>", "<|end_of_text|>", *marks]
        return _specials(byte_level(specials, "<|begin_of_text|>", bos_token="<|begin_of_text|>", **ends), specials)
    ends = {"eos_token": "<end_of_utterance>", "pad_token": "<|im_end|>"}
    specials = ["<|im_start|>", "<|im_end|>", *marks]
    return _specials(byte_level(specials, None, bos_token="<|im_start|>", **ends), specials)


def internvl_tokenizer() -> PreTrainedTokenizerFast:
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *names.values(), "<video>"]
    ends = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "video_token": "<video>"}
    return _specials(byte_level(specials, None, **ends, **names), specials)


def gemma_tokenizer(**names: str) -> GemmaTokenizer:
    """As Gemma's: blanks are `▁`, none is put before the first word, unknown letters spelled in bytes."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", *names.values()]
    letters = [f"<0x{i:02X}>" for i in range(256)]
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.normalizer = normalizers.Replace(" ", "▁")
    settings = {"vocab_size": 500, "special_tokens": specials + letters, "max_token_length": 8, "show_progress": False}
    trained.train_from_iterator([*TEXT, "user\n\n\nmodel\n\nuser\nmodel\n"], trainers.BpeTrainer(**settings))
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = GemmaTokenizer(vocab=model["vocab"], merges=merges, add_bos_token=True, **names)
    return _specials(tokenizer, specials)


def qformer_tokenizer() -> PreTrainedTokenizerFast:
    """As BERT's; its vocabulary is fixed, because a trained one comes out differently from one process to another."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({word for line in TEXT for word in re.findall(r"[a-z]+|[^\sa-z]", line.lower())})
    pieces = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys([*specials, *pieces, *words]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _text(layers: int, tokenizer: Any, **changes: Any) -> dict[str, Any]:
    """Settings that all the language models share."""
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


VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
THREE = {**VISION, "num_hidden_layers": 3}
"""Where `ft_v` trains the last three layers."""
GEMMA_TEXT = {"head_dim": 8, "tie_word_embeddings": False}
"""Not tied, as the published ones are: tied and with random weights, they only repeat the last token of the prompt."""
SLIDING = {"sliding_window": 8, "query_pre_attn_scalar": 8}
"""A window shorter than the prompts, so that it matters."""


def _alternating(layers: int) -> list[str]:
    return ["full_attention" if layer % 2 else "sliding_attention" for layer in range(layers)]


def _instructblip(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    images = BlipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    processor = InstructBlipProcessor(images, llama_tokenizer(), qformer_tokenizer(), num_query_tokens=TILE_TOKENS)
    reader = processor.qformer_tokenizer
    qformer = InstructBlipQFormerConfig(**THREE, vocab_size=len(reader), encoder_hidden_size=16)
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(**VISION, image_size=SIZE, patch_size=16).to_dict(),
        qformer_config=qformer.to_dict(),
        text_config=LlamaConfig(**_text(layers, processor.tokenizer, num_key_value_heads=4, **text)).to_dict(),
        num_query_tokens=TILE_TOKENS,
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
    )
    return InstructBlipForConditionalGeneration(config), processor


def _tiled(images: Any) -> Any:
    """As the published settings, scaled down: a square picture becomes 2 × 2 tiles and a small copy of the whole."""
    return images(size={"longest_edge": 2 * SIZE}, max_image_size={"longest_edge": SIZE})


def _idefics3(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    tokenizer = idefics_tokenizer(llama3=True)
    processor = Idefics3Processor(_tiled(Idefics3ImageProcessorPil), tokenizer, image_seq_len=TILE_TOKENS)
    config = Idefics3Config(
        vision_config=Idefics3VisionConfig(**VISION, image_size=SIZE, patch_size=8).to_dict(),
        text_config=LlamaConfig(**_text(layers, tokenizer, **text)).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    return Idefics3ForConditionalGeneration(config), processor


def _smolvlm(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    processing_smolvlm.num2words = processing_smolvlm.num2words or str
    tokenizer = idefics_tokenizer(llama3=False)
    images = _tiled(SmolVLMImageProcessorPil)
    processor = for_pictures(SmolVLMProcessor)(images, tokenizer, None, image_seq_len=TILE_TOKENS)
    config = SmolVLMConfig(
        vision_config=SmolVLMVisionConfig(**VISION, image_size=SIZE, patch_size=8).to_dict(),
        text_config=LlamaConfig(**_text(layers, tokenizer, **text)).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    return SmolVLMForConditionalGeneration(config), processor


def _internvl(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    tokenizer = internvl_tokenizer()
    images = GotOcr2ImageProcessorPil(size={"height": SIZE, "width": SIZE})
    processor = for_pictures(InternVLProcessor)(images, tokenizer, image_seq_length=TILE_TOKENS)
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**VISION, image_size=(SIZE, SIZE), patch_size=(8, 8)).to_dict(),
        text_config=Qwen2Config(**_text(layers, tokenizer, **text)).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=TILE_TOKENS,
        tie_word_embeddings=False,
    )
    return InternVLForConditionalGeneration(config), processor


def _gemma3(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = gemma_tokenizer(**names)
    images = Gemma3ImageProcessorPil(size={"height": SIZE, "width": SIZE})
    processor = Gemma3Processor(images, tokenizer, image_seq_length=TILE_TOKENS)
    settings = {**GEMMA_TEXT, **SLIDING, "layer_types": _alternating(layers), **text}
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(**THREE, image_size=SIZE, patch_size=8).to_dict(),
        text_config=Gemma3TextConfig(**_text(layers, tokenizer, **settings)).to_dict(),
        mm_tokens_per_image=TILE_TOKENS,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
        tie_word_embeddings=False,
    )
    model = Gemma3ForConditionalGeneration(config)
    # as published: the end of the text comes first, though the chat model ends its turns with the other
    model.generation_config.eos_token_id = [
        tokenizer.eos_token_id,
        tokenizer.convert_tokens_to_ids("<end_of_turn>"),
    ]
    return model, processor


def _paligemma(layers: int, text: dict[str, Any], second: bool = False) -> tuple[Any, Any]:
    images = SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    images.image_seq_length = TILE_TOKENS
    processor = PaliGemmaProcessor(images, gemma_tokenizer())
    tokenizer = processor.tokenizer
    if second:
        settings = {**GEMMA_TEXT, **SLIDING, "layer_types": _alternating(layers), **text}
        language = Gemma2Config(**_text(layers, tokenizer, **settings))
    else:
        language = GemmaConfig(**_text(layers, tokenizer, num_key_value_heads=1, **GEMMA_TEXT, **text))
    vision = SiglipVisionConfig(**VISION, image_size=SIZE, patch_size=16, vision_use_head=False)
    config = PaliGemmaConfig(
        vision_config=vision.to_dict(),
        text_config=language.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
        tie_word_embeddings=False,
    )
    return PaliGemmaForConditionalGeneration(config), processor


def _paligemma2(layers: int, text: dict[str, Any]) -> tuple[Any, Any]:
    return _paligemma(layers, text, second=True)


BUILDERS: dict[str, Callable[..., tuple[Any, Any]]] = {
    "instructblip": _instructblip,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "internvl": _internvl,
    "gemma3": _gemma3,
    "paligemma": _paligemma,
    "paligemma2": _paligemma2,
}
"""Row → function(layers, settings of the language model) → model with transformers' own initial weights, processor."""
FAMILIES = tuple(BUILDERS)
