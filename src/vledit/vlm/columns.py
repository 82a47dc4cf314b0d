"""The arguments of decoder layers, column by column: masked for a tree of prompts, and cut out again as ordinary rows.

A decoder layer is given hidden states, masks, positions and other arguments, which differ between families and versions.  Here
only the form of such an argument is known: which of its dimensions are the batch and the columns.  An argument of unknown form
is refused (`UnpackableError`), never guessed at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import VLEditError
from .encoded import Encoded, LayerCall

if TYPE_CHECKING:
    from .base import VLM

MASKED = ("sdpa", "eager")
"""Attention implementations that take a mask of any form, as truth values and as numbers to add."""


class UnpackableError(VLEditError):
    """This model's layers are called with something that cannot be cut into columns."""


@dataclass
class Grown:
    """A batch of rows that went through the trunk.

    Attributes:
        hidden: (B, T, H) what leaves it; calls: how each layer above is called.
        positions: (B, T), or (3, B, T) for models that count in three dimensions.
        cache: keys and values of the layers below, where they are kept.
    """

    hidden: Tensor
    calls: list[LayerCall]
    positions: Tensor
    cache: Any = None


@dataclass(frozen=True)
class Piece:
    """Some columns of one row of a batch."""

    batch: Grown
    row: int
    columns: list[int]


Way = list[Piece]
"""From the root to the last token of a prompt or answer."""


def attention(vlm: VLM) -> str:
    config: Any = vlm.anatomy.decoder.config
    return config._attn_implementation


class Masks:
    """Puts the trees' own attention mask where the model has a causal one."""

    def __init__(self, encoded: Encoded, seen: Tensor, vlm: VLM):
        self.valid, self.seen = encoded.attention_mask.bool(), seen
        self.shape = (self.valid.shape[0], self.valid.shape[1])
        self.as_numbers = attention(vlm) == "eager"
        self.dtype = vlm.dtype
        self._made: dict[Any, Tensor] = {}

    def put_in(self, calls: list[LayerCall]) -> list[LayerCall]:
        return [replace(call, inputs=self._inputs(call.inputs)) for call in calls]

    def _inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if "attention_mask" not in inputs:
            raise UnpackableError("its layers are given no attention mask.")
        for name, value in inputs.items():
            if name != "attention_mask":
                _check_columns(name, value, self.shape)
        return {**inputs, "attention_mask": self._mask(inputs["attention_mask"])}

    def _mask(self, mask: Tensor | None) -> Tensor:
        if mask is None:
            kind: Any = self.dtype if self.as_numbers else torch.bool
        else:
            self._check(mask)
            kind = mask.dtype
        if kind not in self._made:
            self._made[kind] = as_mask(self.seen, kind)
        return self._made[kind]

    def _check(self, mask: Tensor) -> None:
        """What is replaced must be the plain causal mask: a window, or a prompt read in both directions, would be lost."""
        batch, length = self.shape
        if mask.ndim != 4 or mask.shape[-2:] != (length, length) or len(mask) not in (1, batch):
            raise UnpackableError(f"its attention mask has the shape {tuple(mask.shape)}.")
        open_ = mask if mask.dtype == torch.bool else mask == 0
        causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril() & self.valid[:, None, :]
        wrong = (open_[:, 0] != causal) & self.valid[:, :, None]
        if bool(wrong.any()):
            raise UnpackableError("its attention mask is not the causal one.")


