"""The ceiling of a scope: how well a key can separate what an edit is about from everything else, without any transformation.

For each key, the distances of an edit's probes to the edit itself are read once; a threshold then separates inside from outside.
"One threshold" is the same for all edits, "oracle" is the best one for each edit: no rule for radii can do better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..codebook.scope import pool_key
from ..data.case import EditCase, Probe
from ..editors.answering import pool
from ..errors import InputError
from ..vlm.base import VLM, Encoded, Site
from ..vlm.pictures import open_picture

INSIDE = ("image", "text")
"""Generality cells that a scope has to hold."""
OUTSIDE = ("near_image", "same_answer", "other_question", "other_subject", "random_image", "text_locality")
"""Locality cells that it has to leave out, as they are called here."""
PARTS = (
    ("image, seen", "image", "seen", "yes"),
    ("image, held out", "image", "seen", "no"),
    ("image, recognised", "image", "alike", "yes"),
    ("near_image, same answer", "near_image", "alike", "yes"),
)
"""Parts of cells that are counted by themselves, and not in the harmonic mean: name, cell, attribute of `EditKeys`, its value."""
SITE_TOKENS = ("mean", "visual", "question", "last")
RIDGE = 0.1
"""Share of the mean variance that is added to every direction before whitening."""
ROWS = 8
Keys = dict[str, np.ndarray]
"""Key's name → (rows, width) float32; NaN where a row has no such key."""


@dataclass
class EditKeys:
    """The keys of one edit (row 0) and of its probes.

    Attributes:
        cells: of every row: "edit", or one of `INSIDE` and `OUTSIDE`.
        seen: of every row: whether its drawing is by a hand that training saw ("yes", "no", or "" where nothing says so).
        alike: of every row: whether the base answers it as it answers the edit ("yes", "no", or "" where it was not asked).
    """

    id: str
    cells: list[str]
    seen: list[str]
    keys: Keys
    alike: list[str] = field(default_factory=list)

    def distances(self, name: str, whitening: np.ndarray | None = None) -> np.ndarray:
        """(rows,) euclidean distance of every row to the edit's own key; NaN without such a key."""
        away = self.keys[name].astype(np.float64) - self.keys[name][:1]
        return np.linalg.norm(away if whitening is None else away @ whitening, axis=1)


@dataclass
class Ceiling:
    """What a key can do at best.

    Attributes:
        auc: "image/near_image" … → share of pairs, within an edit, in which the first is nearer to the key than the second.
        threshold: the one threshold with the best HM of all cells.
        one: cell → share that is right at that threshold ("image, seen" and "image, held out" among them; where the base was
            asked also "image, recognised" and "near_image, same answer": it answers them as it answers the edit).
        hm, oracle: harmonic mean of the cells' shares at one threshold, and at the best one for each edit.
    """

    auc: dict[str, float]
    threshold: float
    one: dict[str, float]
    hm: float
    oracle: float
    curve: list[tuple[float, float]] = field(default_factory=list)
    """Points (share of what is outside that fires, share of what is inside that fires), cells weighing alike."""


def read_keys(
    vlm: VLM,
    case: EditCase,
    site: Site,
    layers: Sequence[int],
    most: int = 5,
    without_picture: bool = True,
    answers: bool = False,
) -> EditKeys:
    """The keys of an edit and of at most `most` probes of each cell; with `answers` the base is asked about the pictures, too.

    Keys: the site's input at each of `SITE_TOKENS`; "hidden L": the state that enters decoder layer L at the last prompt
    token; "picture": the mean of the visual tokens as the vision side gives them; "question alone": the site's input at the
    last token of the question without its picture.
    """
    rows = [("edit", "yes", Probe(case.request.image, case.request.question))]
    for cell in INSIDE:
        rows += [(cell, one.tags.get("seen", ""), one) for one in case.generality.get(cell, ())[:most]]
    for cell in OUTSIDE:
        found = case.locality.get("text" if cell == "text_locality" else cell, ())
        rows += [(cell, one.tags.get("seen", ""), one) for one in found[:most]]
    order = sorted(range(len(rows)), key=lambda i: (rows[i][2].image is None, len(rows[i][2].question)))
    parts: list[Keys] = []
    for start in range(0, len(order), ROWS):
        some = [rows[i][2] for i in order[start : start + ROWS]]
        pictures = [None if one.image is None else open_picture(one.image) for one in some]
        parts.append(_read(vlm, pictures, [one.question for one in some], site, layers, without_picture))
    back = np.argsort(order)
    keys = {name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]}
    cells = [cell for cell, _, _ in rows]
    alike = [""] * len(rows)
    if answers and case.request.image is not None:
        asked = [row for row, cell in enumerate(cells) if cell in ("edit", "image", "near_image")]
        said = []
        for start in range(0, len(asked), ROWS):
            some = [rows[row][2] for row in asked[start : start + ROWS]]
            said += vlm.answer([open_picture(one.image) for one in some], [one.question for one in some])
        for row, answer in zip(asked, said, strict=True):
            alike[row] = "yes" if answer.casefold() == said[0].casefold() else "no"
    return EditKeys(case.id, cells, [seen for _, seen, _ in rows], keys, alike)


def _read(
    vlm: VLM, pictures: Sequence[Any], questions: Sequence[str], site: Site, layers: Sequence[int], alone: bool
) -> Keys:
    encoded = vlm.encode(list(pictures), list(questions))
    trunk = vlm.trunk(encoded, 0)
    found = {"picture": _pooled(trunk.hidden, encoded, "visual")}
    for layer in sorted({*layers, site.layer}):
        trunk = vlm.raise_trunk(trunk, layer)
        if layer in layers:
            found[f"hidden {layer}"] = _pooled(trunk.hidden, encoded, "last")
    x = vlm.site_input(trunk, site)
    found |= {f"site {tokens}": _pooled(x, encoded, tokens) for tokens in SITE_TOKENS}
    if alone:
        texts = list(dict.fromkeys(questions))
        asked = vlm.encode([None] * len(texts), texts)
        keys = _pooled(vlm.site_input(vlm.trunk(asked, site.layer), site), asked, "last")
        found["question alone"] = keys[[texts.index(text) for text in questions]]
    return found


