"""Tiny random models of every family, with tokenizers trained on a few lines: nothing is downloaded."""

from __future__ import annotations

from functools import cache

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
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

TEXT = [
    "Question: What is shown in the picture? Answer: a cat and a dog",
    "###Human: <Img></Img> Which animal is this? ###Assistant: the red fox",
    "user assistant What is the capital of Peru? Lima, of course. Who made this? New York",
    "a golden retriever on the beach, two cups of tea, nothing at all",
]
QUESTIONS = ["What is shown in the picture?", "Which animal is this?", "Who made this thing here, and what is it for?"]
ANSWERS = ["a cat", "golden retriever", "tea"]
FAMILIES = ("blip2", "minigpt4", "pocket")
QUERY_TOKENS = 4
SIZE = 32


def picture(seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    values = torch.randint(
        0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )
    return Image.fromarray(values.numpy())


def _byte_level(specials: list[str], start: str | None, **names: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    if start:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def opt_tokenizer() -> PreTrainedTokenizerFast:
    """As OPT's: byte level, `</s>` both starts and ends."""
    return _byte_level(["<pad>", "</s>"], "</s>", bos_token="</s>", eos_token="</s>", pad_token="<pad>")


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama's: blanks are `▁`, one of them before the first word, unknown letters spelled in bytes; no pad token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    tokenizer.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=500, special_tokens=specials, max_token_length=8, show_progress=False)
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def pocket_tokenizer() -> PreTrainedTokenizerFast:
    return _byte_level(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"],
        None,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<image>"],
    )


def _lively(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights large enough that the answer depends on the prompt."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            scale = 0.6 if "lm_head" in name or "embed_tokens" in name else 0.25
            torch.nn.init.normal_(parameter, std=scale)
        elif "bias" in name:
            torch.nn.init.normal_(parameter, std=0.05)
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
        num_hidden_layers=1,
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


def build(family: str, layers: int = 3, **text: object) -> VLM:
    """A fresh tiny model; `text` overrides settings of its language model."""
    torch.manual_seed(7)
    common = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4, "max_position_embeddings": 256}
    if family == "blip2":
        tokenizer = opt_tokenizer()
        tokens = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
        settings = {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.1, "vocab_size": len(tokenizer) + 3}
        model, processor = _blip2(OPTConfig(**{**common, **settings, **tokens, **text}), tokenizer)
    elif family == "minigpt4":
        tokenizer = llama_tokenizer()
        tokens = {"bos_token_id": 1, "eos_token_id": 2}
        settings = {"intermediate_size": 48, "vocab_size": len(tokenizer) + 3}
        model, processor = _blip2(LlamaConfig(**{**common, **settings, **tokens, **text}), tokenizer)
    else:
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
            LlamaConfig(**{**common, **settings, **text}),
            image_size=SIZE,
            num_query_tokens=QUERY_TOKENS,
            qformer_hidden_size=16,
            qformer_layers=1,
            qformer_heads=2,
            qformer_intermediate_size=32,
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        )
        model = PocketForConditionalGeneration(config)
        processor = PocketProcessor(PocketImageProcessor(SIZE), tokenizer, QUERY_TOKENS)
    return VLM(_lively(model), processor, registry.family(family), name=f"tiny-{family}")


@cache
def tiny(family: str) -> VLM:
    """The shared one; tests must not change it."""
    return build(family)


class Full:
    """A transformation by a whole weight change, for the tests' own use."""

    def __init__(self, vlm: VLM, site: str, seed: int = 0, scale: float = 0.1):
        linear = vlm.site_module(site)
        generator = torch.Generator().manual_seed(seed)
        self.weight = scale * torch.randn(linear.weight.shape, generator=generator)
        self.bias = scale * torch.randn(linear.weight.shape[0], generator=generator)

    def delta(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias)
