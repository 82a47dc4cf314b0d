"""What one edit is: `Entry`, and the transformations that change what a linear site computes.

A transformation turns y = W x + b into y = W x + b + delta(x); W itself is never touched.
Source: BalancEdit, Sec. 3.2 ("Transformations", "Editing Transformations").
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from ..errors import InputError, UnknownNameError
from .scope import Anchors, Scope, _check_text

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

STATUSES = ("active", "retired", "removed")
BY_HAND = "(user)"
"""`retired_by` of an entry that no other entry replaced."""


@runtime_checkable
class Transformation(Protocol):
    """What an editor, the model's head and the store ask of a transformation."""

    @property
    def kind(self) -> str: ...

    @property
    def nbytes(self) -> int: ...

    def delta(self, x: Tensor) -> Tensor: ...

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Transformation: ...

    def tensors(self) -> dict[str, Tensor]: ...


class _Tensors:
    """What all kinds share: they are their tensors, laid out as a file gives them back, so that products have the same bits."""

    def _laid_out(self) -> None:
        for name, tensor in self.tensors().items():
            object.__setattr__(self, name, tensor.contiguous())

    @property
    def kind(self) -> str:
        """Its name in a codebook file, see `KINDS`."""
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name; `from_tensors` takes them back."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Any:
        """Return the same transformation on `device` in `dtype`; None leaves that as it is."""
        moved = {name: tensor.to(device=device, dtype=dtype) for name, tensor in self.tensors().items()}
        return type(self).from_tensors(moved)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Any:
        """Build one from what `tensors` gave.  Raises: InputError for names or shapes that do not fit."""
        try:
            return cls(**tensors)
        except TypeError as error:
            raise InputError(f"{cls.__name__}: tensors {sorted(tensors)} do not fit ({error}).") from error


@dataclass(frozen=True, eq=False)
class FullTransformation(_Tensors):
    """A full fine-tune of the site, as the difference to the base's weights.

    Args:
        weight_delta: (out, in).
        bias_delta: (out,), or None.
    Source: BalancEdit, Eq. 2.
    """

    weight_delta: Tensor
    bias_delta: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.weight_delta.shape)
        if len(shape) != 2:
            raise InputError(f"FullTransformation.weight_delta: shape (out, in) is expected, not {shape}.")
        if self.bias_delta is not None and tuple(self.bias_delta.shape) != shape[:1]:
            wrong = tuple(self.bias_delta.shape)
            raise InputError(f"FullTransformation.bias_delta: shape {shape[:1]} is expected, not {wrong}.")
        self._laid_out()

    @property
    def kind(self) -> str:
        return "full"

    def tensors(self) -> dict[str, Tensor]:
        """Return {"weight_delta": (out, in)[, "bias_delta": (out,)]}."""
        named = {"weight_delta": self.weight_delta}
        return named if self.bias_delta is None else {**named, "bias_delta": self.bias_delta}

    def delta(self, x: Tensor) -> Tensor:
        """Return dW x + db for x (..., in): (..., out), computed in the delta's dtype, returned in x's."""
        y = x.to(self.weight_delta.dtype) @ self.weight_delta.T
        return (y if self.bias_delta is None else y + self.bias_delta).to(x.dtype)


@dataclass(frozen=True, eq=False)
class SpanTransformation(_Tensors):
    """A change of low rank in the span of `inputs`: delta(x) = D (X x), at r * (in + out) numbers.

    Args:
        directions: D (out, r), what each input's neuron writes.
        inputs: X (r, in), what each neuron reads.
    Source: methods.md, section 6: while a site trains its inputs are fixed, so every gradient lies in their span.
    """

    directions: Tensor
    inputs: Tensor

    def __post_init__(self) -> None:
        left, right = tuple(self.directions.shape), tuple(self.inputs.shape)
        if len(left) != 2 or len(right) != 2 or left[1] != right[0]:
            raise InputError(f"SpanTransformation: directions (out, r), inputs (r, in) wanted, not {left}, {right}.")
        self._laid_out()

    @property
    def kind(self) -> str:
        return "span"

    def tensors(self) -> dict[str, Tensor]:
        """Return {"directions": (out, r), "inputs": (r, in)}."""
        return {"directions": self.directions, "inputs": self.inputs}

    def delta(self, x: Tensor) -> Tensor:
        """Return D (X x) for x (..., in): (..., out), computed in the directions' dtype, returned in x's."""
        return ((x.to(self.inputs.dtype) @ self.inputs.T) @ self.directions.T).to(x.dtype)


