"""Greedy decoding with Hugging Face's `generate`, free of what a checkpoint's generation settings would change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from ..errors import InputError
from .prompts import Prompter


def end_ids(model: Any, causal: Any, tokenizer: Any, taught: str | None = None) -> list[int]:
    """The tokens that end an answer, the one to teach first.

    Args:
        taught: the token to teach where it is not the first of the model's own.

    BLIP-2 OPT ends on a line break that only its language model's settings know of, so those are asked first.
    """
    sources = [
        getattr(causal, "generation_config", None),
        getattr(model, "generation_config", None),
        getattr(model.config, "text_config", None),
        tokenizer,
    ]
    for source in sources:
        found = getattr(source, "eos_token_id", None)
        if found is not None:
            ends = [found] if isinstance(found, int) else list(found)
            first = [] if taught is None else [tokenizer.convert_tokens_to_ids(taught)]
            return [*first, *(end for end in ends if end not in first)]
    raise InputError("processor: its tokenizer has no end token (eos_token); set one.")


def pad_id(tokenizer: Any, ends: list[int]) -> int:
    """The token that fills up short rows; never seen by the model."""
    return ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id


class TextEnd(StoppingCriteria):
    """Stops a row once its text holds the end mark (for families whose answers end in text, not in a token)."""

    def __init__(self, prompter: Prompter, prompt_length: int):
        self.tokenizer = prompter.tokenizer
        self.end = prompter.family.end_of_answer
        self.prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:  # type: ignore[override]
        texts = self.tokenizer.batch_decode(input_ids[:, self.prompt_length :], skip_special_tokens=True)
        return torch.tensor([self.end in text for text in texts], device=input_ids.device)


@contextmanager
def _settings(causal: Any, settings: GenerationConfig) -> Iterator[None]:
    """Puts generation settings in force.

    `generate(generation_config=…)` would fill its gaps from the checkpoint's own settings (a repetition penalty, say),
    and greedy decoding would no longer be what teacher forcing verifies.
    """
    own = causal.generation_config
    causal.generation_config = settings
    try:
        yield
    finally:
        causal.generation_config = own


def greedy(causal: Any, inputs: dict[str, Tensor], prompter: Prompter, max_new_tokens: int) -> list[list[int]]:
    """Greedy continuations of prompts, by row, end tokens and padding included.

    Args:
        inputs: what `causal` is called with, embedded or as ids (`VLM.language_inputs`).
    """
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}; give at least 1.")
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=prompter.end_ids,
        pad_token_id=pad_id(prompter.tokenizer, prompter.end_ids),
    )
    prompt_length = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    criteria = StoppingCriteriaList([TextEnd(prompter, prompt_length)] if prompter.family.end_of_answer else [])
    # without position_ids: `generate` makes them itself, for prompt and answer alike
    given = {name: value for name, value in inputs.items() if name != "position_ids"}
    with _settings(causal, settings):
        tokens = causal.generate(**given, stopping_criteria=criteria)
    return tokens[:, prompt_length:].tolist()
