"""What follows the transformer in a sentence-transformers folder: pooling, dense layers, the prompt put in front."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The flags of a pooling's configuration, in the order in which their results are joined."""

_POOLED = {
    "cls": lambda hidden: hidden[0],
    "max": lambda hidden: hidden.amax(0),
    "mean": lambda hidden: hidden.mean(0),
    "mean_sqrt_len_tokens": lambda hidden: hidden.sum(0) / len(hidden) ** 0.5,
    "lasttoken": lambda hidden: hidden[-1],
}

_ACTIVATIONS = {"Tanh": torch.tanh, "Identity": lambda x: x, "ReLU": torch.relu, "GELU": torch.nn.functional.gelu}


@dataclass(frozen=True)
class Dense:
    """y = act(W x + b)."""

    weight: Tensor
    bias: Tensor | None
    activation: str

    def __call__(self, x: Tensor) -> Tensor:
        return _ACTIVATIONS[self.activation](torch.nn.functional.linear(x, self.weight, self.bias))


@dataclass(frozen=True)
class Modules:
    """Token vectors of one text (T, H) → its vector, before it is scaled to length 1.

    Args:
        transformer: folder of the Hugging Face model.
        max_tokens: None: the model's own limit.
        prompt: what is put in front of every text.
    """

    transformer: Path
    pooling: tuple[str, ...]
    dense: tuple[Dense, ...] = ()
    max_tokens: int | None = None
    prompt: str = ""

    def __call__(self, hidden: Tensor) -> Tensor:
        vector = torch.cat([_POOLED[mode](hidden) for mode in self.pooling])
        for layer in self.dense:
            vector = layer(vector)
        return vector

    def to(self, device: str) -> Modules:
        moved = tuple(
            Dense(d.weight.to(device), None if d.bias is None else d.bias.to(device), d.activation) for d in self.dense
        )
        return replace(self, dense=moved)

    def dim(self, hidden_size: int) -> int:
        """How long a vector is."""
        return len(self.dense[-1].weight) if self.dense else hidden_size * len(self.pooling)

    def describe(self) -> Mapping[str, Any]:
        """For a fingerprint: everything but the transformer itself."""
        return {
            "pooling": list(self.pooling),
            "dense": [[d.activation, list(d.weight.shape), float(d.weight.double().sum())] for d in self.dense],
            "prompt": self.prompt,
        }


def read_modules(folder: Path) -> Modules:
    """The modules of a folder; one without `modules.json` is a plain model, whose token vectors are averaged.

    Raises: InputError for a module that is not known here, or files that cannot be read.
    """
    listed = _json(folder / "modules.json")
    if listed is None:
        return Modules(folder, ("mean",), max_tokens=_max_tokens(folder), prompt=_prompt(folder))
    transformer, pooling, dense = folder, ("mean",), []
    for module in listed:
        kind, path = str(module["type"]).rpartition(".")[2], folder / module.get("path", "")
        if kind == "Transformer":
            transformer = path
        elif kind == "Pooling":
            pooling = _pooling(path)
        elif kind == "Dense":
            dense.append(_dense(path))
        elif kind != "Normalize":
            raise InputError(
                f"encoder: '{folder}' has a module '{kind}'. Known: Transformer, Pooling, Dense, Normalize."
            )
    limit = _max_tokens(transformer)
    return Modules(transformer, pooling, tuple(dense), limit, _prompt(folder))


def _pooling(path: Path) -> tuple[str, ...]:
    config = _json(path / "config.json") or {}
    named = config.get("pooling_mode")
    modes = [named] if isinstance(named, str) else list(named or [])
    modes += [mode for flag, mode in _FLAGS.items() if config.get(flag)]
    modes += [name for name in config if name.startswith("pooling_mode_") and name not in _FLAGS and config[name]]
    unknown = [mode for mode in modes if mode not in _POOLED]
    if unknown:
        raise InputError(f"encoder: '{path}' pools by '{unknown[0]}'. Known: {', '.join(_POOLED)}.")
    return tuple(modes) or ("mean",)


def _dense(path: Path) -> Dense:
    from safetensors.torch import load_file

    config = _json(path / "config.json") or {}
    activation = str(config.get("activation_function", "Identity")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise InputError(f"encoder: '{path}' has the activation '{activation}'. Known: {', '.join(_ACTIVATIONS)}.")
    try:
        tensors = load_file(path / "model.safetensors")
    except OSError as error:
        raise InputError(f"encoder: '{path}' has no model.safetensors; weights in other files are not read.") from error
    return Dense(tensors["linear.weight"].float(), tensors.get("linear.bias"), activation)


def _max_tokens(folder: Path) -> int | None:
    return (_json(folder / "sentence_bert_config.json") or {}).get("max_seq_length")


def _prompt(folder: Path) -> str:
    config = _json(folder / "config_sentence_transformers.json") or {}
    return (config.get("prompts") or {}).get(config.get("default_prompt_name") or "", "")


def _json(path: Path) -> Any:
    """What a JSON file holds, None where there is none.  Raises: InputError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"encoder: '{path}' cannot be read ({error}).") from error
