"""`Forest`: prompts that begin alike, each with several answers, through the trunk with every shared token run once.

Scoring asks many questions about one picture, and forces several answers behind each.  Run one by one, the picture and the
question go through the trunk again every time.  Here all of them lie in one row, as a tree: the picture, behind it the rest of
every question, behind each its answers.  A token sees those on its own way to the root and has the position that it would have
alone, so what comes out is what one row per answer would give, up to rounding.

    forest = Forest.grow(vlm, layer, pictures, questions, answers)
    trunk = forest.trunk([(0, 1), (3, 0)])      # row 0 with its second answer, row 3 with its first: an ordinary `Trunk`

It stands on the decoder layers alone, called as the model itself was seen to call them.  Where they are called with
something that cannot be cut into columns (masks that are not causal, kernels that take none), `UnpackableError` says so, and
the caller runs one row per answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError, VLEditError
from . import generation
from .encoded import Encoded, LayerCall, Trunk, left_padded
from .picture_inputs import PictureInputs
from .prompts import Prompt

if TYPE_CHECKING:
    from .base import VLM

MASKED = ("sdpa", "eager")
"""Attention implementations that take a mask of any form, as truth values and as numbers to add."""
COLUMNS = 512
"""Most tokens of one tree beyond what its prompts share; a larger one is cut into several."""


class UnpackableError(VLEditError):
    """This model's layers are called with something that cannot be cut into columns."""


@dataclass
class Tree:
    """Prompts with one picture (or one prompt without), laid out in a row.

    Attributes:
        ids, parents: per column its token, and the column before it on the way to the root (-1: none).
        depths: per column how many tokens are before it on that way.
        prompts: per prompt its columns; suffixes: (prompt, number of the answer) → columns of the answer.
        fixed: how many leading columns all prompts share.
    """

    pictures: PictureInputs
    fixed: int
    ids: list[int]
    visual: list[bool]
    parents: list[int]
    depths: list[int]
    prompts: dict[int, list[int]]
    suffixes: dict[tuple[int, int], list[int]]

    @classmethod
    def of(cls, pictures: PictureInputs, prompts: dict[int, Prompt], suffixes: dict[int, list[list[int]]]) -> Tree:
        """The tree of some prompts, by number, and of the answers behind each."""
        shared = _common([prompt.ids for prompt in prompts.values()])
        first = next(iter(prompts.values()))
        tree = cls(pictures, shared, first.ids[:shared], first.visual[:shared], [], [], {}, {})
        tree.parents, tree.depths = list(range(-1, shared - 1)), list(range(shared))
        for number, prompt in prompts.items():
            own = tree._grow(shared - 1, prompt.ids[shared:], prompt.visual[shared:])
            tree.prompts[number] = [*range(shared), *own]
            for k, answer in enumerate(suffixes[number]):
                tree.suffixes[number, k] = tree._grow(tree.prompts[number][-1], answer, [False] * len(answer))
        return tree

    def _grow(self, parent: int, ids: Sequence[int], visual: Sequence[bool]) -> list[int]:
        start = len(self.ids)
        columns = list(range(start, start + len(ids)))
        depth = self.depths[parent] if parent >= 0 else -1
        self.ids += ids
        self.visual += visual
        self.parents += [parent, *columns[:-1]] if columns else []
        self.depths += range(depth + 1, depth + 1 + len(ids))
        return columns

    def __len__(self) -> int:
        return len(self.ids)

    def sees(self) -> Tensor:
        """(T, T) bool: which column sees which."""
        seen = torch.eye(len(self), dtype=torch.bool)
        for column, parent in enumerate(self.parents):
            if parent >= 0:
                seen[column] |= seen[parent]
        return seen


def _attention(vlm: VLM) -> str:
    config: Any = vlm.anatomy.decoder.config
    return config._attn_implementation


def _common(rows: Sequence[Sequence[int]]) -> int:
    """How many leading tokens are those of all rows."""
    shortest = min(rows, key=len)
    for place, token in enumerate(shortest):
        if any(row[place] != token for row in rows):
            return place
    return len(shortest)


