"""Nested values with tensors inside ⇄ named tensors and JSON, for what a model passes to its layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class UnstorableError(TypeError):
    """Something in a nested value is neither a tensor nor what JSON holds."""


class Packer:
    """Collects tensors by name; one object that is met twice is stored once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}

    def __call__(self, value: Any) -> Any:
        """JSON for `value`.  Raises: UnstorableError."""
        if isinstance(value, Tensor):
            if id(value) not in self._names:
                self._names[id(value)] = name = f"t{len(self._names)}"
                self.tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {"tensor": self._names[id(value)]}
        if isinstance(value, tuple | list):
            return {"tuple" if isinstance(value, tuple) else "list": [self(part) for part in value]}
        if isinstance(value, dict):
            return {"dict": [[key, self(part)] for key, part in value.items()]}
        if value is None or isinstance(value, bool | int | float | str):
            return {"value": value}
        raise UnstorableError(f"a {type(value).__name__} cannot be stored")


class Unpacker:
    """Gives back what a `Packer` made JSON of.  `place`: what is done with each tensor (`tensor.to(device)`, say)."""

    def __init__(self, tensors: dict[str, Tensor], device: Any):
        self._tensors = {name: tensor.to(device) for name, tensor in tensors.items()}

    def __call__(self, record: Any) -> Any:
        ((kind, content),) = record.items()
        if kind == "tensor":
            return self._tensors[content]
        if kind in ("tuple", "list"):
            parts = [self(part) for part in content]
            return tuple(parts) if kind == "tuple" else parts
        if kind == "dict":
            return {key: self(part) for key, part in content}
        return content
