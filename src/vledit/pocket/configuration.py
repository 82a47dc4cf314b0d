"""Configuration of the embedded model."""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig, PreTrainedConfig

IMAGE_TOKEN = "<image>"
IMAGE_TOKEN_ID = 16
"""SmolLM2's vocabulary has special tokens that it never met in chats; `<empty_output>` (16) stands for one visual token."""


class PocketConfig(PreTrainedConfig):
    """Vision trunk → Q-Former → linear projection → Llama: the shape of MiniGPT-4, small enough to train on a laptop.

    Args:
        text_config: the language model's configuration.
        image_size: side of the square input picture, in pixels.
        num_query_tokens: visual tokens per picture (32, as BLIP-2 and MiniGPT-4 have).
        qformer_hidden_size, qformer_layers, qformer_heads, qformer_intermediate_size: the Q-Former's sizes.
        memory_slots, memory_tokens: what the Q-Former remembers (`PocketQFormer`): slots, visual tokens per slot; 0 for none.
        image_token_id: id of the placeholder that each visual token replaces.
        weights_id: short hash of the trained weights this checkpoint was assembled from, empty for none.
    """

    model_type = "vledit_pocket"
    sub_configs = {"text_config": LlamaConfig}  # type: ignore[assignment]  # noqa: RUF012

    def __init__(
        self,
        text_config: LlamaConfig | dict[str, Any] | None = None,
        image_size: int = 192,
        num_query_tokens: int = 32,
        qformer_hidden_size: int = 384,
        qformer_layers: int = 2,
        qformer_heads: int = 6,
        qformer_intermediate_size: int = 1536,
        memory_slots: int = 0,
        memory_tokens: int = 3,
        image_token_id: int = IMAGE_TOKEN_ID,
        weights_id: str = "",
        **kwargs: Any,
    ):
        if isinstance(text_config, dict):
            text_config = LlamaConfig(**text_config)
        self.text_config = text_config if text_config is not None else LlamaConfig()
        self.image_size = image_size
        self.num_query_tokens = num_query_tokens
        self.qformer_hidden_size = qformer_hidden_size
        self.qformer_layers = qformer_layers
        self.qformer_heads = qformer_heads
        self.qformer_intermediate_size = qformer_intermediate_size
        self.memory_slots = memory_slots
        self.memory_tokens = memory_tokens
        self.image_token_id = image_token_id
        self.weights_id = weights_id
        kwargs.setdefault("tie_word_embeddings", True)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            kwargs.setdefault(name, getattr(self.text_config, name))
        super().__init__(**kwargs)