@dataclass
class Grown:
    """A batch of rows that went through the trunk.

    Attributes:
        hidden: (B, T, H) what leaves it; calls: how each layer above is called.
        positions: (B, T), or (3, B, T) for models that count in three dimensions.
        cache: keys and values of the layers below, where they are kept.
    """

    hidden: Tensor
    calls: list[LayerCall]
    positions: Tensor
    cache: Any = None


@dataclass(frozen=True)
class Piece:
    """Some columns of one row of a batch."""

    batch: Grown
    row: int
    columns: list[int]


Way = list[Piece]
"""From the root to the last token of a prompt or answer."""


class Forest:
    """Prompts and answers that have been through the trunk; see `grow`."""

    def __init__(self, vlm: VLM, layer: int, prompts: Sequence[Prompt], suffixes: Sequence[list[list[int]]]):
        self.vlm, self.layer = vlm, layer
        self.prompts, self.suffixes = list(prompts), [list(answers) for answers in suffixes]
        self.ways: dict[tuple[int, int | None], Way] = {}

    @classmethod
    def grow(
        cls,
        vlm: VLM,
        layer: int,
        images: Sequence[object],
        questions: Sequence[str],
        answers: Sequence[Sequence[str]],
        keep_cache: bool = False,
    ) -> Forest:
        """Runs prompts and answers through everything below decoder layer `layer`, without gradient.

        Args:
            images: per prompt its picture(s) or None; the same object stands for the same picture.
            answers: per prompt the answers that are forced behind it; none: the prompt alone.
            keep_cache: keep keys and values, so that `speaking.speak` can go on from the prompts.

        Raises:
            UnpackableError: this model's prompts cannot share a row.
            InputError, PictureError: as `VLM.encode`.
        """
        if _attention(vlm) not in MASKED:
            raise UnpackableError("the attention kernel takes no mask of this form.")
        pictures = [vlm.read_pictures(image, question) for image, question in zip(images, questions, strict=True)]
        prompts = [vlm._prompter.prompt(q, p.placeholders) for q, p in zip(questions, pictures, strict=True)]
        suffixes = [
            [vlm._prompter.answer(prompt, text) for text in texts]
            for prompt, texts in zip(prompts, answers, strict=True)
        ]
        forest = cls(vlm, vlm.resolve_site(f"{layer}.mlp.out").layer, prompts, suffixes)
        trees = forest._trees(images, pictures)
        for some in _batches(trees, vlm.batch_tokens):
            forest._run(some, keep_cache)
        return forest

    # --- laying out ---------------------------------------------------------------------------------------------

    def _trees(self, images: Sequence[object], pictures: Sequence[PictureInputs]) -> list[Tree]:
        groups: list[list[int]] = []
        open_groups: dict[int, int] = {}
        for number, image in enumerate(images):
            at = open_groups.get(id(image)) if image is not None else None
            if at is None or not self._fits(groups[at], number, pictures):
                at = open_groups[id(image)] = len(groups)
                groups.append([])
            groups[at].append(number)
        return [
            Tree.of(pictures[group[0]], {n: self.prompts[n] for n in group}, {n: self.suffixes[n] for n in group})
            for group in groups
        ]

    def _fits(self, group: list[int], number: int, pictures: Sequence[PictureInputs]) -> bool:
        """Whether a prompt may stand behind the picture of a group: the model sees the same picture in it (one that reads the
        question as it looks does not), at the same place, and the row does not become too long."""
        first = group[0]
        same = pictures[first].placeholders == pictures[number].placeholders and _equal(
            pictures[first].inputs, pictures[number].inputs
        )
        shared = _common([self.prompts[first].ids, self.prompts[number].ids])
        size = sum(len(self.prompts[n].ids) - shared + sum(map(len, self.suffixes[n])) for n in [*group, number])
        return same and not any(self.prompts[number].visual[shared:]) and size <= COLUMNS

    def _run(self, trees: list[Tree], keep_cache: bool) -> None:
        vlm = self.vlm
        with torch.inference_mode(False), torch.no_grad():
            encoded, starts = self._encode(trees)
            trunk = vlm.trunk(encoded, 0)
            length = encoded.input_ids.shape[1]
            seen = torch.eye(length, dtype=torch.bool).repeat(len(trees), 1, 1)
            for row, (tree, start) in enumerate(zip(trees, starts, strict=True)):
                seen[row, start:, start:] = tree.sees()
            calls = Masks(encoded, seen.to(vlm.device), vlm).put_in(trunk.calls)
            cache = _new_cache(vlm, calls) if keep_cache else None
            with vlm.lock:
                hidden = trunk.hidden
                for index in range(self.layer):
                    hidden = run_layer(vlm, index, hidden, calls[index], cache)
        grown = Grown(hidden, calls[self.layer :], encoded.model_inputs["position_ids"], cache)
        for row, (tree, start) in enumerate(zip(trees, starts, strict=True)):
            for number, columns in tree.prompts.items():
                self.ways[number, None] = [Piece(grown, row, [start + column for column in columns])]
            for (number, k), columns in tree.suffixes.items():
                whole = [*tree.prompts[number], *columns]
                self.ways[number, k] = [Piece(grown, row, [start + column for column in whole])]

    def _encode(self, trees: list[Tree]) -> tuple[Encoded, list[int]]:
        """The trees as a batch; positions are depths. (batch, the column at which each tree starts)"""
        rows = [Prompt("", tree.ids, tree.visual, [False] * len(tree), 0) for tree in trees]
        encoded = self.vlm.assemble(rows, [[]] * len(rows), [tree.pictures for tree in trees])
        length = encoded.input_ids.shape[1]
        starts = [length - len(tree) for tree in trees]
        positions = encoded.model_inputs["position_ids"].clone()
        for row, (tree, start) in enumerate(zip(trees, starts, strict=True)):
            # from the first token after the picture on, every token is one further than the one before it on its way
            first = max((c for c, visual in enumerate(tree.visual) if visual), default=-1) + 1
            if first >= len(tree):
                continue
            depths = torch.tensor(tree.depths[first:], device=positions.device) - tree.depths[first]
            positions[..., row, start + first :] = positions[..., row, start + first, None] + depths
        encoded.model_inputs["position_ids"] = positions
        return encoded, starts

    # --- ordinary trunks ----------------------------------------------------------------------------------------

    def trunk(self, chosen: Sequence[tuple[int, int | None]]) -> Trunk:
        """A batch of prompts, each with one of its answers (None: alone), as `VLM.trunk` gives it; pictures left out."""
        encoded = self.encoded(chosen)
        cut = Cut(encoded, [self.ways[one] for one in chosen], self.vlm)
        return Trunk(self.layer, cut.hidden(), cut.calls(), encoded)

    def encoded(self, chosen: Sequence[tuple[int, int | None]]) -> Encoded:
        """That batch's tokens and masks."""
        suffixes = [[] if answer is None else self.suffixes[row][answer] for row, answer in chosen]
        prompts = [self.prompts[row] for row, _ in chosen]
        return left_padded(prompts, suffixes, pad_id(self.vlm), self.vlm.device)

    def reads_as(self, row: int, answer: int, text: str) -> bool:
        """Whether a text, forced behind a prompt, is the tokens of one of its answers."""
        try:
            return self.vlm._prompter.answer(self.prompts[row], text) == self.suffixes[row][answer]
        except InputError:  # empty, or holds what may not be typed
            return False

    def add(self, row: int, suffix: list[int], piece: Piece) -> int:
        """One more answer behind a prompt, which has been through the trunk elsewhere; returns its number."""
        self.suffixes[row].append(suffix)
        number = len(self.suffixes[row]) - 1
        self.ways[row, number] = [*self.ways[row, None], piece]
        return number


