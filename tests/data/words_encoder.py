"""A sentence encoder for tests: texts are near where they share words."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np


class WordsEncoder:
    """Counts words in 64 places; `calls`: every text that was encoded."""

    name, dim, fingerprint = "words", 64, "words-64"

    def __init__(self) -> None:
        self.calls: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.calls += texts
        found = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().strip(" ?.").split():
                found[row, zlib.crc32(word.encode()) % self.dim] += 1
        return found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-9)
