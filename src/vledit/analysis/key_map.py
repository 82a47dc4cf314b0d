"""Where the keys of a codebook lie (BalancEdit, Fig. 7): as PCA and t-SNE, with radii and the nearest other key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, MissingDataError

if TYPE_CHECKING:
    from ..codebook import Entry

FEWEST = 4


@dataclass(frozen=True)
class KeyMap:
    """n keys of one site.

    Args:
        ids: of the entries. radii: (n,). nearest: (n,) distance to the nearest other key, as the entries measure it.
        pca, tsne: (n, 2). explained: share of the variance on either axis of the PCA.
    """

    ids: tuple[str, ...]
    radii: np.ndarray
    nearest: np.ndarray
    pca: np.ndarray
    tsne: np.ndarray
    explained: tuple[float, float]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each key."""
        return [
            {
                "entry": id,
                "radius": float(self.radii[n]),
                "nearest_other_key": float(self.nearest[n]),
                "pca_1": float(self.pca[n, 0]),
                "pca_2": float(self.pca[n, 1]),
                "tsne_1": float(self.tsne[n, 0]),
                "tsne_2": float(self.tsne[n, 1]),
            }
            for n, id in enumerate(self.ids)
        ]


def key_map(entries: Sequence[Entry], seed: int = 0) -> KeyMap:
    """The map of entries that share a site and a distance.

    Raises: InputError for fewer than `FEWEST`, or several sites or distances; MissingDataError without scikit-learn.
    """
    if len(entries) < FEWEST:
        raise InputError(f"keys: {len(entries)} keys; a map needs at least {FEWEST}. Give a larger --limit.")
    kinds = {(entry.key_site, entry.scopes[0].distance) for entry in entries}
    if len(kinds) > 1:
        raise InputError(f"keys: they are of several sites or distances ({kinds}); a map is of one.")
    keys = np.stack([np.asarray(entry.scopes[0].key, dtype=np.float64) for entry in entries])
    radii = np.array([entry.scopes[0].radius for entry in entries])
    ((_, measure),) = kinds
    apart = distances(keys, measure)
    np.fill_diagonal(apart, np.inf)
    points, shares = pca(keys)
    ids = tuple(entry.id for entry in entries)
    return KeyMap(ids, radii, apart.min(1), points, tsne(apart, seed), shares)


def distances(keys: np.ndarray, measure: str) -> np.ndarray:
    """(n, n) distances between (n, d) keys, "euclidean" or "cosine"."""
    if measure == "cosine":
        unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
        return np.clip(1 - unit @ unit.T, 0.0, None)
    return np.sqrt(np.maximum(((keys[:, None] - keys[None]) ** 2).sum(-1), 0.0))


def pca(keys: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """(n, 2) coordinates on the two directions of largest variance, and their shares of it; signs are fixed."""
    centred = keys - keys.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    points = u[:, :2] * s[:2]
    signs = np.sign(points[np.abs(points).argmax(0), [0, 1]])
    total = float((s**2).sum()) or 1.0
    return points * np.where(signs == 0, 1.0, signs), (float(s[0] ** 2) / total, float(s[1] ** 2) / total)


def tsne(apart: np.ndarray, seed: int = 0) -> np.ndarray:
    """(n, 2) t-SNE of (n, n) distances.  Raises: MissingDataError where scikit-learn is not installed."""
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise MissingDataError("scikit-learn is not installed: pip install 'vledit[ablate]'.") from error
    square = apart.copy()
    np.fill_diagonal(square, 0.0)
    perplexity = min(30.0, (len(square) - 1) / 3)
    made = TSNE(2, perplexity=perplexity, metric="precomputed", init="random", random_state=seed)
    return np.asarray(made.fit_transform(square), dtype=np.float64)