CACHE = "past_key_values"


def run_layer(vlm: VLM, index: int, hidden: Tensor, call: LayerCall, cache: Any = None) -> Tensor:
    """One decoder layer, called as the model was seen to call it; its keys and values go to the cache where there is one."""
    given = call.inputs if cache is None else {**call.inputs, CACHE: cache}
    hidden = vlm.layers[index](hidden, **given)
    return hidden if call.added is None else hidden + call.added


def _new_cache(vlm: VLM, calls: list[LayerCall]) -> Any:
    from transformers import DynamicCache

    if any(CACHE not in call.inputs for call in calls):
        raise UnpackableError("its layers are not given a cache by that name.")
    return DynamicCache()


def _equal(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(
        value is other[name] or torch.equal(value, other[name]) for name, value in one.items()
    )


def _batches(trees: list[Tree], most: int) -> list[list[Tree]]:
    """Trees of like length together, at most so many tokens with what is filled up; pictures apart from text."""
    found: list[list[Tree]] = []
    for tree in sorted(trees, key=lambda t: (not t.pictures.inputs, len(t))):
        last = found[-1] if found else None
        alike = last is not None and bool(last[0].pictures.inputs) == bool(tree.pictures.inputs)
        if last is not None and alike and (len(last) + 1) * len(tree) <= most:
            last.append(tree)
        else:
            found.append([tree])
    return found


class Masks:
    """Puts the trees' own attention mask where the model has a causal one."""

    def __init__(self, encoded: Encoded, seen: Tensor, vlm: VLM):
        self.valid, self.seen = encoded.attention_mask.bool(), seen
        self.shape = (self.valid.shape[0], self.valid.shape[1])
        self.as_numbers = _attention(vlm) == "eager"
        self.dtype = vlm.dtype
        self._made: dict[Any, Tensor] = {}

    def put_in(self, calls: list[LayerCall]) -> list[LayerCall]:
        return [replace(call, inputs=self._inputs(call.inputs)) for call in calls]

    def _inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if "attention_mask" not in inputs:
            raise UnpackableError("its layers are given no attention mask.")
        for name, value in inputs.items():
            if name != "attention_mask":
                _check_columns(name, value, self.shape)
        return {**inputs, "attention_mask": self._mask(inputs["attention_mask"])}

    def _mask(self, mask: Tensor | None) -> Tensor:
        if mask is None:
            kind: Any = self.dtype if self.as_numbers else torch.bool
        else:
            self._check(mask)
            kind = mask.dtype
        if kind not in self._made:
            self._made[kind] = as_mask(self.seen, kind)
        return self._made[kind]

    def _check(self, mask: Tensor) -> None:
        """What is replaced must be the plain causal mask: a window, or a prompt read in both directions, would be lost."""
        batch, length = self.shape
        if mask.ndim != 4 or mask.shape[-2:] != (length, length) or len(mask) not in (1, batch):
            raise UnpackableError(f"its attention mask has the shape {tuple(mask.shape)}.")
        open_ = mask if mask.dtype == torch.bool else mask == 0
        causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril() & self.valid[:, None, :]
        wrong = (open_[:, 0] != causal) & self.valid[:, :, None]
        if bool(wrong.any()):
            raise UnpackableError("its attention mask is not the causal one.")


def as_mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, Q, K) bool → (B, 1, Q, K): truth values, or numbers to add."""
    if dtype == torch.bool:
        return seen[:, None]
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def _check_columns(name: str, value: Any, shape: tuple[int, int]) -> None:
    """Raises: UnpackableError where it is not known what of a value belongs to which column."""
    if isinstance(value, tuple | list):
        for part in value:
            _check_columns(name, part, shape)
    elif isinstance(value, dict):
        for part in value.values():
            _check_columns(name, part, shape)
    elif isinstance(value, Tensor):
        if batch_dim(value, shape) is None:
            raise UnpackableError(f"its layers are given '{name}' of shape {tuple(value.shape)}.")
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise UnpackableError(f"its layers are given '{name}', a {type(value).__name__}.")


def batch_dim(value: Tensor, shape: tuple[int, int]) -> int | None:
    """0 for (B, T, ...), 1 for (3, B, T, ...): positions in several dimensions; None for another form."""
    if value.ndim >= 3 and value.shape[0] in (3, 4) and tuple(value.shape[1:3]) == shape:
        return 1
    return 0 if value.ndim >= 2 and tuple(value.shape[:2]) == shape else None


class Cut:
    """Ways through trees, laid out as an ordinary batch: left-padded rows of their own.

    Args:
        encoded: that batch.
        ways: per row where it comes from.
    """

    def __init__(self, encoded: Encoded, ways: Sequence[Way], vlm: VLM):
        self.encoded, self.vlm, self.ways = encoded, vlm, ways
        self.length = encoded.input_ids.shape[1]
        self._done: dict[tuple[int, ...], Any] = {}
        self._index: dict[int, Tensor] = {}

    def hidden(self) -> Tensor:
        """(B, T, H)."""
        return self.columns([[piece.batch.hidden for piece in way] for way in self.ways])

    def calls(self) -> list[LayerCall]:
        """How the layers above are called for this batch; the mask is the plain causal one."""
        count = len(self.ways[0][0].batch.calls)
        return [
            self._call([[piece.batch.calls[index] for piece in way] for way in self.ways]) for index in range(count)
        ]

    def _call(self, calls: list[list[LayerCall]]) -> LayerCall:
        inputs = {}
        for name, first in calls[0][0].inputs.items():
            values = [[call.inputs[name] for call in way] for way in calls]
            inputs[name] = self._mask(first.dtype) if name == "attention_mask" else self._joined(values)
        if all(call.added is None for way in calls for call in way):
            return LayerCall(inputs)
        added = [
            [
                torch.zeros_like(piece.batch.hidden) if call.added is None else call.added
                for call, piece in zip(of_row, way, strict=True)
            ]
            for of_row, way in zip(calls, self.ways, strict=True)
        ]
        return LayerCall(inputs, self.columns(added))

    def _mask(self, dtype: torch.dtype) -> Tensor:
        key = (hash(dtype),)
        if key not in self._done:
            valid = self.encoded.attention_mask.bool()
            causal = torch.ones(self.length, self.length, dtype=torch.bool, device=valid.device).tril()
            itself = torch.eye(self.length, dtype=torch.bool, device=valid.device)
            self._done[key] = as_mask((causal & valid[:, None, :]) | itself, dtype)
        return self._done[key]

    def _joined(self, values: list[list[Any]]) -> Any:
        """The columns of a value that is given to a layer; one object in all batches' calls stays one object."""
        key = tuple(id(value) for way in values for value in way)
        if key not in self._done:
            first = values[0][0]
            if isinstance(first, Tensor):
                found: Any = self.columns(values)
            elif isinstance(first, tuple | list):
                parts = range(len(first))
                found = type(first)(self._joined([[v[i] for v in way] for way in values]) for i in parts)
            elif isinstance(first, dict):
                found = {name: self._joined([[v[name] for v in way] for way in values]) for name in first}
            else:
                found = first
            self._done[key] = found
        return self._done[key]

    def columns(self, values: Sequence[Sequence[Tensor]]) -> Tensor:
        """Each row's columns of its values, one for each piece of its way: (·, B, T, ...); zeros before a row's first token."""
        grown = self.ways[0][0].batch
        dim = batch_dim(values[0][0], (grown.hidden.shape[0], grown.hidden.shape[1]))
        assert dim is not None, "checked when the trees were run"
        rows = []
        for of_row, way in zip(values, self.ways, strict=True):
            parts = [
                value.select(dim, piece.row).index_select(dim, self._columns(piece))
                for value, piece in zip(of_row, way, strict=True)
            ]
            count = sum(part.shape[dim] for part in parts)
            shape = parts[0].shape
            empty = parts[0].new_zeros(*shape[:dim], self.length - count, *shape[dim + 1 :])
            rows.append(torch.cat([empty, *parts], dim))
        return torch.stack(rows, dim)

    def _columns(self, piece: Piece) -> Tensor:
        if id(piece) not in self._index:
            self._index[id(piece)] = torch.tensor(piece.columns, device=piece.batch.hidden.device)
        return self._index[id(piece)]


def pad_id(vlm: VLM) -> int:
    """The token that fills up rows."""
    return generation.pad_id(vlm.tokenizer, vlm._prompter.end_ids)
