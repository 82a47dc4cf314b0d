"""The nearest of many keys, exactly: one float32 product over their short forms finds the few that can be nearest, float64
decides.

The product |u|² + |t|² - 2 u·t is ill-conditioned, so it is used only for a lower bound that accounts for every
rounding (Higham, Accuracy and Stability of Numerical Algorithms, Sec. 3.1: |fl(u·t) - u·t| <= gamma |u| |t| in any
order of summation).  Keys whose bound does not rule them out are compared by `scope.between`, so the answer and its
bits are those of a full search, whatever the batch.  No approximate index is needed: see docs/performance.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import numpy as np

from .scope import between, points
from .sketch import BLOCK, Sketch

_UNIT = 2.0**-24
"""Unit roundoff of float32."""
_SORTED = 256
"""So many bounds are sorted without looking for one that rules most of them out."""
_ROWS, _BOUNDS = 128, 1 << 24
"""Queries that one matrix product takes, and at most so many bounds with them."""
_SHORT = 2048
"""From so many keys on they are searched by their short forms."""
_STRETCH = 32_768
"""Bounds that are worked out at a time: they stay in the processor's cache."""


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
        self._handles: list[str | None] = []
        self._keys = np.empty((16, width), dtype=np.float32)
        self._ranks = np.empty(16, dtype=np.int64)
        self._alive = np.zeros(16, dtype=bool)
        self._sketch: Sketch | None = None
        self._sketched_for = 0  # keys that were there when the sketch was made
        self._short = np.empty((0, 0), dtype=np.float32)
        self._norms = np.empty(0)
        self._done = 0  # slots whose short form is there

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def _used(self) -> int:
        return len(self._handles)

    @property
    def _centre(self) -> np.ndarray:
        return self._ready().centre

    def add(self, handle: str, key: np.ndarray, rank: int) -> None:
        """Add `key` (D,) float32 under `handle`; of keys at the same distance the highest `rank` is nearest."""
        slot = self._used
        if slot == len(self._keys):
            self._keys, self._ranks, self._alive = map(_doubled, (self._keys, self._ranks, self._alive))
        self._keys[slot], self._ranks[slot], self._alive[slot] = key, rank, True
        self._handles.append(handle)
        self._slots[handle] = slot

    def remove(self, handle: str) -> None:
        """Take `handle` out; raises KeyError where it is not in."""
        slot = self._slots.pop(handle)
        self._handles[slot] = None
        self._alive[slot] = False
        if self._used > 64 and len(self._slots) * 2 < self._used:
            self._compact()

    def newest(self, exclude: Collection[str] = ()) -> tuple[int, str] | None:
        """Return (rank, handle) of the key with the highest rank; None where there is none."""
        alive = np.flatnonzero(self._alive[: self._used])
        for slot in alive[np.argsort(-self._ranks[alive], kind="stable")].tolist():
            if (handle := self._handle(slot)) not in exclude:
                return int(self._ranks[slot]), handle
        return None

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
        rows = max(1, min(_ROWS, _BOUNDS // max(1, self._used)))
        for start in range(0, len(queries), rows):
            asked = points(queries[start : start + rows], self.kind)
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
        slots = np.flatnonzero(lower <= limit)  # what is gone has no bound (inf)
        bounds = lower[slots]
        if not math.isfinite(limit):
            kept = np.isfinite(bounds)
            slots, bounds = slots[kept], bounds[kept]
        if len(slots) > _SORTED and accepts is None:  # what the likeliest ones rule out need not be sorted
            slots, bounds = self._ruled_out(asked, slots, bounds)
            if len(slots) > _SORTED and self._ready().axes is not None:
                slots, bounds = self._ruled_out(asked, slots, self._whole_bounds(asked, slots))
        order = np.argsort(bounds, kind="stable")
        slots, bounds = slots[order], bounds[order]
        start, step = 0, 8
        while start < len(slots) and bounds[start] <= best_distance:
            some = slots[start : start + step]
            start, step = start + step, min(2 * step, 1024)
            for slot, distance in zip(some.tolist(), self._exact(asked, some).tolist(), strict=True):
                rank = int(self._ranks[slot])
                if distance > best_distance or (distance == best_distance and rank < best_rank) or distance > limit:
                    continue
                handle = self._handle(slot)
                if accepts is None or accepts(handle):
                    best, best_distance, best_rank = handle, distance, rank
        return best, best_distance

    def _handle(self, slot: int) -> str:
        handle = self._handles[slot]
        assert handle is not None
        return handle

    def _exact(self, asked: np.ndarray, slots: np.ndarray) -> np.ndarray:
        self.compared += len(slots)
        return between(points(self._keys[slots], self.kind), asked, self.kind)

    def _ruled_out(self, asked: np.ndarray, slots: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The slots, and their bounds, that some of the likeliest do not rule out."""
        likeliest = slots[np.argpartition(bounds, 8)[:8]] if len(slots) > 8 else slots
        kept = bounds <= self._exact(asked, likeliest).min()
        return slots[kept], bounds[kept]

    def _lower_bounds(self, asked: np.ndarray) -> np.ndarray:
        """Return (B, used) float64 bounds: no key is nearer to the query than its bound; inf where none is there any more."""
        sketch = self._ready()
        with np.errstate(all="ignore"):  # keys near float32's end overflow: their bound becomes 0, they are compared
            short = sketch.of(asked).astype(np.float32)
            found = np.empty((len(asked), self._used))
            for start in range(0, self._used, _STRETCH):
                part = slice(start, min(start + _STRETCH, self._used))
                found[:, part] = self._bounds(short, self._short[part], self._norms[part])
        found[:, ~self._alive[: self._used]] = math.inf
        return found

    def _bounds(self, asked: np.ndarray, rows: np.ndarray, norms: np.ndarray) -> np.ndarray:
        """(B, n) bounds between float32 rows that were rounded once; `norms`: (n,) float64 of `rows`."""
        own = np.sqrt(np.add.reduce(asked.astype(np.float64) ** 2, axis=-1))[:, None]
        found = (asked @ rows.T).astype(np.float64)
        found *= -2
        found += own**2 + norms**2
        # 2 x for the float64 parts and for tiny numbers; gamma_D = D u / (1 - D u)
        gamma = 2 * rows.shape[1] * _UNIT / (1 - rows.shape[1] * _UNIT)
        found -= 2 * gamma * own * norms + 1e-12 * (own + norms) ** 2 + 1e-30
        np.sqrt(np.maximum(found, 0.0, out=found), out=found)
        found -= 2 * _UNIT * (own + norms)  # both ends were rounded to float32 after centring
        found = np.where(np.isfinite(found), np.maximum(found, 0.0, out=found), 0.0)
        found *= 1 - 1e-9
        return found if self.kind == "euclidean" else found**2 / 2

    def _whole_bounds(self, asked: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """(n,) bounds of these slots from their whole keys, where the short forms left many."""
        centre = self._ready().centre
        with np.errstate(all="ignore"):
            own = (asked - centre).astype(np.float32)[None]
            parts = []
            for start in range(0, len(slots), BLOCK):
                keys = self._keys[slots[start : start + BLOCK]]
                rows = (
                    keys - centre.astype(np.float32) if self.kind == "euclidean" else points(keys, self.kind) - centre
                )
                rows = rows.astype(np.float32, copy=False)
                norms = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
                parts.append(self._bounds(own, rows, norms)[0])
        return np.concatenate(parts)

    def _ready(self) -> Sketch:
        """The short forms of all keys; the sketch is made anew whenever there are twice as many keys as it was made for."""
        if self._sketch is None or self._used >= 2 * self._sketched_for:
            # the nearer to the centre they lie, the sharper are the bounds
            there = self._keys[: self._used] if self._used else np.zeros((1, self.width), dtype=np.float32)
            self._sketch = Sketch(there, self.kind, self._used >= _SHORT)
            self._sketched_for, self._done = max(1, self._used), 0
            width = self._sketch.width or self.width
            self._short, self._norms = np.empty((len(self._keys), width), dtype=np.float32), np.empty(len(self._keys))
        if self._done < self._used:
            self._shorten()
        return self._sketch

    def _shorten(self) -> None:
        assert self._sketch is not None
        if len(self._short) < self._used:
            self._short, self._norms = _grown(self._short, len(self._keys)), _grown(self._norms, len(self._keys))
        for start in range(self._done, self._used, BLOCK):
            part = slice(start, min(start + BLOCK, self._used))
            self._short[part], self._norms[part] = self._sketch.rounded(self._keys[part])
        self._done = self._used

    def _compact(self) -> None:
        kept = np.flatnonzero(self._alive[: self._used])
        handles = [self._handles[slot] for slot in kept.tolist()]
        size = max(16, 2 * len(kept))
        self._keys, self._ranks = _grown(self._keys[kept], size), _grown(self._ranks[kept], size)
        self._alive = _grown(np.ones(len(kept), dtype=bool), size)
        self._handles = handles
        self._slots = {handle: slot for slot, handle in enumerate(handles) if handle is not None}
        self._sketch = None


class ShelvedIndex(KeyIndex):
    """Keys that lie in arrays which are only read, and behind them those that came since.

    Args:
        arrays: "keys" (n, D), "short" forms, their lengths "norms" (n,) and "ranks" (n,), which ascend.
        gone: ranks of keys that do not count.
        handle, rank: from a rank to its handle, and from a handle to its rank.
    """

    def __init__(
        self,
        arrays: dict[str, np.ndarray],
        sketch: Sketch,
        gone: Collection[int],
        handle: Callable[[int], str],
        rank: Callable[[str], int],
    ):
        super().__init__(arrays["keys"].shape[1], sketch.kind)
        self._keys, self._ranks = arrays["keys"], arrays["ranks"]
        self._short, self._norms = arrays["short"], np.array(arrays["norms"])
        self._alive = np.ones(len(self._keys), dtype=bool)
        self._alive[np.searchsorted(self._ranks, sorted(gone))] = False
        self._sketch, self._sketched_for, self._done = sketch, len(self._keys), len(self._keys)
        self._named, self._rank, self._fresh = handle, rank, KeyIndex(self.width, self.kind)
        self._count = int(self._alive.sum())

    def __len__(self) -> int:
        return self._count + len(self._fresh)

    @property
    def _used(self) -> int:
        return len(self._keys)

    def _handle(self, slot: int) -> str:
        return self._named(int(self._ranks[slot]))

    def add(self, handle: str, key: np.ndarray, rank: int) -> None:
        """As `KeyIndex.add`; a key on the shelf counts again, others have a higher rank than all on it."""
        if rank > self._ranks[-1]:
            self._fresh.add(handle, key, rank)
        else:
            self._set(rank, True)

    def remove(self, handle: str) -> None:
        """As `KeyIndex.remove`; a key on the shelf stays there and does not count any more."""
        rank = self._rank(handle)
        if rank > self._ranks[-1]:
            self._fresh.remove(handle)
        else:
            self._set(rank, False)

    def newest(self, exclude: Collection[str] = ()) -> tuple[int, str] | None:
        return self._fresh.newest(exclude) or super().newest(exclude)

    def _set(self, rank: int, alive: bool) -> None:
        slot = int(np.searchsorted(self._ranks, rank))
        self._count += int(alive) - int(self._alive[slot])
        self._alive[slot] = alive

    def nearest(
        self,
        queries: np.ndarray,
        accept: Callable[[int, str], bool] | None = None,
        limit: float = math.inf,
    ) -> list[tuple[str | None, float]]:
        found = super().nearest(queries, accept, limit)
        if not len(self._fresh):
            return found
        new = self._fresh.nearest(queries, accept, limit)
        return [two if two[0] is not None and two[1] <= one[1] else one for one, two in zip(found, new, strict=True)]


def _grown(array: np.ndarray, size: int) -> np.ndarray:
    """The array with room for `size` rows; what is new is not set."""
    larger = np.zeros((size, *array.shape[1:]), dtype=array.dtype)
    larger[: len(array)] = array[:size]
    return larger


def _doubled(array: np.ndarray) -> np.ndarray:
    return _grown(array, 2 * len(array))
