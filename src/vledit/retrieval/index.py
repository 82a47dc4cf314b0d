"""`Index`: which of many texts is nearest in meaning; exact, in a fixed order, kept on disk."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..data.cache import sha256_bytes, write_atomic
from ..errors import InputError

if TYPE_CHECKING:
    from .encoder import Encoder

FORMAT = 1
SLACK = 1e-4
"""What a similarity in single precision may be off by, and far more: whatever comes so close to the k-th is compared exactly."""


class Encodes(Protocol):
    """What an index asks of an encoder."""

    dim: int
    fingerprint: str

    def encode(self, texts: Sequence[str]) -> np.ndarray: ...


class Index:
    """Texts with their vectors, in the order in which they were added; equal texts stand in it as often as they were added.

    Args:
        encoder: gives unit vectors.
        texts: the first texts.
        file: where the vectors are kept. Those of texts that are in it are taken from there, unless another encoder made
            them; a file that is damaged is written anew.

    Attributes:
        texts: what has been added.
        vectors: (N, dim) float32.
    """

    def __init__(self, encoder: Encoder | Encodes, texts: Sequence[str] = (), file: str | Path | None = None):
        self.encoder = encoder
        self.file = None if file is None else Path(file)
        self.texts: list[str] = []
        self.vectors = np.zeros((0, encoder.dim), np.float32)
        self.encoded = 0
        self.add(texts)

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, texts: Sequence[str]) -> None:
        """Appends texts; only those that are not known yet are encoded (`encoded` counts them), the file is written at the end.

        Raises: InputError where something is no text.
        """
        texts = list(texts)
        if not texts:
            return
        if not all(isinstance(text, str) for text in texts):
            raise InputError("texts: a list of texts is expected.")
        known = dict(zip(self.texts, self.vectors, strict=True))
        if not known:
            known = self._read()
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known |= dict(zip(new, self.encoder.encode(new), strict=True))
        self.encoded += len(new)
        self.vectors = np.concatenate([self.vectors, np.stack([known[text] for text in texts])]).astype(np.float32)
        self.texts += texts
        if self.file is not None and (new or not self.file.exists()):
            self._write()

    # --- searching --------------------------------------------------------------------------------------------------

    def search(
        self, queries: Sequence[str], k: int = 1, among: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest texts of each query, by cosine; of equal ones the first.

        Args:
            among: (N,) or (Q, N) bool, which texts may be found; default: all.

        Returns:
            numbers (Q, k) int64 and similarities (Q, k) float64, falling; where there are fewer than k texts, the rest is
            -1 and -inf.

        Raises: InputError for k below 1, or an `among` of another shape.
        """
        return self.search_vectors(self.encoder.encode(list(queries)), k, among)

    def search_vectors(
        self, queries: np.ndarray, k: int = 1, among: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, for unit vectors (Q, dim)."""
        if k < 1:
            raise InputError(f"k: {k} given; at least 1 is needed.")
        shape = (len(queries), len(self))
        if among is not None and among.shape not in (shape, shape[1:]):
            raise InputError(f"among: shape {among.shape} given; expected {shape[1:]} or {shape}.")
        allowed = np.broadcast_to(np.ones(shape[1], bool) if among is None else among, shape)
        numbers = np.full((len(queries), k), -1, np.int64)
        similarities = np.full((len(queries), k), -np.inf)
        rough = queries.astype(np.float32) @ self.vectors.T
        for row, query in enumerate(queries):
            found, similar = self._nearest(query, rough[row], allowed[row], k)
            numbers[row, : len(found)], similarities[row, : len(found)] = found, similar
        return numbers, similarities

    def _nearest(
        self, query: np.ndarray, rough: np.ndarray, allowed: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """`rough` (N,) tells who comes into question; these are then compared one by one, each in the same way."""
        candidates = np.flatnonzero(allowed)
        if len(candidates) > k:
            values = rough[candidates]
            edge = np.partition(values, len(values) - k)[len(values) - k]
            candidates = candidates[values >= edge - SLACK]
        # a matrix product adds up in an order that depends on the row's place: equal texts would differ in the last bits
        exact = (self.vectors[candidates].astype(np.float64) * query.astype(np.float64)).sum(1)
        order = np.argsort(-exact, kind="stable")[:k]
        return candidates[order], exact[order]

    # --- keeping ----------------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, np.ndarray]:
        """Text → vector of what the file holds; nothing where it is not there, of another encoder, or damaged."""
        from safetensors import SafetensorError, safe_open

        if self.file is None or not self.file.exists():
            return {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, SafetensorError):
            with safe_open(str(self.file), "numpy") as file:
                about = json.loads(file.metadata()["index"])
                vectors = file.get_tensor("vectors")
            texts = about["texts"]
            intact = about["sha256"] == sha256_bytes(vectors.tobytes()) and vectors.shape == (
                len(texts),
                self.encoder.dim,
            )
            if intact and about["format"] == FORMAT and about["encoder"] == self.encoder.fingerprint:
                return dict(zip(texts, vectors, strict=True))
        return {}

    def _write(self) -> None:
        """Keeps one vector per distinct text; what the file holds beside, of the same encoder, stays."""
        from safetensors.numpy import save

        assert self.file is not None
        kept = self._read() | dict(zip(self.texts, self.vectors, strict=True))
        vectors = np.ascontiguousarray(np.stack(list(kept.values())))
        about = {
            "format": FORMAT,
            "encoder": self.encoder.fingerprint,
            "texts": list(kept),
            "sha256": sha256_bytes(vectors.tobytes()),
        }
        write_atomic(self.file, save({"vectors": vectors}, {"index": json.dumps(about, ensure_ascii=False)}))
