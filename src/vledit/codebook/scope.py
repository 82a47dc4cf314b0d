"""How far an edit reaches: keys, distances, the radius, and the anchor pictures that the radius is measured with.

Source: BalancEdit, Sec. 3.2.  Distances are computed with numpy in float64 from float32 keys, one (key, query) pair at
a time in the sense that the bits of a distance depend on that pair alone: not on the batch, not on the other keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

DISTANCES = ("euclidean", "cosine")
KEY_TOKENS = ("mean", "visual", "question", "last", "prompt+answer")
ANCHORS = ("black", "white", "mean", "noise", "random")
KeyTokens = Literal["mean", "visual", "question", "last", "prompt+answer"]
Rows = Any
"""(N, D) or (D,) numbers: a numpy array, a torch tensor on any device, or nested sequences."""

_BLOCK = 1 << 22
"""float64 numbers that one block of differences may hold (32 MB)."""


@dataclass(frozen=True)
class Anchors:
    """What the radius of a scope was measured with, or may be compared with; kept so that a reader can check and repeat it.

    Args:
        positive_source: "backbone" (the model rephrased it), "supplied" (the user did) or "plugin:<name>".
        positive_question: the rephrased question.
        negative: name of the negative anchor ("black", ...; "question:<text>" for a question scope); empty where none was
            measured, because the radius does not hang on one.
        d_positive: d(pos, k), in the unit of the scope's distance.
        d_negative: d(neg, k), in the unit of the scope's distance; None where `negative` is empty.
    """

    positive_source: str
    positive_question: str
    negative: str
    d_positive: float
    d_negative: float | None

    def __post_init__(self) -> None:
        source = self.positive_source
        if source not in ("backbone", "supplied") and not (source.startswith("plugin:") and source != "plugin:"):
            raise InputError(f"Anchors.positive_source: '{source}' is not 'backbone', 'supplied' or 'plugin:<name>'.")
        _check_text("Anchors.positive_question", self.positive_question, empty=True)
        _check_text("Anchors.negative", self.negative, empty=self.d_negative is None)
        if self.negative and self.d_negative is None:
            raise InputError(f"Anchors.d_negative: the distance to '{self.negative}' is missing.")
        for name in ("d_positive", "d_negative"):
            if getattr(self, name) is not None or name == "d_positive":
                object.__setattr__(self, name, _check_length(f"Anchors.{name}", getattr(self, name)))


@dataclass(frozen=True, eq=False)
class Scope:
    """One condition of an entry: a query is inside when d(query, key) <= radius.

    BalancEdit's entry has one scope, named "mean"; an entry with several fires only when a request is inside all.

    Args:
        name: which of the request's keys is compared ("mean"; "picture" and "question" for two factors).
        key: (H,) float32, finite; given as array or tensor, held as a read-only numpy array.
        radius: same unit as `distance`, >= 0.
        distance: "euclidean" or "cosine" (1 - cos, from 0 to 2).
        key_tokens: the tokens that the key is the mean of, see `pool_key`.
        alpha: the weight that the radius was computed with (Eq. 10), or None where the radius was set by hand.
        anchors: what the radius was measured with, or None where it was set by hand.
        prompt: "full" (picture and question) or "question" (the question without the picture): where the key is read.
        crowd: (number of entries, radius) in rising order: how far the scope reaches where so many entries are there whose keys
            are compared with its own; see `radius_among`. Empty: `radius`, however many there are.
    """

    name: str
    key: Any
    radius: float
    distance: str = "euclidean"
    key_tokens: str = "mean"
    alpha: float | None = None
    anchors: Anchors | None = None
    prompt: str = "full"
    crowd: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        _check_text("Scope.name", self.name)
        check_distance(self.distance)
        check_key_tokens(self.key_tokens)
        if self.prompt not in ("full", "question"):
            raise InputError(f"Scope.prompt: '{self.prompt}' is not 'full' or 'question'.")
        key = np.array(as_rows(self.key, "Scope.key"), copy=True)
        if key.shape[0] != 1 or key.shape[1] == 0:
            raise InputError(f"Scope.key: one vector (H,) is expected, not shape {np.shape(self.key)}.")
        key = key[0]
        if not np.isfinite(key).all():
            bad = int(np.flatnonzero(~np.isfinite(key))[0])
            raise InputError(f"Scope.key: element {bad} is {key[bad]}; every element must be finite.")
        if self.distance == "cosine" and not key.any():
            raise InputError("Scope.key: all zeros have no direction; use distance='euclidean'.")
        key.setflags(write=False)
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "radius", _check_length("Scope.radius", self.radius))
        if self.alpha is not None:
            object.__setattr__(self, "alpha", check_alpha(self.alpha, "Scope.alpha"))
        if self.anchors is not None and not isinstance(self.anchors, Anchors):
            raise InputError(
                f"Scope.anchors: an Anchors record or None is expected, not {type(self.anchors).__name__}."
            )
        object.__setattr__(self, "crowd", _checked_crowd(self.crowd))

    def radius_among(self, entries: int) -> float:
        """The radius where `entries` entries compete: the more there are, the likelier one of them is near by chance.

        Straight in the logarithm of their number between the points of `crowd`; before its first point and without one it is
        `radius`, beyond the last the last one's; never more than `radius`.
        """
        return narrowed(self.radius, self.crowd, entries)

    @property
    def width(self) -> int:
        """H, the length of the key."""
        return int(self.key.shape[0])


def narrowed(radius: float, crowd: tuple[tuple[int, float], ...], entries: int) -> float:
    """See `Scope.radius_among`."""
    if not crowd or entries <= crowd[0][0]:
        return radius
    counts, radii = zip(*crowd, strict=True)
    return min(radius, float(np.interp(math.log(entries), np.log(counts), radii)))


def as_rows(values: Rows, name: str = "keys") -> np.ndarray:
    """Return `values` as a C-contiguous (N, D) float32 numpy array; (D,) becomes (1, D).

    Raises: InputError where it has no such shape or does not consist of numbers.
    """
    if hasattr(values, "detach"):  # a torch tensor, without importing torch; numpy knows no bfloat16
        values = values.detach().cpu().float().numpy()
    try:
        with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes inf, which callers refuse by name
            rows = np.ascontiguousarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: not an array of numbers ({error}).") from error
    if rows.ndim == 1:
        rows = rows[None, :]
    if rows.ndim != 2:
        raise InputError(f"{name}: shape (N, D) or (D,) is expected, not {rows.shape}.")
    return rows


def points(rows: np.ndarray, kind: str) -> np.ndarray:
    """Return (N, D) float64 points between which `kind` is a function of their straight-line distance.

    "euclidean": the rows themselves; "cosine": the rows at length 1 (all-zero rows stay zero).
    """
    exact = rows.astype(np.float64)
    if kind == "cosine":
        length = np.sqrt(np.add.reduce(exact * exact, axis=-1, keepdims=True))
        np.divide(exact, length, out=exact, where=length > 0)
    return exact


def between(first: np.ndarray, second: np.ndarray, kind: str) -> np.ndarray:
    """Return (N,) float64 distances of `points` first (N, D) to the point second (D,).

    The difference is taken before squaring, so d(x, x) is 0 exactly and near keys lose no digits; the sum runs along
    contiguous memory, so that the bits for one pair do not depend on N.  Cosine is |a - b|^2 / 2 of unit vectors,
    which equals 1 - cos without its cancellation; between a zero vector and any other it is 1.
    """
    difference = first - second
    squared = np.add.reduce(difference * difference, axis=-1)
    if kind == "euclidean":
        return np.sqrt(squared)
    one_is_zero = first.any(axis=-1) != second.any()
    return np.where(one_is_zero, 1.0, np.minimum(squared / 2, 2.0))


def distance(keys: Rows, queries: Rows, kind: str = "euclidean") -> np.ndarray:
    """Return d(query, key) for every pair.

    Args:
        keys: (N, D) or (D,), taken as float32.
        queries: (B, D) or (D,), taken as float32.
        kind: "euclidean" or "cosine" (1 - cos).
    Returns: (B, N) float64; the very numbers that the router compares with a radius.
    Raises: InputError for widths that differ, UnknownNameError for another `kind`.
    Source: BalancEdit, Sec. 4.3 and Table 6.
    """
    check_distance(kind)
    left, right = as_rows(keys, "keys"), as_rows(queries, "queries")
    if left.shape[1] != right.shape[1]:
        raise InputError(f"queries: width {right.shape[1]} does not fit the keys' width {left.shape[1]}.")
    asked = points(right, kind)
    result = np.empty((right.shape[0], left.shape[0]), dtype=np.float64)
    step = max(1, _BLOCK // max(1, left.shape[1]))
    for start in range(0, left.shape[0], step):
        block = points(left[start : start + step], kind)
        for row in range(right.shape[0]):
            result[row, start : start + step] = between(block, asked[row], kind)
    return result


def radius(alpha: float, d_positive: float, d_negative: float) -> float:
    """Return the influence radius alpha * d(pos, k) + (1 - alpha) * d(neg, k), in the distances' unit.

    alpha = 0 takes the negative alone and is widest, alpha = 1 the positive alone.  This is Eq. 10, Fig. 5, Table 10
    and the released code; Eq. 3 of the paper prints alpha and 1 - alpha swapped.
    Source: BalancEdit, Eq. 10.
    """
    alpha = check_alpha(alpha, "alpha")
    return alpha * _check_length("d_positive", d_positive) + (1 - alpha) * _check_length("d_negative", d_negative)


def pool_key(
    x: Tensor,
    prompt_mask: Tensor,
    key_tokens: str = "mean",
    *,
    visual_mask: Tensor | None = None,
    question_mask: Tensor | None = None,
    answer_mask: Tensor | None = None,
) -> Tensor:
    """Return the key of each row: the mean of the site's input over the chosen tokens.

    Args:
        x: (B, T, H) input of the site.
        prompt_mask: (B, T) bool, the prompt's tokens: never the answer, never padding.
        key_tokens: "mean" all prompt tokens (the paper's key) | "visual" | "question" | "last" the last prompt token |
            "prompt+answer" what the released code averages: with the answer, which no request has at inference.
        visual_mask, question_mask, answer_mask: (B, T) bool, needed by the `key_tokens` of that name.
    Returns: (B, H) float32 on the CPU.  A row without visual tokens asked for "visual" is all NaN: the router takes
        that for "has no such key" and lets it be inside nothing.
    Raises: InputError for a missing mask, a row without tokens, a key that is not finite.
    Source: BalancEdit, Sec. 3.2, "Keys".
    """
    import torch

    check_key_tokens(key_tokens)
    needed = {"visual": visual_mask, "question": question_mask, "prompt+answer": answer_mask}
    if needed.get(key_tokens, prompt_mask) is None:
        name = {"prompt+answer": "answer_mask"}.get(key_tokens, f"{key_tokens}_mask")
        raise InputError(f"{name}: needed for key_tokens='{key_tokens}'.")
    mask = prompt_mask if key_tokens in ("mean", "last") else needed[key_tokens]
    assert mask is not None
    if x.ndim != 3 or mask.shape != x.shape[:2] or prompt_mask.shape != x.shape[:2]:
        raise InputError(f"x: (B, T, H) with masks (B, T) is expected, not {tuple(x.shape)} and {tuple(mask.shape)}.")
    if key_tokens == "prompt+answer":
        mask = mask.bool() | prompt_mask.bool()
    keys = torch.empty(x.shape[0], x.shape[2], dtype=torch.float32, device="cpu")
    for row in range(x.shape[0]):
        where = mask[row].nonzero().flatten()
        where = where[-1:] if key_tokens == "last" else where
        if not len(where):
            if key_tokens != "visual":
                raise InputError(f"prompt_mask: row {row} has no token for key_tokens='{key_tokens}'.")
            keys[row] = math.nan
            continue
        # float64 and without the padding, so that a row's key does not depend on the batch that it came in
        keys[row] = x[row, where.to(x.device)].detach().cpu().double().mean(0).float()
        if not bool(keys[row].isfinite().all()):
            raise InputError(f"x: the key of row {row} is not finite; does the model overflow in {x.dtype}?")
    return keys


def anchor_picture(
    name: str,
    size: int | tuple[int, int],
    image: Image | None = None,
    sampler: Sequence[Image] | Callable[[np.random.Generator], Image] | None = None,
    seed: int = 0,
) -> Image:
    """Return the picture of a negative anchor, RGB.

    Args:
        name: "black" (the paper's) | "white" | "mean" (the mean colour of `image`) | "noise" (every channel of every
            pixel drawn evenly) | "random" (one of `sampler`, never `image` itself, in its own size).
        size: (width, height) in pixels, or one number for a square.
        image: the edited picture; needed for "mean".
        sampler: pictures to draw from, or a function that draws one with the generator given; needed for "random".
        seed: of "noise" and "random"; the same seed gives the same picture.
    Raises: UnknownNameError for another name, InputError for what is missing or unfit.
    Source: BalancEdit, Sec. 3.2 (black), Table 7 (white), Table 8 (random).
    """
    from PIL import Image as Pictures

    if name not in ANCHORS:
        raise UnknownNameError("negative anchor", name, ANCHORS)
    width, height = (size, size) if isinstance(size, int) else size
    if width < 1 or height < 1:
        raise InputError(f"size: width and height must be at least 1 pixel, not {width} x {height}.")
    if name in ("black", "white"):
        return Pictures.new("RGB", (width, height), name)
    if name == "mean":
        if image is None:
            raise InputError("image: the 'mean' anchor needs the edited picture.")
        colour = np.asarray(image.convert("RGB"), dtype=np.float64).mean(axis=(0, 1)).round().astype(int)
        return Pictures.new("RGB", (width, height), tuple(int(channel) for channel in colour))
    draw = np.random.default_rng(seed)
    if name == "noise":
        return Pictures.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8), "RGB")
    if sampler is None:
        raise InputError("sampler: the 'random' anchor needs pictures to draw from.")
    if callable(sampler):
        return sampler(draw).convert("RGB")
    edited = None if image is None else image.convert("RGB")
    for index in draw.permutation(len(sampler)):
        drawn = sampler[int(index)].convert("RGB")
        if edited is None or drawn.size != edited.size or drawn.tobytes() != edited.tobytes():
            return drawn
    raise InputError("sampler: holds no picture other than the edited one.")


def check_distance(kind: str) -> None:
    """Raise UnknownNameError unless `kind` is a distance."""
    if kind not in DISTANCES:
        raise UnknownNameError("distance", str(kind), DISTANCES)


def check_key_tokens(key_tokens: str) -> None:
    """Raise UnknownNameError unless `key_tokens` names tokens that a key can be pooled from."""
    if key_tokens not in KEY_TOKENS:
        raise UnknownNameError("key_tokens", str(key_tokens), KEY_TOKENS)


def check_alpha(alpha: float, name: str) -> float:
    """Return alpha as a float; raises InputError unless it lies in [0, 1]."""
    value = _check_length(name, alpha)
    if value > 1:
        raise InputError(f"{name}: {value} is not between 0 (negative alone, widest) and 1 (positive alone).")
    return value


def _checked_crowd(crowd: Any) -> tuple[tuple[int, float], ...]:
    """The points as (int, float), checked: numbers of entries rise from 1, radii do not grow."""
    points = tuple((int(count), _check_length("Scope.crowd", radius)) for count, radius in crowd)
    for (fewer, wider), (more, narrower) in pairwise(points):
        if more <= fewer or narrower > wider:
            raise InputError("Scope.crowd: numbers of entries have to rise and radii must not grow with them.")
    if points and points[0][0] < 1:
        raise InputError(f"Scope.crowd: a number of entries is at least 1, not {points[0][0]}.")
    return points


def _check_length(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: a number is expected, not {value!r}.") from error
    if not math.isfinite(number) or number < 0:
        raise InputError(f"{name}: {number} is not a finite number >= 0.")
    return number


def _check_text(name: str, value: Any, empty: bool = False) -> None:
    if not isinstance(value, str) or not (empty or value.strip()):
        raise InputError(f"{name}: a text{'' if empty else ' that is not empty'} is expected, not {value!r}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name}: holds characters that UTF-8 cannot write ({error.reason}).") from error