@dataclass(frozen=True, eq=False)
class NeuronTransformation(_Tensors):
    """ReLU neurons beside a layer: delta(x) = Σ_p relu(k_p·x + b_p) v_p; exactly 0 where none of them is active.

    Args:
        keys: (n, in). biases: (n,). values: (n, out).
        queries: (n, in), the input that each neuron was made for; later edits keep away from these.
    Source: Huang et al., Transformer-Patcher, ICLR 2023, Sec. 3.
    """

    keys: Tensor
    biases: Tensor
    values: Tensor
    queries: Tensor

    def __post_init__(self) -> None:
        shapes = [tuple(one.shape) for one in (self.keys, self.biases, self.values, self.queries)]
        count = shapes[0][:1]
        fit = len(shapes[0]) == len(shapes[2]) == 2 and shapes[1] == count == shapes[2][:1] and shapes[3] == shapes[0]
        if not fit:
            raise InputError(
                f"NeuronTransformation: keys (n, in), biases (n,), values (n, out), queries (n, in) wanted, not {shapes}."
            )
        self._laid_out()

    @property
    def kind(self) -> str:
        return "neurons"

    def tensors(self) -> dict[str, Tensor]:
        """Return {"keys": (n, in), "biases": (n,), "values": (n, out), "queries": (n, in)}."""
        return {"keys": self.keys, "biases": self.biases, "values": self.values, "queries": self.queries}

    def activations(self, x: Tensor) -> Tensor:
        """k·x + b, before the ReLU, for x (..., in): (..., n), in the keys' dtype."""
        return x.to(self.keys.dtype) @ self.keys.T + self.biases

    def delta(self, x: Tensor) -> Tensor:
        """Return Σ relu(k·x + b) v for x (..., in): (..., out), computed in the keys' dtype, returned in x's."""
        return (self.activations(x).clamp(min=0) @ self.values).to(x.dtype)


KINDS: dict[str, type[_Tensors]] = {
    "full": FullTransformation,
    "span": SpanTransformation,
    "neurons": NeuronTransformation,
}
"""Transformations that a codebook can read back; a plug-in may add its own."""


class LazyTransformation:
    """A transformation that stays on disk until it is used; the loader decides how long it is kept in memory."""

    def __init__(self, kind: str, nbytes: int, loader: Callable[[], Transformation]):
        self.kind = kind
        self.nbytes = nbytes
        self._loader = loader

    def load(self) -> Transformation:
        """Return the transformation itself.  Raises: CodebookError where the file is damaged or closed."""
        return self._loader()

    def delta(self, x: Tensor) -> Tensor:
        """As the loaded transformation's."""
        return self.load().delta(x)

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Transformation:
        """Return the loaded transformation on `device` in `dtype`."""
        return self.load().to(device, dtype)

    def tensors(self) -> dict[str, Tensor]:
        """As the loaded transformation's."""
        return self.load().tensors()


