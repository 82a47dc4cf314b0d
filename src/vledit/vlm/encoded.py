"""`Encoded` and `Trunk`: a batch of prompts on the model's device, before and after the frozen layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .prompt import Prompt
from .surroundings import on_cpu_unless_named

CACHE = "past_key_values"
"""By this name layers are given the cache of keys and values."""


@dataclass
class LayerCall:
    """How the model calls one decoder layer.

    Attributes:
        inputs: keyword arguments beside the hidden states: attention mask, position embeddings, ... They may differ from
            layer to layer (sliding and full attention); what is equal is one object in all.
        added: (B, T, H) what the model adds to the layer's output before anything else sees it (Qwen3-VL's deepstack
            features); None: nothing.
    """

    inputs: dict[str, Any]
    added: Tensor | None = None

    def run(self, layer: nn.Module, hidden: Tensor, cache: Any = None) -> Tensor:
        """The layer, called so: `hidden` (B, T, H) → what enters the next; keys and values go to a cache that is given."""
        hidden = layer(hidden, **(self.inputs if cache is None else {**self.inputs, CACHE: cache}))
        return hidden if self.added is None else hidden + self.added


class _Rows:
    """Picks rows out of everything that has a batch dimension; an object that is shared stays shared."""

    def __init__(self, rows: Tensor, batch: int, length: int):
        self.rows, self.batch, self.length = rows, batch, length
        self._done: dict[int, tuple[Any, Any]] = {}

    def __call__(self, value: Any) -> Any:
        if id(value) not in self._done:
            self._done[id(value)] = (value, self._picked(value))  # the value too: its id must not be given away
        return self._done[id(value)][1]

    def _picked(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            dim = self._batch_dim(value)
            return value if dim is None else value.index_select(dim, self.rows.to(value.device))
        if isinstance(value, tuple | list):
            return type(value)(self(part) for part in value)
        if isinstance(value, dict):
            return {name: self(part) for name, part in value.items()}
        return value

    def _batch_dim(self, value: Tensor) -> int | None:
        """(B, T, ...) or (B, 1, T, T), but (3, B, T, ...) for positions in three dimensions, also where B is 3."""
        shape = value.shape
        if len(shape) >= 3 and shape[0] in (3, 4) and shape[1:3] == (self.batch, self.length):
            return 1
        return 0 if len(shape) and shape[0] == self.batch else None


@dataclass
class Encoded:
    """A batch of prompts, with the answers to be scored where there are any. Rows are padded on the LEFT.

    Attributes:
        model_inputs: input_ids, attention_mask, position_ids, each (B, T) (positions may have more dimensions before
            these), and what else the family has for every token; and, where a row has a picture, pixel_values and the
            like in the order of the rows that have one. `model(**model_inputs)` takes them as they are.
        prompt_mask: (B, T) bool, all tokens of the prompt: visual, question and template; never answer or padding.
        visual_mask: (B, T) bool, the picture's placeholder tokens.
        question_mask: (B, T) bool, tokens that overlap the text of the question itself.
        answer_mask: (B, T) bool, the answer's tokens and the end of the answer (EOS); all False for prompts only.
        has_image: (B,) bool.
        picture_sizes: for those of `model_inputs` that belong to pictures, how much of dimension 0 is each row's.
        pictures, joined: where the model takes pictures in another form (`Family.joined`), they row after row along dimension 0,
            which is what `picture_sizes` then speaks of; and what makes that form of them.
        soft_mask, soft: (B, T) bool and (n, E): tokens of the prompt that have no word and are embedded so, row after row
            (`acting.soft_prompts` puts them in); None: there are none.
    """

    model_inputs: dict[str, Tensor]
    prompt_mask: Tensor
    visual_mask: Tensor
    question_mask: Tensor
    answer_mask: Tensor
    has_image: Tensor
    picture_sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    joined: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None
    soft_mask: Tensor | None = None
    soft: Tensor | None = None

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

    @property
    def picture_inputs(self) -> dict[str, Tensor]:
        """Those of `model_inputs` that belong to pictures."""
        return {name: self.model_inputs[name] for name in self.picture_sizes}

    @on_cpu_unless_named
    def select(self, rows: Sequence[int] | Tensor) -> Encoded:
        """The same with only these rows, in this order (padding is kept)."""
        index = torch.as_tensor(rows, dtype=torch.long, device=self.prompt_mask.device)
        inputs, sizes = {}, {}
        for name, value in self.model_inputs.items():
            if name not in self.picture_sizes:
                inputs[name] = value.index_select(value.ndim - 2, index)
                continue
            value = self.pictures.get(name, value)
            of_row = torch.arange(len(value)).split(self.picture_sizes[name])
            entries = torch.cat([of_row[row] for row in index.tolist()])
            if len(entries):  # by index: joining pieces anew would change the memory layout, and with it the last bits
                inputs[name] = value[entries.to(value.device)]
                sizes[name] = tuple(len(of_row[row]) for row in index.tolist())
        pictures = {name: inputs[name] for name in sizes} if self.joined else {}
        if self.joined and pictures:
            inputs |= self.joined(pictures)
        soft_mask = soft = None
        if self.soft is not None and self.soft_mask is not None:
            soft_mask = self.soft_mask[index]
            parts = self.soft.split(self.soft_mask.sum(1).tolist())
            soft = torch.cat([parts[row] for row in index.tolist()])
        return Encoded(
            inputs,
            self.prompt_mask[index],
            self.visual_mask[index],
            self.question_mask[index],
            self.answer_mask[index],
            self.has_image[index],
            sizes,
            pictures,
            self.joined,
            soft_mask,
            soft,
        )


@dataclass
class Trunk:
    """Everything needed to run decoder layer `layer` and what is above it.

    Attributes:
        layer: index of the decoder layer whose input `hidden` is (0-based, not negative).
        hidden: (B, T, H), no gradient.
        calls: how the model calls decoder layer `layer` and each one above it, lowest first.
        encoded: the batch, for its masks.
    """

    layer: int
    hidden: Tensor
    calls: list[LayerCall] = field(repr=False)
    encoded: Encoded = field(repr=False)

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def call(self, layer: int) -> LayerCall:
        """How the model calls decoder layer `layer` (0-based, not below the trunk's own)."""
        return self.calls[layer - self.layer]

    @on_cpu_unless_named
    def select(self, rows: Sequence[int] | Tensor) -> Trunk:
        """The same with only these rows, in this order."""
        index = torch.as_tensor(rows, dtype=torch.long, device=self.hidden.device)
        pick = _Rows(index, len(self), self.hidden.shape[1])
        calls = [LayerCall(pick(call.inputs), pick(call.added)) for call in self.calls]
        return Trunk(self.layer, self.hidden[index], calls, self.encoded.select(index))


def left_padded(
    prompts: Sequence[Prompt], suffixes: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> Encoded:
    """A batch of tokenised prompts, each with the tokens that follow it; without pixel values."""
    length = max(len(p.ids) + len(s) for p, s in zip(prompts, suffixes, strict=True))
    shape = (len(prompts), length)
    ids = torch.full(shape, pad_id)
    attention = torch.zeros(shape, dtype=torch.long)
    in_prompt, visual, question, answer, soft = (torch.zeros(shape, dtype=torch.bool) for _ in range(5))
    for row, (prompt, suffix) in enumerate(zip(prompts, suffixes, strict=True)):
        end = length - len(suffix)
        start = end - len(prompt.ids)
        ids[row, start:] = torch.tensor([*prompt.ids, *suffix])
        attention[row, start:] = 1
        in_prompt[row, start:end] = True
        visual[row, start:end] = torch.tensor(prompt.visual)
        question[row, start:end] = torch.tensor(prompt.question)
        soft[row, start + prompt.soft_at : start + prompt.soft_at + prompt.n_soft] = True
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
        soft_mask=soft.to(device) if bool(soft.any()) else None,
    )
