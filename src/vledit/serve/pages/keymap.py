"""The keys of edits laid out on a plane, with their radii."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...codebook import Entry

SIDE = 640.0


@dataclass(frozen=True)
class Spot:
    """Where an edit lies: centre and radius in units of the picture."""

    entry: Entry
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class KeyMap:
    """The edits of one kind of key.

    Args:
        share: how much of the keys' spread the plane shows, 0 to 1.
        left_out: edits whose keys are of another kind and cannot be shown beside these.
    """

    spots: tuple[Spot, ...]
    share: float
    left_out: int


def key_map(entries: Sequence[Entry]) -> KeyMap:
    """Lays the most common kind of key out by its two directions of largest spread (principal components).

    A distance on the plane is at most the true one, so circles that touch on the map may lie apart.
    """
    kinds: dict[tuple, list[Entry]] = defaultdict(list)
    for entry in entries:
        scope = entry.scopes[0]
        kinds[entry.key_site, scope.name, scope.prompt, scope.key_tokens, scope.distance, scope.width].append(entry)
    if not kinds:
        return KeyMap((), 1.0, 0)
    shown = max(kinds.values(), key=len)
    keys = np.stack([entry.key for entry in shown]).astype(np.float64)
    if shown[0].distance == "cosine":
        keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    centred = keys - keys.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    plane = np.zeros((len(shown), 2))
    plane[:, : min(2, len(sizes))] = (left * sizes)[:, :2]
    spread = float((sizes**2).sum())
    share = float((sizes[:2] ** 2).sum()) / spread if spread > 0 else 1.0
    # a cosine distance d between unit vectors is a straight line of sqrt(2 d)
    radii = np.array([np.sqrt(2 * e.radius) if e.distance == "cosine" else e.radius for e in shown])
    low, high = (plane - radii[:, None]).min(0), (plane + radii[:, None]).max(0)
    scale = SIDE / max(float((high - low).max()), 1e-9)
    middle = (low + high) / 2
    spots = []
    for entry, point, reach in zip(shown, plane, radii, strict=True):
        x, y = (point - middle) * scale + SIDE / 2
        spots.append(Spot(entry, float(x), float(y), float(reach * scale)))
    return KeyMap(tuple(spots), share, len(entries) - len(shown))
