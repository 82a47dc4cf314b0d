"""`speak`: greedy answers to the prompts of a `Forest`, generated from the keys and values of its trunk.

The answers are those of `generate`.  Their tokens go through the trunk as they are generated, so the forest afterwards contains
the answer as one of those behind the prompt, and nothing is run twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .columns import Cut, Grown, Masks, Piece, UnpackableError, batch_dim
from .encoded import CACHE, Encoded, LayerCall
from .forest import Forest
from .picture_inputs import PictureInputs
from .prompts import Prompt


@dataclass(frozen=True)
class Said:
    """`text`: the answer; `ids`: its tokens, the end not among them; `answer`: its number in the forest."""

    text: str
    ids: list[int]
    answer: int


def speak(forest: Forest, rows: Sequence[int], max_new_tokens: int) -> dict[int, Said]:
    """Greedy answers to these prompts, cut after `max_new_tokens`.

    Raises:
        UnpackableError: the forest does not remember one of them.
    """
    if not rows:
        return {}
    with torch.inference_mode(False), torch.no_grad(), forest.vlm.lock:
        return _Speaker(forest, rows).run(max_new_tokens)


class _Speaker:
    def __init__(self, forest: Forest, rows: Sequence[int]):
        self.forest, self.vlm, self.rows = forest, forest.vlm, list(rows)
        chosen = [(row, None) for row in rows]
        ways = [forest.ways[one] for one in chosen]
        if not all(map(forest.remembers, rows)):
            raise UnpackableError("keys and values of the prompts were not kept.")
        encoded = forest.encoded(chosen)
        cut = Cut(encoded, ways, self.vlm)
        self.cache = self._prompts_cache(cut)
        self.valid = encoded.attention_mask.bool()
        last = [way[-1].batch.positions[..., way[-1].row, way[-1].columns[-1]] for way in ways]
        self.position = torch.stack(last, -1)  # (B,) or (3, B): where the last token stands
        self.hidden: list[Tensor] = []
        self.calls: list[list[LayerCall]] = []
        self.logits = self._above(cut.hidden(), cut.calls())

    def _prompts_cache(self, cut: Cut) -> Any:
        """Keys and values of the layers below the trunk's end, a row for each prompt."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for index in range(self.forest.layer):
            # (B, heads, T, d) → (B, T, heads, d), whose columns can be picked
            sides = [
                cut.columns(
                    [[getattr(p.batch.cache.layers[index], side).transpose(1, 2) for p in way] for way in cut.ways]
                )
                for side in ("keys", "values")
            ]
            cache.update(sides[0].transpose(1, 2), sides[1].transpose(1, 2), index)
        return cache

    def _above(self, hidden: Tensor, calls: list[LayerCall]) -> Tensor:
        """From what leaves the trunk to the logits after the last column, (B, V)."""
        vlm = self.vlm
        for index, call in enumerate(calls, self.forest.layer):
            hidden = call.run(vlm.layers[index], hidden, self.cache)
        return vlm.after_projection(vlm.anatomy.lm_head(vlm.anatomy.finish(hidden[:, -1])))

    def _feed(self, tokens: list[int]) -> None:
        """One more token for every row."""
        vlm, count = self.vlm, len(self.rows)
        self.position = self.position + 1
        prompts = [Prompt("", [token], [False], [False], 0) for token in tokens]
        encoded = vlm.assemble(prompts, [[]] * count, [PictureInputs()] * count)
        encoded.model_inputs["position_ids"] = self.position[..., None]
        self.valid = torch.cat([self.valid, self.valid.new_ones(count, 1)], 1)
        hidden, calls = self._embedded(encoded)
        for index in range(self.forest.layer):
            hidden = calls[index].run(vlm.layers[index], hidden, self.cache)
        self.hidden.append(hidden)
        self.calls.append(calls[self.forest.layer :])
        self.logits = self._above(hidden, calls[self.forest.layer :])

    def _embedded(self, encoded: Encoded) -> tuple[Tensor, list[LayerCall]]:
        """What enters the first layer, and how the layers are called where they see all that came before."""
        trunk = self.vlm.trunk(encoded, 0)
        return trunk.hidden, Masks(encoded, self.valid[:, None, :], self.vlm).put_in(trunk.calls)

    def run(self, max_new_tokens: int) -> dict[int, Said]:
        prompter = self.vlm._prompter
        said: list[list[int]] = [[] for _ in self.rows]
        fed: list[list[int]] = [[] for _ in self.rows]
        ended = [False] * len(self.rows)
        while True:
            for place, token in enumerate(self.logits.float().argmax(-1).tolist()):
                if ended[place]:
                    fed[place].append(prompter.end_ids[0])
                    continue
                cut_off = len(said[place]) >= max_new_tokens
                if cut_off or token in prompter.end_ids:
                    ended[place] = True
                    fed[place].append(prompter.end_ids[0])  # the end that is taught
                    continue
                said[place].append(token)
                fed[place].append(token)
                end = prompter.family.end_of_answer
                ended[place] = bool(end) and end in prompter.tokenizer.decode(said[place], skip_special_tokens=True)
            if all(ended):  # nothing follows the last tokens, so they are not fed
                return self._kept(said, fed)
            self._feed([tokens[-1] for tokens in fed])

    def _kept(self, said: list[list[int]], fed: list[list[int]]) -> dict[int, Said]:
        """Puts what was said behind the prompts in the forest."""
        calls = [_joined(parts, (len(self.rows), 1)) for parts in zip(*self.calls, strict=True)]
        steps = Grown(torch.cat(self.hidden, 1), calls, self.position) if self.hidden else None
        found = {}
        ends_in_text = self.vlm._prompter.family.end_of_answer is not None
        for place, row in enumerate(self.rows):
            ids = said[place]
            tokens = fed[place][: len(ids) + (0 if ends_in_text else 1)]
            columns = list(range(len(tokens) - 1))
            number = self.forest.add(row, tokens, [Piece(steps, place, columns)] if steps and columns else [])
            found[row] = Said(self.vlm._prompter.text(ids), ids, number)
        return found


def _joined(calls: Sequence[LayerCall], shape: tuple[int, int]) -> LayerCall:
    """How a layer was called for one column after the other, as one call; `shape`: (B, 1)."""

    def join(name: str, values: list[Any]) -> Any:
        first = values[0]
        if name == "attention_mask":
            return first  # its dtype is all that is asked of it
        if isinstance(first, Tensor):
            dim = batch_dim(first, shape)
            assert dim is not None, "checked when the mask was put in"
            return torch.cat(values, dim + 1)
        if isinstance(first, tuple | list):
            return type(first)(join(name, [value[i] for value in values]) for i in range(len(first)))
        if isinstance(first, dict):
            return {key: join(name, [value[key] for value in values]) for key in first}
        return first

    names = [name for name in calls[0].inputs if name != CACHE]
    return LayerCall({name: join(name, [call.inputs[name] for call in calls]) for name in names} | {CACHE: None})
