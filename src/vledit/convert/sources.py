"""Where published tensors lie: PyTorch and safetensors files, read one tensor at a time, without running any pickled code."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import InputError, MissingDataError

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE = ("model.safetensors", "pytorch_model.bin")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""safetensors' names of dtypes."""


class Shape(NamedTuple):
    """What is known of a tensor before it is read."""

    size: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.size) * self.dtype.itemsize


class Source:
    """The tensors of one published piece.

    Args:
        name: how reports call it, e.g. "vicuna".
        files: the files that hold its tensors.
        shapes: what every tensor is, by its published name.
        read: name → tensor.
    """

    def __init__(self, name: str, files: list[Path], shapes: Mapping[str, Shape], read: Callable[[str], Tensor]):
        self.name, self.files, self.shapes, self.read = name, files, shapes, read


def open_checkpoint(name: str, path: Path) -> Source:
    """The tensors of one file: a state dictionary, or one under the key "model" as LAVIS and MiniGPT-4 write it.

    Raises:
        MissingDataError: there is no such file, or it is damaged.
        InputError: it holds no tensors, or objects other than tensors and plain data (those are never loaded).
    """
    _require(name, path)
    if path.suffix == ".safetensors":
        return _safetensors(name, [path])
    state = load_plain(name, path)
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]
    return _from_states(name, [path], [state])


def open_folder(name: str, folder: Path) -> Source:
    """The tensors of a Hugging Face folder, from its safetensors files where it has them, else from its `.bin` files.

    Raises:
        MissingDataError: no such folder, no weights in it, or one of its files is missing or damaged.
    """
    if not folder.is_dir():
        raise MissingDataError(f"{name}: there is no folder '{folder}'. Give the folder of a Hugging Face checkpoint.")
    files = _weight_files(name, folder)
    if files[0].suffix == ".safetensors":
        return _safetensors(name, files)
    return _from_states(name, files, [load_plain(name, path) for path in files])


def load_plain(name: str, path: Path) -> Any:
    """What a PyTorch file holds, mapped into memory where its format allows: tensors are read when they are used.

    Only tensors and plain containers are unpickled (`weights_only`): a checkpoint cannot run code here.
    """
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files of before PyTorch 1.6 are no zip archives and cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever the unpickler stumbles over
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MissingDataError(f"{name}: '{path}' cannot be read: {reason}. Get the file again.") from error


def _require(name: str, path: Path) -> None:
    if not path.is_file():
        near = [p.name for p in sorted(path.parent.glob("*.pth"))[:5]] if path.parent.is_dir() else []
        there = f" In that folder: {', '.join(near)}." if near else ""
        raise MissingDataError(f"{name}: there is no file '{path}'.{there}")


def _weight_files(name: str, folder: Path) -> list[Path]:
    for index in INDEXES:
        if (folder / index).is_file():
            try:
                listed = sorted(set(json.loads((folder / index).read_text())["weight_map"].values()))
            except (ValueError, KeyError, AttributeError) as error:
                raise MissingDataError(f"{name}: '{folder / index}' is damaged ({error}). Get it again.") from error
            if gone := [file for file in listed if not (folder / file).is_file()]:
                raise MissingDataError(f"{name}: '{folder}' lacks {', '.join(gone)}. Get the folder again.")
            return [folder / file for file in listed]
    for single in SINGLE:
        if (folder / single).is_file():
            return [folder / single]
    raise MissingDataError(f"{name}: '{folder}' has no weights ({' or '.join(SINGLE)}, whole or in shards).")


def _from_states(name: str, files: list[Path], states: list[Any]) -> Source:
    tensors: dict[str, Tensor] = {}
    for path, state in zip(files, states, strict=True):
        if not isinstance(state, Mapping) or not state:
            raise InputError(f"{name}: '{path}' holds no state dictionary.")
        for key, value in state.items():
            if not isinstance(value, Tensor):
                raise InputError(f"{name}: '{path}' holds '{key}', which is no tensor; is it a whole training state?")
            tensors[str(key)] = value
    shapes = {key: Shape(tuple(value.shape), value.dtype) for key, value in tensors.items()}
    return Source(name, files, shapes, lambda key: tensors[key])


def _safetensors(name: str, files: list[Path]) -> Source:
    where: dict[str, Path] = {}
    shapes: dict[str, Shape] = {}
    for path in files:
        with _opened(name, path) as file:
            for key in file.keys():  # noqa: SIM118  (no iterator of its own)
                part = file.get_slice(key)
                where[key] = path
                shapes[key] = Shape(tuple(part.get_shape()), _DTYPES[part.get_dtype()])

    def read(key: str) -> Tensor:
        with _opened(name, where[key]) as file:
            return file.get_tensor(key)

    return Source(name, files, shapes, read)


@contextlib.contextmanager
def _opened(name: str, path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise MissingDataError(f"{name}: '{path}' cannot be read: {error}. Get the file again.") from error