def now() -> str:
    """The time as UTC in ISO 8601, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True, eq=False)
class Entry:
    """One edit of a codebook.  Frozen: the codebook replaces it when its status changes.

    Args:
        id: unique within the codebook.
        question, answer: the fact as it was edited in.
        image_key: content hash of the picture, or None for a question without one.
        site: the edited linear layer with its layer counted from 0, e.g. "29.mlp.out".
        scopes: what decides whether it fires; the first is the primary one. BalancEdit has one, "mean".
        transformation: what it does to the site, relative to the *base* (also where it was warm-started).
        thumbnail: JPEG or WebP bytes of the picture, or None; see `make_thumbnail`.
        parent: id of the entry whose transformation training started from, or None.
        created: UTC, ISO 8601.
        status: "active" | "retired" (a newer edit took its place) | "removed" (taken out, can be restored).
        retired_by: id of the entry that took its place, or BY_HAND; kept while that entry is removed.
        notes: anything that JSON can hold.
        key_site: the site whose input the scopes' keys are read from; empty: `site`.
    Raises: InputError that names the field.
    """

    id: str
    question: str
    answer: str
    site: str
    scopes: tuple[Scope, ...]
    transformation: Transformation
    image_key: str | None = None
    thumbnail: bytes | None = field(default=None, repr=False)
    parent: str | None = None
    created: str = field(default_factory=now)
    status: str = "active"
    retired_by: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    key_site: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key_site", self.key_site or self.site)
        for name in ("id", "question", "answer", "site", "key_site"):
            _check_text(f"Entry.{name}", getattr(self, name), empty=name == "question")
        if self.id == BY_HAND or not self.id.isprintable() or len(self.id) > 200:
            raise InputError(f"Entry.id: {self.id!r} is reserved, too long or not printable.")
        for name in ("site", "key_site"):
            if not re.fullmatch(r"[^\s-]\S*", getattr(self, name)):
                raise InputError(
                    f"Entry.{name}: {getattr(self, name)!r} is not like '29.mlp.out' (count the layer from 0, not the end)."
                )
        for name in ("image_key", "parent", "retired_by"):
            if getattr(self, name) is not None:
                _check_text(f"Entry.{name}", getattr(self, name))
        if self.status not in STATUSES:
            raise UnknownNameError("Entry.status", str(self.status), STATUSES)
        object.__setattr__(self, "scopes", tuple(self.scopes))
        if not self.scopes or not all(isinstance(scope, Scope) for scope in self.scopes):
            raise InputError("Entry.scopes: at least one Scope is expected.")
        if len({scope.name for scope in self.scopes}) < len(self.scopes):
            raise InputError(f"Entry.scopes: names must differ, not {[scope.name for scope in self.scopes]}.")
        if not isinstance(self.transformation, Transformation):
            raise InputError(f"Entry.transformation: {type(self.transformation).__name__} is no Transformation.")
        if self.thumbnail is not None and not isinstance(self.thumbnail, bytes):
            raise InputError(f"Entry.thumbnail: bytes or None is expected, not {type(self.thumbnail).__name__}.")
        try:
            datetime.fromisoformat(self.created)
            # a copy as JSON gives it back, so that an entry read from a file equals the one that was written
            object.__setattr__(self, "notes", json.loads(json.dumps(dict(self.notes), allow_nan=False).encode()))
        except (TypeError, ValueError) as error:
            raise InputError(f"Entry.created or Entry.notes: {error}.") from error

    @property
    def key(self) -> np.ndarray:
        """(H,) float32 key of the primary scope."""
        return self.scopes[0].key

    @property
    def radius(self) -> float:
        """Radius of the primary scope, in the unit of `distance`."""
        return self.scopes[0].radius

    @property
    def distance(self) -> str:
        """Distance of the primary scope."""
        return self.scopes[0].distance

    @property
    def key_tokens(self) -> str:
        """Tokens of the primary scope's key."""
        return self.scopes[0].key_tokens

    @property
    def alpha(self) -> float | None:
        """The primary scope's weight between positive and negative."""
        return self.scopes[0].alpha

    @property
    def anchors(self) -> Anchors | None:
        """What the primary scope's radius was measured with."""
        return self.scopes[0].anchors

    @property
    def nbytes(self) -> int:
        """Bytes of what the edit has to keep: keys, transformation, thumbnail."""
        keys = sum(scope.key.nbytes for scope in self.scopes)
        return keys + self.transformation.nbytes + len(self.thumbnail or b"")

    def with_status(self, status: str, retired_by: str | None) -> Entry:
        """Return the same edit with another status."""
        return replace(self, status=status, retired_by=retired_by)

    def title(self) -> str:
        """'question' → 'answer', shortened for one line."""
        return f"'{_short(self.question)}' → '{_short(self.answer)}'"


def make_thumbnail(image: Image, side: int = 96, quality: int = 80) -> bytes:
    """Return `image` as JPEG bytes (a few kB), at most `side` pixels wide and high."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _short(text: str, limit: int = 80) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
