"""The embedded model: EfficientNet-Lite0 → Q-Former with 32 queries → linear projection → Llama (SmolLM2-135M).

A Hugging Face model like any other: `from_pretrained`, `generate`, `get_decoder()`.  Nothing else in the code base knows
that it is special.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationMixin, LlamaForCausalLM, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration import PocketConfig
from .efficientnet import POOLED_CHANNELS, EfficientNetLite0


class PocketQFormer(nn.Module):
    """Learned queries that read the trunk's two feature maps: (B, 112, h, w), (B, 320, h/2, w/2), (B, 1280) → (B, Q, D).

    Each layer is self-attention among queries, cross-attention to the picture, feed-forward; norms come first.  The pooled
    features shift every query from the start: what the published classifier sees need not be found by attention first.

    Last comes a persistent memory (Sukhbaatar et al., 2019): the mean query attends to learned slots, and what they hold is
    added to the first `memory_tokens` queries. Training ties a slot to each concept, so that the language model is shown the
    same thing for the same thing (docs/experiments.md says what that changed); the softmax keeps doubt visible.
    """

    def __init__(self, config: PocketConfig):
        super().__init__()
        size, side = config.qformer_hidden_size, config.image_size // 16
        self.fine = nn.Linear(112, size)
        self.coarse = nn.Linear(320, size)
        self.fine_positions = nn.Parameter(torch.zeros(side * side, size))
        self.coarse_positions = nn.Parameter(torch.zeros((side // 2) ** 2, size))
        self.pooled = nn.Linear(POOLED_CHANNELS, size)
        self.memory_norm = nn.LayerNorm(size)
        self.queries = nn.Parameter(torch.zeros(config.num_query_tokens, size))
        layer = nn.TransformerDecoderLayer(
            size,
            config.qformer_heads,
            config.qformer_intermediate_size,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerDecoder(layer, config.qformer_layers, norm=nn.LayerNorm(size))
        self.memory_tokens = config.memory_tokens
        self.memory_keys = nn.Linear(size, config.memory_slots) if config.memory_slots else None
        self.memory_values = nn.Parameter(torch.zeros(config.memory_slots, config.memory_tokens * size))

    def forward(self, middle: Tensor, last: Tensor, pooled: Tensor) -> Tensor:
        return self.recall(self.read(middle, last, pooled))[0]

    def recall(self, queries: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, Q, D) → the same with what the memory holds added, and the logits over its slots (B, slots)."""
        if self.memory_keys is None:
            return queries, None
        logits = self.memory_keys(queries.mean(1)).float()
        held = logits.softmax(-1).to(queries.dtype) @ self.memory_values
        held = held.unflatten(1, (self.memory_tokens, -1))
        return torch.cat([queries[:, : self.memory_tokens] + held, queries[:, self.memory_tokens :]], dim=1), logits

    def read(self, middle: Tensor, last: Tensor, pooled: Tensor) -> Tensor:
        fine = self.fine(middle.flatten(2).transpose(1, 2)) + self.fine_positions
        coarse = self.coarse(last.flatten(2).transpose(1, 2)) + self.coarse_positions
        memory = self.memory_norm(torch.cat([fine, coarse], dim=1))
        return self.layers(self.queries + self.pooled(pooled)[:, None], memory)


def _contiguous(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The last positions of a batch lie apart in memory: the vocabulary's matrix would be read once for every row."""
    return tuple(one.contiguous() if isinstance(one, Tensor) else one for one in args)


class PocketForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Answers questions about a picture; see `PocketProcessor` for the inputs."""

    config_class = PocketConfig  # type: ignore[assignment]
    config: PocketConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _can_compile_fullgraph = False
    _tied_weights_keys = {"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: PocketConfig):
        super().__init__(config)
        self.vision_model = EfficientNetLite0()
        self.qformer = PocketQFormer(config)
        self.language_projection = nn.Linear(config.qformer_hidden_size, config.text_config.hidden_size)
        self.language_model = LlamaForCausalLM._from_config(config.text_config)
        self.language_model.lm_head.register_forward_pre_hook(_contiguous)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PocketQFormer):
            for parameter in (module.queries, module.fine_positions, module.coarse_positions, module.memory_values):
                nn.init.normal_(parameter, std=0.02)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.lm_head

    def get_decoder(self) -> nn.Module:
        return self.language_model.model

    def get_image_features(self, pixel_values: Tensor, **_: Any) -> Tensor:
        """Pictures (B, 3, S, S) → visual tokens (B, num_query_tokens, text hidden size)."""
        pixel_values = pixel_values.to(self.language_projection.weight.dtype)
        if pixel_values.is_cpu and len(pixel_values) > 1 and not torch.is_grad_enabled():
            # one picture's feature maps fit the processor's caches, those of eight do not
            middle, last = map(torch.cat, zip(*map(self.vision_model, pixel_values.split(1)), strict=True))
        else:
            middle, last = self.vision_model(pixel_values)
        return self.language_projection(self.qformer(middle, last, self.vision_model.pooled(last)))

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Raises: ValueError where the number of placeholders is not that of the visual tokens."""
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        assert inputs_embeds is not None
        if pixel_values is not None:
            if input_ids is None:
                raise ValueError("pixel_values need input_ids: the placeholders say where the picture goes")
            features = self.get_image_features(pixel_values)
            placeholders = input_ids == self.config.image_token_id
            if int(placeholders.sum()) != features.shape[0] * features.shape[1]:
                raise ValueError(
                    f"{int(placeholders.sum())} image placeholders for {features.shape[0]} picture(s) of "
                    f"{features.shape[1]} visual tokens each; write one '<image>' per picture in the text"
                )
            mask = placeholders.unsqueeze(-1).expand_as(inputs_embeds)
            inputs_embeds = inputs_embeds.masked_scatter(mask, features.to(inputs_embeds.dtype))
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids, is_first_iteration=is_first_iteration, **kwargs
        )
        if is_first_iteration or not kwargs.get("use_cache", True):
            inputs["pixel_values"] = pixel_values
        return inputs


AutoConfig.register("vledit_pocket", PocketConfig)
AutoModelForImageTextToText.register(PocketConfig, PocketForConditionalGeneration)
