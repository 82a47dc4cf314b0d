"""Tokenizers like those of the published models, trained on a few lines."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "Question: What is shown in the picture? Answer: a cat and a dog",
    "###Human: <Img></Img> Which animal is this? ###Assistant: the red fox",
    "user assistant What is the capital of Peru? Lima, of course. Who made this? New York",
    "a golden retriever on the beach, two cups of tea, nothing at all",
]
SIZE = 32
"""Side of the tiny models' pictures, in pixels."""


def byte_level(specials: list[str], start: str | None, **names: str) -> PreTrainedTokenizerFast:
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
    return byte_level(["<pad>", "</s>"], "</s>", bos_token="</s>", eos_token="</s>", pad_token="<pad>")


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
    return byte_level(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"],
        None,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<image>"],
    )


QWEN_SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<image>",
    "<video>",
]


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """As Qwen2's: byte level, no start token, `<|im_end|>` ends a turn."""
    tokenizer = byte_level(QWEN_SPECIALS, None, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_tokens(QWEN_SPECIALS, special_tokens=True)
    return tokenizer


def vicuna_tokenizer() -> PreTrainedTokenizerFast:
    """As LLaVA's: Llama's with `<image>` and `<pad>` added."""
    tokenizer = llama_tokenizer()
    tokenizer.add_tokens(["<image>", "<pad>"], special_tokens=True)
    tokenizer.pad_token = "<pad>"
    return tokenizer
