"""`Encoded` and `Trunk`: a batch of prompts on the model's device, before and after the frozen layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .prompts import Prompt


def _tree_rows(value: Any, rows: Tensor, batch: int) -> Any:
    """Picks rows out of every tensor of `value` whose first dimension is the batch."""
    if isinstance(value, Tensor):
        return value[rows.to(value.device)] if value.ndim and value.shape[0] == batch else value
    if isinstance(value, tuple | list):
        return type(value)(_tree_rows(part, rows, batch) for part in value)
    if isinstance(value, dict):
        return {name: _tree_rows(part, rows, batch) for name, part in value.items()}
    return value


@dataclass
class Encoded:
    """A batch of prompts, with the answers to be scored where there are any. Rows are padded on the LEFT.

    Attributes:
        model_inputs: input_ids, attention_mask, position_ids, each (B, T); and, where a row has a picture, pixel_values
            (n_pictures, ...) in the order of the rows that have one. `model(**model_inputs)` takes them as they are.
        prompt_mask: (B, T) bool, all tokens of the prompt: visual, question and template; never answer or padding.
        visual_mask: (B, T) bool, the picture's placeholder tokens.
        question_mask: (B, T) bool, tokens that overlap the text of the question itself.
        answer_mask: (B, T) bool, the answer's tokens and the end of the answer (EOS); all False for prompts only.
        has_image: (B,) bool.
    """

    model_inputs: dict[str, Tensor]
    prompt_mask: Tensor
    visual_mask: Tensor
    question_mask: Tensor
    answer_mask: Tensor
    has_image: Tensor

    def __len__(self) -> int:
        return self.prompt_mask.shape[0]

    @property
    def input_ids(self) -> Tensor:
        """(B, T) int64."""
        return self.model_inputs["input_ids"]

    @property
    def attention_mask(self) -> Tensor:
        """(B, T) int64: 1 for tokens, 0 for padding."""
        return self.model_inputs["attention_mask"]

    @property
    def predict_mask(self) -> Tensor:
        """(B, T) bool: the positions whose logits predict the answer's tokens (one to the left of each)."""
        mask = torch.zeros_like(self.answer_mask)
        mask[:, :-1] = self.answer_mask[:, 1:]
        return mask

    @property
    def last_prompt_mask(self) -> Tensor:
        """(B, T) bool: the last prompt token of each row."""
        later = self.prompt_mask.flip(1).cumsum(1).flip(1)
        return self.prompt_mask & (later == 1)

    @property
    def targets(self) -> Tensor:
        """(n,) int64: the answers' tokens, row after row; the order of `logits[predict_mask]`."""
        return self.input_ids[self.answer_mask]

    @property
    def target_rows(self) -> Tensor:
        """(n,) int64: the batch row of each of `targets`."""
        return self.answer_mask.nonzero()[:, 0]

    def select(self, rows: Sequence[int] | Tensor) -> Encoded:
        """The same with only these rows, in this order (padding is kept)."""
        index = torch.as_tensor(rows, dtype=torch.long, device=self.prompt_mask.device)
        inputs = {}
        picture_of_row = self.has_image.cumsum(0) - 1
        pictures = picture_of_row[index][self.has_image[index]]
        for name, value in self.model_inputs.items():
            if name in ("input_ids", "attention_mask", "position_ids"):
                inputs[name] = value[index]
            elif len(pictures):
                inputs[name] = value[pictures]
        return Encoded(
            inputs,
            self.prompt_mask[index],
            self.visual_mask[index],
            self.question_mask[index],
            self.answer_mask[index],
            self.has_image[index],
        )


@dataclass
class Trunk:
    """Everything needed to run decoder layer `layer` and what is above it.

    Attributes:
        layer: index of the decoder layer whose input `hidden` is (0-based, not negative).
        hidden: (B, T, H), no gradient.
        layer_inputs: the keyword arguments that the model passes to its decoder layers (attention mask, position
            embeddings, ...).
        encoded: the batch, for its masks.
    """

    layer: int
    hidden: Tensor
    layer_inputs: dict[str, Any] = field(repr=False)
    encoded: Encoded = field(repr=False)

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def select(self, rows: Sequence[int] | Tensor) -> Trunk:
        """The same with only these rows, in this order."""
        index = torch.as_tensor(rows, dtype=torch.long, device=self.hidden.device)
        return Trunk(
            self.layer, self.hidden[index], _tree_rows(self.layer_inputs, index, len(self)), self.encoded.select(index)
        )


def left_padded(
    prompts: Sequence[Prompt], suffixes: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> Encoded:
    """A batch of tokenised prompts, each with the tokens that follow it; without pixel values."""
    length = max(len(p.ids) + len(s) for p, s in zip(prompts, suffixes, strict=True))
    shape = (len(prompts), length)
    ids = torch.full(shape, pad_id)
    attention = torch.zeros(shape, dtype=torch.long)
    in_prompt, visual, question, answer = (torch.zeros(shape, dtype=torch.bool) for _ in range(4))
    for row, (prompt, suffix) in enumerate(zip(prompts, suffixes, strict=True)):
        end = length - len(suffix)
        start = end - len(prompt.ids)
        ids[row, start:] = torch.tensor([*prompt.ids, *suffix])
        attention[row, start:] = 1
        in_prompt[row, start:end] = True
        visual[row, start:end] = torch.tensor(prompt.visual)
        question[row, start:end] = torch.tensor(prompt.question)
        answer[row, end:] = True
    # explicit, as `generate` has them: Llama would count padding, and a row's numbers would depend on its neighbours
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    inputs = {"input_ids": ids, "attention_mask": attention, "position_ids": positions}
    return Encoded(
        {name: value.to(device) for name, value in inputs.items()},
        prompt_mask=in_prompt.to(device),
        visual_mask=visual.to(device),
        question_mask=question.to(device),
        answer_mask=answer.to(device),
        has_image=visual.any(1).to(device),
    )
