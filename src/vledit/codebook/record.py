"""An entry as bytes: what the store writes and checks, without pickle.

Tensors are raw little-endian bytes with a manifest (dtype, shape, SHA-256). The manifest and all other fields of an entry
are one JSON text. A digest over everything in the row finds damage that SQLite's own checks cannot see.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import CodebookError, InputError, UnknownNameError
from .entry import KINDS, Entry, LazyTransformation, Transformation
from .scope import Anchors, Scope

if TYPE_CHECKING:
    from torch import Tensor

SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes per number of the dtypes that a codebook holds."""


Progress = Callable[[int, int], None]
"""Called with the number of entries that are done, and of all."""


class Row(NamedTuple):
    """One line of the table `entries`."""

    id: str
    question: str
    answer: str
    site: str
    status: str
    retired_by: str | None
    record: str
    thumbnail: bytes | None

    def digest(self) -> bytes:
        """SHA-256 over all columns."""
        picture = None if self.thumbnail is None else hashlib.sha256(self.thumbnail).hexdigest()
        text = json.dumps([*self[:-1], picture], ensure_ascii=True)
        return hashlib.sha256(text.encode()).digest()


def check_dtype(dtype: str | None) -> None:
    """Raise UnknownNameError unless `dtype` is None or one that a codebook stores."""
    if dtype is not None and dtype not in SIZES:
        raise UnknownNameError("dtype", dtype, SIZES)


def reads_elsewhere(entry: Entry) -> bool:
    """Whether the entry's keys are read at another site than it acts at."""
    return entry.key_site != entry.site


def pack(entry: Entry, dtype: str | None = None) -> tuple[Row, dict[str, bytes]]:
    """Return the row of `entry` and the bytes of its tensors by part name.

    Args:
        dtype: what the transformation is stored as ("bfloat16", ...); None keeps its bits. Keys stay float32.
    Raises: InputError where a number is not finite, or not any more in `dtype`.
    """
    parts: dict[str, bytes] = {}
    scopes = []
    for number, scope in enumerate(entry.scopes):
        data = parts[f"key/{number}"] = scope.key.astype("<f4").tobytes()
        scopes.append(
            {
                "name": scope.name,
                "radius": scope.radius,
                "distance": scope.distance,
                "key_tokens": scope.key_tokens,
                "alpha": scope.alpha,
                "prompt": scope.prompt,
                **({"crowd": scope.crowd} if scope.crowd else {}),
                **_recorded(scope.anchors),
                "key": _manifest("float32", [scope.width], data),
            }
        )
    tensors: dict[str, Any] = {}
    for name, tensor in entry.transformation.tensors().items():
        stored, data = _bytes_of(tensor, dtype, f"entry '{entry.id}', {name}")
        parts[f"transformation/{name}"] = data
        tensors[name] = _manifest(stored, list(tensor.shape), data)
    record = {
        "image_key": entry.image_key,
        "parent": entry.parent,
        "created": entry.created,
        "notes": entry.notes,
        "scopes": scopes,
        "transformation": {"kind": entry.transformation.kind, "tensors": tensors},
        **({"key_site": entry.key_site} if reads_elsewhere(entry) else {}),
    }
    text = json.dumps(record, ensure_ascii=False, sort_keys=True, allow_nan=False)
    row = Row(entry.id, entry.question, entry.answer, entry.site, entry.status, entry.retired_by, text, entry.thumbnail)
    return row, parts


def _recorded(anchors: Anchors | None) -> dict[str, Any]:
    """Anchors as a record holds them.  Without a negative they have a name of their own, which older versions pass over: to them
    the scope has no anchors."""
    if anchors is None or anchors.d_negative is not None:
        return {"anchors": None if anchors is None else asdict(anchors)}
    positive = {name: value for name, value in asdict(anchors).items() if name not in ("negative", "d_negative")}
    return {"anchors": None, "positive": positive}


def _anchors(scope: Mapping[str, Any]) -> Anchors | None:
    """What `_recorded` wrote."""
    if "positive" in scope:
        return Anchors(**scope["positive"], negative="", d_negative=None)
    return None if scope["anchors"] is None else Anchors(**scope["anchors"])


