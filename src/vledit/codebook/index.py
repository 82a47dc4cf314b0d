"""The nearest of many keys, exactly: one float32 matrix product finds the few that can be nearest, float64 decides.

The product |u|² + |t|² - 2 u·t is ill-conditioned, so it is used only for a lower bound that accounts for every
rounding (Higham, Accuracy and Stability of Numerical Algorithms, Sec. 3.1: |fl(u·t) - u·t| <= gamma |u| |t| in any
order of summation).  Keys whose bound does not rule them out are compared by `scope.between`, so the answer and its
bits are those of a full search, whatever the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .scope import between, points

_UNIT = 2.0**-24
"""Unit roundoff of float32."""
_SORTED = 256
"""So many bounds are sorted without looking for one that rules most of them out."""
_ROWS = 128
"""Queries that one matrix product takes."""


class KeyIndex:
    """Keys under handles, with the nearest one to a query; keys come and go without a rebuild.

    Args:
        width: D of every key.
        kind: "euclidean" or "cosine".
    """

    def __init__(self, width: int, kind: str):
        self.width = width
        self.kind = kind
        self.compared = 0
        """How many keys were compared in float64 so far; tests hold this far below a full search."""
        self._slots: dict[str, int] = {}
        self._restart([], 16)

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, handle: str, key: np.ndarray, rank: int) -> None:
        """Add `key` (D,) float32 under `handle`; of keys at the same distance the highest `rank` is nearest."""
        if self._used == len(self._norms):
            self._compact()
        self._put(handle, key, rank)

    def remove(self, handle: str) -> None:
        """Take `handle` out; raises KeyError where it is not in."""
        slot = self._slots.pop(handle)
        self._handles[slot] = None
        self._keys[slot] = None
        self._alive[slot] = False
        if self._used > 64 and len(self._slots) * 2 < self._used:
            self._compact()

    def nearest(
        self,
        queries: np.ndarray,
        accept: Callable[[int, str], bool] | None = None,
        limit: float = math.inf,
    ) -> list[tuple[str | None, float]]:
        """Return (handle, distance) of the nearest key to each query.

        Args:
            queries: (B, D) float32, finite.
            accept: where given, keys for which accept(row, handle) is false do not count.
            limit: keys further away than this need not be found.
        Returns: per row the handle and its distance; (None, inf) where there is none.
        """
        found: list[tuple[str | None, float]] = []
        for start in range(0, len(queries), _ROWS):
            asked = points(queries[start : start + _ROWS], self.kind)
            lower = self._lower_bounds(asked)
            for row in range(len(asked)):
                number = start + row
                accepts = None if accept is None else (lambda handle, number=number: accept(number, handle))
                found.append(self._walk(asked[row], lower[row], accepts, limit))
        return found

    def _walk(
        self, asked: np.ndarray, lower: np.ndarray, accepts: Callable[[str], bool] | None, limit: float
    ) -> tuple[str | None, float]:
        """Compare exactly, in the order of the lower bounds, until no bound can beat the best."""
        best, best_distance, best_rank = None, math.inf, -1
        slots = np.flatnonzero(self._alive[: len(lower)] & (lower <= limit))
        if len(slots) > _SORTED and accepts is None:  # what the likeliest one rules out need not be sorted
            first = slots[np.argmin(lower[slots])]
            near = float(between(points(self._keys[first][None, :], self.kind), asked, self.kind)[0])
            slots = slots[lower[slots] <= near]
        order = slots[np.argsort(lower[slots], kind="stable")]
        start, step = 0, 8
        while start < len(order) and lower[order[start]] <= best_distance:
            slots = order[start : start + step].tolist()
            start, step = start + step, min(2 * step, 1024)
            exact = between(points(np.stack([self._keys[slot] for slot in slots]), self.kind), asked, self.kind)
            self.compared += len(slots)
            for slot, distance in zip(slots, exact.tolist(), strict=True):
                rank = self._ranks[slot]
                if distance > best_distance or (distance == best_distance and rank < best_rank) or distance > limit:
                    continue
                handle = self._handles[slot]
                if accepts is None or accepts(handle):
                    best, best_distance, best_rank = handle, distance, rank
        return best, best_distance

    def _lower_bounds(self, asked: np.ndarray) -> np.ndarray:
        """Return (B, used) float64 bounds: no key is nearer to the query than its bound."""
        rows, norms = self._rows[: self._used], self._norms[: self._used]
        with np.errstate(all="ignore"):  # keys near float32's end overflow: their bound becomes 0, they are compared
            shifted = (asked - self._centre).astype(np.float32)
            own = np.sqrt(np.add.reduce(shifted.astype(np.float64) ** 2, axis=-1))[:, None]
            product = (shifted @ rows.T).astype(np.float64)
            # 2 x for the float64 parts and for tiny numbers; gamma_D = D u / (1 - D u)
            gamma = 2 * self.width * _UNIT / (1 - self.width * _UNIT)
            slack = 2 * gamma * own * norms + 1e-12 * (own + norms) ** 2 + 1e-30
            straight = np.sqrt(np.maximum(own**2 + norms**2 - 2 * product - slack, 0.0))
            straight -= 2 * _UNIT * (own + norms)  # both ends were rounded to float32 after centring
            straight = np.where(np.isfinite(straight), np.maximum(straight, 0.0), 0.0) * (1 - 1e-9)
        return straight if self.kind == "euclidean" else straight**2 / 2

    def _put(self, handle: str, key: np.ndarray, rank: int) -> None:
        slot = self._used
        with np.errstate(over="ignore", invalid="ignore"):
            shifted = (points(key[None, :], self.kind)[0] - self._centre).astype(np.float32)
            self._rows[slot] = shifted
            self._norms[slot] = np.sqrt(np.add.reduce(shifted.astype(np.float64) ** 2))
        self._keys[slot], self._handles[slot], self._ranks[slot] = key, handle, rank
        self._slots[handle], self._alive[slot] = slot, True
        self._used += 1

    def _compact(self) -> None:
        kept = [(handle, self._keys[slot], self._ranks[slot]) for handle, slot in self._slots.items()]
        self._restart(kept, max(16, 2 * len(kept)))

    def _restart(self, kept: list, capacity: int) -> None:
        """Lay the keys out anew around their mean: the nearer to it they lie, the sharper are the bounds."""
        self._centre = np.zeros(self.width)
        if kept:
            for _, key, _ in kept:
                self._centre += points(key[None, :], self.kind)[0] / len(kept)
        self._rows = np.zeros((capacity, self.width), dtype=np.float32)
        self._norms = np.zeros(capacity)
        self._alive = np.zeros(capacity, dtype=bool)
        self._keys: list = [None] * capacity
        self._handles: list = [None] * capacity
        self._ranks: list = [0] * capacity
        self._slots, self._used = {}, 0
        for handle, key, rank in kept:
            self._put(handle, key, rank)