def _pooled(x: Tensor, encoded: Encoded, tokens: str) -> np.ndarray:
    if tokens == "visual":
        return pool_key(x, encoded.prompt_mask, tokens, visual_mask=encoded.visual_mask).numpy()
    return pool(x, encoded, tokens).numpy()


def whitening(edits: Iterable[EditKeys], name: str, ridge: float = RIDGE) -> np.ndarray:
    """(width, width): after it, what varies *within* a fact (other drawings, rewordings, minus their key) varies alike."""
    rows = []
    for edit in edits:
        inside = [i for i, cell in enumerate(edit.cells) if cell in INSIDE]
        rows.append(edit.keys[name][inside].astype(np.float64) - edit.keys[name][:1])
    away = np.concatenate(rows)
    away = torch.from_numpy(away[np.isfinite(away).all(1)])
    covariance = away.T @ away / len(away)
    values, directions = torch.linalg.eigh(covariance)
    # scaled so that the directions of mean variance keep their length
    mean = values.mean()
    scale = ((values.clamp(min=0) + ridge * mean) / mean).rsqrt()
    return ((directions * scale) @ directions.T).numpy()


def ceiling(edits: Sequence[EditKeys], name: str, white: np.ndarray | None = None) -> Ceiling:
    """What the key `name` can do on these edits."""
    distances = [edit.distances(name, white) for edit in edits]
    auc = {}
    for first in INSIDE:
        for second in OUTSIDE:
            found = [_auc(d[_rows(e, first)], d[_rows(e, second)]) for e, d in zip(edits, distances, strict=True)]
            if any(value is not None for value in found):
                auc[f"{first}/{second}"] = float(np.mean([value for value in found if value is not None]))
    finite = np.concatenate(distances)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        raise InputError(f"key: none of these edits has '{name}' (a picture's key where no edit has a picture?).")
    grid = np.unique(np.quantile(finite, np.linspace(0, 1, 401)))
    at = [_shares(edits, distances, [value] * len(edits)) for value in grid]
    means = [harmonic(shares) for shares in at]
    best = int(np.argmax(means))
    own = [_best(edit, d) for edit, d in zip(edits, distances, strict=True)]
    curve = [
        (
            float(np.mean([1 - shares[c] for c in OUTSIDE if c in shares])),
            float(np.mean([shares[c] for c in INSIDE if c in shares])),
        )
        for shares in at
    ]
    threshold = float(grid[best])
    one = _shares(edits, distances, [threshold] * len(edits))
    for words, cell, named, value in PARTS:
        found = [
            (d[i] <= threshold) == (cell in INSIDE)
            for e, d in zip(edits, distances, strict=True)
            for i in _rows(e, cell)
            if getattr(e, named) and getattr(e, named)[i] == value
        ]
        if found:
            one[words] = float(np.mean(found))
    return Ceiling(auc, threshold, one, means[best], harmonic(_shares(edits, distances, own)), curve)


def harmonic(shares: Mapping[str, float]) -> float:
    """The harmonic mean over the cells; 0 where one is 0."""
    values = [value for name, value in shares.items() if "," not in name]
    return 0.0 if min(values) <= 0 else float(len(values) / np.sum(1 / np.array(values)))


def _rows(edit: EditKeys, cell: str) -> list[int]:
    return [i for i, one in enumerate(edit.cells) if one == cell]


def _auc(inside: np.ndarray, outside: np.ndarray) -> float | None:
    """Share of pairs in which the first is nearer; equal distances count half; a row without a key is infinitely far."""
    if not len(inside) or not len(outside):
        return None
    near, far = (np.where(np.isfinite(d), d, np.inf) for d in (inside, outside))
    return float(np.mean((near[:, None] < far) + 0.5 * (near[:, None] == far)))


def _shares(edits: Sequence[EditKeys], distances: Sequence[np.ndarray], radii: Sequence[float]) -> dict[str, float]:
    """Cell → share of its probes, over all edits, that lie on the right side."""
    right: dict[str, list[bool]] = {}
    for edit, found, radius in zip(edits, distances, radii, strict=True):
        for cell, distance in zip(edit.cells[1:], found[1:], strict=True):
            right.setdefault(cell, []).append(bool(distance <= radius) == (cell in INSIDE))
    return {cell: float(np.mean(values)) for cell, values in right.items()}


def _best(edit: EditKeys, distances: np.ndarray) -> float:
    """The radius that puts the most on the right side, every cell of the edit weighing alike."""
    grid = np.unique(distances[np.isfinite(distances)])
    grid = np.concatenate([grid, grid[:-1] + np.diff(grid) / 2])
    value = [sum(_shares([edit], [distances], [radius]).values()) for radius in grid]
    return float(grid[int(np.argmax(value))])


def collect(
    vlm: VLM,
    cases: Sequence[EditCase],
    site: Site,
    layers: Sequence[int],
    most: int,
    progress: Callable[[Any], None] = lambda _: None,
    without_picture: bool = True,
    answers: bool = False,
) -> list[EditKeys]:
    """`read_keys` of every case."""
    found = []
    for case in cases:
        found.append(read_keys(vlm, case, site, layers, most, without_picture, answers))
        progress(case)
    return found