def checked_row(row: Row, digest: bytes) -> Row:
    """Return the row if it is what was written, else raise CodebookError."""
    if row.digest() != digest:
        raise CodebookError(f"entry '{row.id}' is damaged: its digest does not fit.")
    return row


def unpack(
    row: Row, digest: bytes, keys: Mapping[str, bytes], loader: Callable[[Mapping[str, Any]], Transformation]
) -> Entry:
    """Return the entry of `row`; its transformation is loaded by `loader(manifest)` when it is used.

    Raises: CodebookError where the row, or the bytes of a key, are not those that were written.
    """
    checked_row(row, digest)
    try:
        record = json.loads(row.record)
        scopes = tuple(
            Scope(
                name=scope["name"],
                key=np.frombuffer(checked(keys.get(f"key/{number}"), scope["key"], f"key of '{row.id}'"), "<f4"),
                radius=scope["radius"],
                distance=scope["distance"],
                key_tokens=scope["key_tokens"],
                alpha=scope["alpha"],
                prompt=scope["prompt"],
                anchors=_anchors(scope),
                crowd=scope.get("crowd", ()),
            )
            for number, scope in enumerate(record["scopes"])
        )
        manifest = record["transformation"]
        nbytes = sum(one["nbytes"] for one in manifest["tensors"].values())
        return Entry(
            id=row.id,
            question=row.question,
            answer=row.answer,
            site=row.site,
            scopes=scopes,
            transformation=LazyTransformation(manifest["kind"], nbytes, lambda: loader(manifest)),
            image_key=record["image_key"],
            thumbnail=row.thumbnail,
            parent=record["parent"],
            created=record["created"],
            status=row.status,
            retired_by=row.retired_by,
            notes=record["notes"],
            key_site=record.get("key_site", ""),
        )
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CodebookError(f"entry '{row.id}' cannot be read: {error}.") from error


def transformation_of(manifest: Mapping[str, Any], parts: Mapping[str, bytes], id: str) -> Transformation:
    """Return the transformation from its manifest and the bytes of its tensors by part name.

    Raises: CodebookError for a kind that is not known here, and for bytes that are not those that were written.
    """
    kind = KINDS.get(manifest["kind"])
    if kind is None:
        raise CodebookError(
            f"entry '{id}' holds a transformation of kind '{manifest['kind']}', known here are {', '.join(KINDS)}: "
            "install the plug-in or the newer VLEdit that wrote it."
        )
    tensors = {}
    for name, one in manifest["tensors"].items():
        data = checked(parts.get(f"transformation/{name}"), one, f"{name} of '{id}'")
        tensors[name] = _tensor_of(data, one)
    try:
        return kind.from_tensors(tensors)
    except InputError as error:
        raise CodebookError(f"entry '{id}' cannot be read: {error}.") from error


def checked(data: bytes | None, manifest: Mapping[str, Any], what: str) -> bytes:
    """Return `data` if it is what the manifest says, else raise CodebookError."""
    wanted = math.prod(manifest["shape"]) * SIZES.get(manifest["dtype"], -1)
    if data is None or len(data) != wanted or hashlib.sha256(data).hexdigest() != manifest["sha256"]:
        raise CodebookError(f"{what} is damaged: its bytes are not those that were written.")
    return data


def _manifest(dtype: str, shape: list[int], data: bytes) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "nbytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _bytes_of(tensor: Tensor, dtype: str | None, what: str) -> tuple[str, bytes]:
    import torch

    tensor = tensor.detach().cpu()
    if dtype is not None:
        tensor = tensor.to(getattr(torch, dtype))
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in SIZES:
        raise InputError(f"{what}: dtype {name} cannot be stored; known: {', '.join(SIZES)}.")
    if not bool(tensor.isfinite().all()):
        raise InputError(f"{what}: not finite" + (f" in {dtype}; store it in a wider dtype." if dtype else "."))
    return name, tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _tensor_of(data: bytes, manifest: Mapping[str, Any]) -> Tensor:
    import torch

    dtype = getattr(torch, manifest["dtype"])
    with torch.inference_mode(False):  # it is kept, and may enter a computation with gradient later
        if not data:
            return torch.empty(manifest["shape"], dtype=dtype, device="cpu")
        return torch.frombuffer(bytearray(data), dtype=dtype).reshape(manifest["shape"])
