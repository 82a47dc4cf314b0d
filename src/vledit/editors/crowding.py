"""How a radius narrows with the number of edits: among a thousand keys, some key is close to many requests by chance.

It is computed from requests that no edit is about and from the keys of edits about other facts: for each number of entries, the
radius at which a given share of such requests lies within the nearest of that many keys, averaged over several random draws. One
more point, at ten times the number of available keys, is extrapolated by a power law fitted to the last tenfold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import InputError

FALSE_FIRES = 0.02
"""Share of requests that some foreign entry may answer."""
DRAWS = 20
LEAST = 20
"""Keys below which nothing is told of many."""

Crowd = tuple[tuple[int, float], ...]


def foreign(
    requests: np.ndarray, facts: Sequence[str], keys: np.ndarray, edited: Sequence[str], kind: str = "euclidean"
) -> np.ndarray:
    """(requests, keys) distances, infinite where a request asks for the very fact of an edit.

    Args:
        facts, edited: what each request asks for and each edit changes; empty: not known, then only the distance counts.
    """
    from ..codebook.scope import distance

    away = distance(keys, requests, kind)
    same = np.array([[bool(asked) and asked == fact for fact in edited] for asked in facts], dtype=bool)
    return np.where(same.reshape(away.shape), math.inf, away)


class Gathered:
    """Keys of edits, and of requests that they are not for, one by one; compared when all are there."""

    def __init__(self, kind: str = "euclidean"):
        self.kind = kind
        self.edits: list[tuple[str, np.ndarray]] = []
        self.requests: list[tuple[str, np.ndarray]] = []

    def edit(self, fact: str, key: np.ndarray) -> None:
        """An edit: what it changes ("": not known), and its key."""
        self.edits.append((fact, key))

    def request(self, fact: str, key: np.ndarray) -> None:
        """A request: what it asks for ("": not known), and its key."""
        self.requests.append((fact, key))

    def only_edits(self) -> Gathered:
        """The same edits without any request."""
        found = Gathered(self.kind)
        found.edits = list(self.edits)
        return found

    def away(self) -> np.ndarray:
        """(requests, edits) distances, as `foreign`."""
        if not self.requests or not self.edits:
            return np.empty((len(self.requests), len(self.edits)))
        (facts, requests), (edited, keys) = (zip(*some, strict=True) for some in (self.requests, self.edits))
        return foreign(np.stack(requests), facts, np.stack(keys), edited, self.kind)


def crowd(away: np.ndarray, widest: float, false_fires: float = FALSE_FIRES, seed: int = 0) -> Crowd:
    """(number of entries, radius) points, the radius at most `widest`; nothing where there are fewer than `LEAST` keys.

    Args:
        away: (requests, keys) distances of `foreign`.
        false_fires: the share of requests that may lie within the nearest key.

    Raises: InputError where there are no requests, or the share is none.
    """
    if not 0 < false_fires < 1:
        raise InputError(f"false_fires: {false_fires} given; a share between 0 and 1 is expected.")
    if not len(away):
        raise InputError("crowd: no request that an edit is not for.")
    total = away.shape[1]
    if total < LEAST:
        return ()
    draw = np.random.default_rng(seed)
    counts = sorted({1, *(n for n in (3, 10, 30, 100, 300, 1000, 3000) if n < total), max(total // 10, 1), total})
    radii = []
    for count in counts:
        nearest = [away[:, draw.choice(total, count, replace=False)].min(axis=1) for _ in range(DRAWS)]
        # the largest radius within which at most the share lies: the value below the first one too many
        ranked = np.sort(np.concatenate(nearest))
        radii.append(float(np.nextafter(ranked[int(false_fires * len(ranked))], 0)))
    last, before = radii[-1], radii[counts.index(max(total // 10, 1))]
    falling = min(last / before, 1.0) if before > 0 else 1.0
    points = [*zip(counts, radii, strict=True), (10 * total, last * falling)]
    found: list[tuple[int, float]] = []
    for count, radius in points:
        found.append((count, min(radius, widest, found[-1][1] if found else math.inf)))
    while (
        len(found) > 1 and found[1][1] >= widest
    ):  # the first point where anything narrows is enough, and the one before
        found.pop(0)
    return tuple(found)