def as_mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, Q, K) bool → (B, 1, Q, K): truth values, or numbers to add."""
    if dtype == torch.bool:
        return seen[:, None]
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def _check_columns(name: str, value: Any, shape: tuple[int, int]) -> None:
    """Raises: UnpackableError where it is not known what of a value belongs to which column."""
    if isinstance(value, tuple | list):
        for part in value:
            _check_columns(name, part, shape)
    elif isinstance(value, dict):
        for part in value.values():
            _check_columns(name, part, shape)
    elif isinstance(value, Tensor):
        if batch_dim(value, shape) is None:
            raise UnpackableError(f"its layers are given '{name}' of shape {tuple(value.shape)}.")
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise UnpackableError(f"its layers are given '{name}', a {type(value).__name__}.")


def batch_dim(value: Tensor, shape: tuple[int, int]) -> int | None:
    """0 for (B, T, ...), 1 for (3, B, T, ...): positions in several dimensions; None for another form."""
    if value.ndim >= 3 and value.shape[0] in (3, 4) and tuple(value.shape[1:3]) == shape:
        return 1
    return 0 if value.ndim >= 2 and tuple(value.shape[:2]) == shape else None


class Cut:
    """Ways through trees, laid out as an ordinary batch: left-padded rows of their own.

    Nothing is predicted from an answer's last token, so a way may end before it; in its column the one before it is repeated.

    Args:
        encoded: that batch.
        ways: per row where it comes from.
    """

    def __init__(self, encoded: Encoded, ways: Sequence[Way], vlm: VLM):
        self.encoded, self.vlm, self.ways = encoded, vlm, ways
        self.length = encoded.input_ids.shape[1]
        self.lengths = encoded.attention_mask.sum(1).tolist()
        self._done: dict[tuple[int, ...], Any] = {}
        self._index: dict[int, Tensor] = {}

    def hidden(self) -> Tensor:
        """(B, T, H)."""
        return self.columns([[piece.batch.hidden for piece in way] for way in self.ways])

    def calls(self) -> list[LayerCall]:
        """How the layers above are called for this batch; the mask is the plain causal one."""
        count = len(self.ways[0][0].batch.calls)
        return [
            self._call([[piece.batch.calls[index] for piece in way] for way in self.ways]) for index in range(count)
        ]

    def _call(self, calls: list[list[LayerCall]]) -> LayerCall:
        inputs = {}
        for name, first in calls[0][0].inputs.items():
            values = [[call.inputs[name] for call in way] for way in calls]
            inputs[name] = self._mask(first.dtype) if name == "attention_mask" else self._joined(values)
        if all(call.added is None for way in calls for call in way):
            return LayerCall(inputs)
        added = [
            [
                torch.zeros_like(piece.batch.hidden) if call.added is None else call.added
                for call, piece in zip(of_row, way, strict=True)
            ]
            for of_row, way in zip(calls, self.ways, strict=True)
        ]
        return LayerCall(inputs, self.columns(added))

    def _mask(self, dtype: torch.dtype) -> Tensor:
        key = (hash(dtype),)
        if key not in self._done:
            valid = self.encoded.attention_mask.bool()
            causal = torch.ones(self.length, self.length, dtype=torch.bool, device=valid.device).tril()
            itself = torch.eye(self.length, dtype=torch.bool, device=valid.device)
            self._done[key] = as_mask((causal & valid[:, None, :]) | itself, dtype)
        return self._done[key]

    def _joined(self, values: list[list[Any]]) -> Any:
        """The columns of a value that is given to a layer; one object in all batches' calls stays one object."""
        key = tuple(id(value) for way in values for value in way)
        if key not in self._done:
            first = values[0][0]
            if isinstance(first, Tensor):
                found: Any = self.columns(values)
            elif isinstance(first, tuple | list):
                parts = range(len(first))
                found = type(first)(self._joined([[v[i] for v in way] for way in values]) for i in parts)
            elif isinstance(first, dict):
                found = {name: self._joined([[v[name] for v in way] for way in values]) for name in first}
            else:
                found = first
            self._done[key] = found
        return self._done[key]

    def columns(self, values: Sequence[Sequence[Tensor]]) -> Tensor:
        """Each row's columns of its values, one for each piece of its way: (·, B, T, ...); zeros before a row's first token."""
        grown = self.ways[0][0].batch
        dim = batch_dim(values[0][0], (grown.hidden.shape[0], grown.hidden.shape[1]))
        assert dim is not None, "checked when the trees were run"
        rows = []
        for of_row, way, length in zip(values, self.ways, self.lengths, strict=True):
            parts = [
                value.select(dim, piece.row).index_select(dim, self._columns(piece))
                for value, piece in zip(of_row, way, strict=True)
            ]
            missing = length - sum(part.shape[dim] for part in parts)
            parts += [parts[-1].narrow(dim, -1, 1)] * missing
            shape = parts[0].shape
            empty = parts[0].new_zeros(*shape[:dim], self.length - length, *shape[dim + 1 :])
            rows.append(torch.cat([empty, *parts], dim))
        return torch.stack(rows, dim)

    def _columns(self, piece: Piece) -> Tensor:
        if id(piece) not in self._index:
            self._index[id(piece)] = torch.tensor(piece.columns, device=piece.batch.hidden.device)
        return self._index[id(piece)]
