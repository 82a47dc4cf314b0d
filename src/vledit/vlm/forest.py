"""`Forest`: prompts with a common beginning, each with several answers, run through the trunk with every shared token run once.

Scoring asks many questions about one picture, and teacher-forces several answers to each.  Run one by one, the picture and the
question would go through the trunk every time.  Here all of them form a tree in one row: the picture, then the rest of
every question, then its answers.  A token attends to those on its own path to the root and has the position that it would have
alone, so the results are those of one row per answer, up to rounding.  An answer's last token is left out: it is
predicted by the tokens before it, and predicts nothing itself.

    forest = Forest.grow(vlm, layer, pictures, questions, answers)
    trunk = forest.trunk([(0, 1), (3, 0)])      # row 0 with its second answer, row 3 with its first: an ordinary `Trunk`

It needs only the decoder layers, called as the model itself was observed to call them.  If they are called with
something that cannot be cut into columns (masks that are not causal, kernels that take none), `UnpackableError` is raised, and
the caller runs one row per answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError
from . import generation
from .columns import MASKED, Cut, Grown, Masks, Piece, UnpackableError, Way, attention
from .encoded import CACHE, Encoded, LayerCall, Trunk, left_padded
from .picture_inputs import PictureInputs
from .places import is_recurrent
from .prompts import Prompt
from .tree import Tree, common

if TYPE_CHECKING:
    from .base import VLM

Acting = Callable[[Encoded], contextlib.AbstractContextManager[Any]]
COLUMNS = 512
"""Most tokens of one tree beyond what its prompts share; a larger one is cut into several."""
PER_BATCH = 16
"""What a batch costs beside its tokens, in tokens: reading all weights once takes about as long as 10 tokens on one core (see
`benchmarks/floor.py`: 14 GB/s against 65 GFLOP/s), 20 on two."""


class Forest:
    """Prompts and answers that have been through the trunk; see `grow`."""

    def __init__(self, vlm: VLM, layer: int, prompts: Sequence[Prompt], suffixes: Sequence[list[list[int]]]):
        self.vlm, self.layer = vlm, layer
        self.prompts, self.suffixes = list(prompts), [list(answers) for answers in suffixes]
        self.ways: dict[tuple[int, int | None], Way] = {}
        self.kept = 0  # bytes of keys and values
        self.acting: Acting | None = None
        self.below: dict[int, dict[int, Way]] = {}  # lower layer → prompt → where what enters that layer lies

    @classmethod
    def grow(
        cls,
        vlm: VLM,
        layer: int,
        images: Sequence[object],
        questions: Sequence[str],
        answers: Sequence[Sequence[str]],
        keep_bytes: int = 0,
        acting: Acting | None = None,
        also: Sequence[int] = (),
    ) -> Forest:
        """Runs prompts and answers through everything below decoder layer `layer`, without gradient.

        Args:
            images: per prompt its picture(s) or None; the same object stands for the same picture.
            answers: per prompt the answers that are forced behind it; none: the prompt alone.
            keep_bytes: how many bytes of keys and values to keep, so that `speaking.speak` can go on from the prompts; those
                of prompts that are run once these are full are given up (`remembers`).
            acting: from a batch to the context in which its layers run, where something acts on every token of all prompts alike.
            also: lower layers at which trunks of the prompts alone will be asked for.

        Raises:
            UnpackableError: this model's prompts cannot share a row.
            InputError, PictureError: as `VLM.encode`.
        """
        if attention(vlm) not in MASKED:
            raise UnpackableError("the attention kernel takes no mask of this form.")
        if any(is_recurrent(layer) for layer in vlm.layers):
            raise UnpackableError(
                "some of its layers carry a state along the row, which branches of a tree cannot share."
            )
        pictures = [vlm.read_pictures(image, question) for image, question in zip(images, questions, strict=True)]
        prompts = [vlm._prompter.prompt(q, p.placeholders) for q, p in zip(questions, pictures, strict=True)]
        suffixes = [
            [vlm._prompter.answer(prompt, text) for text in texts]
            for prompt, texts in zip(prompts, answers, strict=True)
        ]
        forest = cls(vlm, vlm.resolve_site(f"{layer}.mlp.out").layer, prompts, suffixes)
        forest.acting, forest.below = acting, {one: {} for one in also}
        trees = forest._trees(images, pictures)
        for some in _batches(trees, vlm.batch_tokens):
            forest._run(some, keep_bytes)
        return forest

    # --- laying out ---------------------------------------------------------------------------------------------

    def _trees(self, images: Sequence[object], pictures: Sequence[PictureInputs]) -> list[Tree]:
        groups: list[list[int]] = []
        open_groups: dict[int, int] = {}
        for number, image in enumerate(images):  # prompts without a picture lie in one row, whatever they share
            at = open_groups.get(id(image))
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
        shared = common([self.prompts[first].ids, self.prompts[number].ids])
        size = sum(len(self.prompts[n].ids) - shared + sum(map(len, self.suffixes[n])) for n in [*group, number])
        return same and not any(self.prompts[number].visual[shared:]) and size <= COLUMNS

    def _run(self, trees: list[Tree], keep_bytes: int) -> None:
        vlm = self.vlm
        with torch.inference_mode(False), torch.no_grad():
            encoded, starts = self._encode(trees)
            trunk = vlm.trunk(encoded, 0)
            length = encoded.input_ids.shape[1]
            seen = torch.eye(length, dtype=torch.bool, device="cpu").repeat(len(trees), 1, 1)
            for row, (tree, start) in enumerate(zip(trees, starts, strict=True)):
                seen[row, start:, start:] = tree.sees()
            calls = Masks(encoded, seen.to(vlm.device), vlm).put_in(trunk.calls)
            cache = _new_cache(calls) if self.kept < keep_bytes else None
            with vlm.lock, contextlib.nullcontext() if self.acting is None else self.acting(encoded):
                hidden = trunk.hidden
                entered = {}
                for index in range(self.layer):
                    if index in self.below:
                        entered[index] = hidden
                    hidden = calls[index].run(vlm.layers[index], hidden, cache)
        if cache is not None:
            size = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
            cache = cache if self.kept + size <= keep_bytes else None
            self.kept += size
        grown = Grown(hidden, calls[self.layer :], encoded.model_inputs["position_ids"], cache)
        lower = {one: Grown(x, calls[one:], encoded.model_inputs["position_ids"]) for one, x in entered.items()}
        for row, (tree, start) in enumerate(zip(trees, starts, strict=True)):
            for number, columns in tree.prompts.items():
                for one, batch in lower.items():
                    self.below[one][number] = [Piece(batch, row, [start + column for column in columns])]
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

    def trunk_below(self, chosen: Sequence[int], layer: int) -> Trunk:
        """A batch of prompts alone, ending at one of the lower layers that were asked for."""
        encoded = self.encoded([(row, None) for row in chosen])
        cut = Cut(encoded, [self.below[layer][row] for row in chosen], self.vlm)
        return Trunk(layer, cut.hidden(), cut.calls(), encoded)

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

    def remembers(self, row: int) -> bool:
        """Whether the keys and values of a prompt were kept, so that it can be gone on from."""
        return all(piece.batch.cache is not None for piece in self.ways[row, None])

    def add(self, row: int, suffix: list[int], pieces: list[Piece]) -> int:
        """One more answer behind a prompt; all of it but its last token went through the trunk elsewhere. Returns its number."""
        self.suffixes[row].append(suffix)
        number = len(self.suffixes[row]) - 1
        self.ways[row, number] = [*self.ways[row, None], *pieces]
        return number


def _new_cache(calls: list[LayerCall]) -> Any:
    from transformers import DynamicCache

    if any(CACHE not in call.inputs for call in calls):
        raise UnpackableError("its layers are not given a cache by that name.")
    return DynamicCache()


def _equal(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(
        value is other[name] or torch.equal(value, other[name]) for name, value in one.items()
    )


def _batches(trees: list[Tree], most: int) -> list[list[Tree]]:
    """Trees of like length together, at most `most` tokens with what is filled up, so that all batches together cost least.

    Pictures come apart from text.  A tree longer than `most` is a batch by itself.
    """
    found = []
    for pictured in (True, False):
        alike = sorted((tree for tree in trees if bool(tree.pictures.inputs) == pictured), key=len)
        # best[n]: the least cost of the first n trees, and where their last batch starts
        best: list[tuple[int, int]] = [(0, 0)]
        for end, tree in enumerate(alike, 1):
            sizes = ((start, (end - start) * len(tree)) for start in range(end))
            best.append(
                min(
                    (best[start][0] + size + PER_BATCH, start)
                    for start, size in sizes
                    if size <= most or start == end - 1
                )
            )
        cuts = [len(alike)]
        while cuts[-1]:
            cuts.append(best[cuts[-1]][1])
        found += [alike[start:end] for end, start in pairwise(cuts)][::-1]
    return found


def pad_id(vlm: VLM) -> int:
    """The token that fills up rows."""
    return generation.pad_id(vlm.tokenizer, vlm._prompter.end_ids)
