"""Random features with a ridge regression on them: a classifier in closed form.

Source: McDonnell et al., RanPAC, NeurIPS 2023, as HICE uses it: h = ReLU(x W) with a fixed random W, scores h W_o with
W_o = (HᵀH + λI)⁻¹ HᵀY.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from ..errors import InputError

STRENGTHS = tuple(10.0**power for power in range(-4, 5))
"""λ is chosen among these."""


def random_matrix(inputs: int, features: int, seed: int) -> np.ndarray:
    """(inputs, features) float32 of independent standard normal numbers, the same for a seed on every machine.

    NumPy keeps the stream of `RandomState` for ever, so the seed alone has to be saved.
    """
    return np.random.RandomState(seed).standard_normal((inputs, features)).astype(np.float32)


def lifted(x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(N, inputs) → (N, features) float64, each row computed alike whatever else is in `x`."""
    rows = [np.maximum(row.astype(np.float32) @ matrix, 0.0) for row in x]
    return np.asarray(rows, np.float64).reshape(len(x), matrix.shape[1])


def ridge(h: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """(N, M), (N, C) → (M, C): the minimiser of ‖H W − Y‖² + strength · ‖W‖².

    Where there are fewer rows than features the equal solution Hᵀ(HHᵀ + λI)⁻¹Y is formed, whose matrix is smaller.
    """
    rows, width = h.shape
    if rows < width:
        return h.T @ np.linalg.solve(h @ h.T + strength * np.eye(rows), y)
    return np.linalg.solve(h.T @ h + strength * np.eye(width), h.T @ y)


def fitted(h: np.ndarray, classes: Sequence[int], seed: int) -> tuple[np.ndarray, dict[float, float]]:
    """(M, 2) weights for two classes, and λ → mean squared error on the fifth of the rows that is held back to choose it.

    The rows are shuffled first, so that the held back fifth is not one kind of record.

    Raises: InputError where one of the classes has no rows.
    """
    if len(set(classes)) < 2:
        raise InputError("cases: the gate needs requests in scope and requests out of scope; one of them has none.")
    y = np.eye(2)[np.asarray(classes)]
    numbers = list(range(len(h)))
    random.Random(f"{seed}/ridge").shuffle(numbers)
    cut = max(1, len(h) * 4 // 5)
    fit, held = numbers[:cut], numbers[cut:] or numbers[:1]
    errors = {
        strength: float(np.square(h[held] @ ridge(h[fit], y[fit], strength) - y[held]).mean()) for strength in STRENGTHS
    }
    best = min(errors, key=lambda strength: (errors[strength], strength))
    return ridge(h, y, best), errors
