"""Short forms of keys; the distance between two short forms is never larger than that between the keys themselves.

With orthonormal axes A and a centre c, z(x) = [A (x - c), |x - c - Aᵀ A (x - c)|] is never further from z(y) than x is from y:
along the axes distances are projections, and the rest obeys the triangle inequality.  So a search over z alone excludes keys that
cannot be nearest, at a twentieth of the numbers; the remaining ones are compared in full, and the result is exact.  The axes are
the keys' largest principal directions, in which activations differ most. Keys without such directions are excluded less often,
but never wrongly.
"""

from __future__ import annotations

import numpy as np

from .scope import points

AXES = 64
"""Principal directions that a short form has; widths up to four times as many are kept whole."""
SAMPLE = 512
"""Keys that the directions are taken from, spread evenly."""
BLOCK = 4096
"""Keys that are worked on at a time."""


class Sketch:
    """Maps keys to their short forms.

    Args:
        keys: (N, D) float32, for the centre and the axes.
        kind: "euclidean" or "cosine".
        short: whether to shorten at all; else z(x) = x - c.
    """

    def __init__(self, keys: np.ndarray, kind: str, short: bool):
        self.kind = kind
        some = points(keys[np.linspace(0, len(keys) - 1, min(len(keys), 8 * SAMPLE)).astype(int)], kind)
        # a number of float32, so that subtracting it rounds once
        with np.errstate(all="ignore"):
            self.centre = np.nan_to_num(some.mean(0).astype(np.float32), posinf=0.0, neginf=0.0).astype(np.float64)
        self.axes = None
        if short and keys.shape[1] > 4 * AXES:
            self.axes = _principal(some[:: max(1, len(some) // SAMPLE)] - self.centre)

    @property
    def width(self) -> int | None:
        """Length of a short form; None: that of the key."""
        return None if self.axes is None else len(self.axes) + 1

    def of(self, keys: np.ndarray) -> np.ndarray:
        """(n, D) `points` in float64 → (n, width) float64."""
        shifted = keys - self.centre
        if self.axes is None:
            return shifted
        along = shifted @ self.axes.T
        rest = np.add.reduce(shifted * shifted, axis=-1) - np.add.reduce(along * along, axis=-1)
        return np.concatenate([along, np.sqrt(np.maximum(rest, 0.0))[:, None]], 1)

    def rounded(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, D) float32 keys → their short forms in float32, and the lengths of these, (n,) float64."""
        with np.errstate(over="ignore", invalid="ignore"):
            short = self.of(points(keys, self.kind)).astype(np.float32)
            return short, np.sqrt(np.add.reduce(short.astype(np.float64) ** 2, axis=-1))

    def state(self) -> dict[str, np.ndarray]:
        """Centre and axes, to be kept beside what was made with them."""
        return {"centre": self.centre} if self.axes is None else {"centre": self.centre, "axes": self.axes}

    @classmethod
    def kept(cls, state: dict[str, np.ndarray], kind: str) -> Sketch:
        """The one of `state`."""
        made = object.__new__(cls)
        made.kind, made.centre, made.axes = kind, state["centre"], state.get("axes")
        return made


def _principal(rows: np.ndarray) -> np.ndarray | None:
    """(AXES, D) orthonormal rows: the largest principal directions; None where there are not as many."""
    if not np.isfinite(rows).all():
        return None
    values, vectors = np.linalg.eigh(rows @ rows.T)
    kept = np.flatnonzero(values > 1e-9 * values[-1])[-AXES:]
    if len(kept) < 8:
        return None
    found = np.linalg.qr((vectors[:, kept].T @ rows).T)[0].T
    return np.ascontiguousarray(found)
