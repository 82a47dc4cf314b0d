"""Requests with forced answers, read once and put together in any batches: what editors train on that run the whole model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import InputError
from ...vlm import generation
from ...vlm.pictures import open_picture, picture_key

if TYPE_CHECKING:
    from ...vlm.base import VLM, Encoded
    from ...vlm.picture_inputs import PictureInputs
    from ...vlm.prompts import Prompt


@dataclass(frozen=True, eq=False)
class Forced:
    """A request and what it is forced to say.

    Args:
        question: as the model reads it, with whatever is put around it.
    """

    image: Any
    question: str
    answer: str


class Requests:
    """Reads requests and keeps what was read.

    Args:
        memory_gb: most that pictures take in memory, 10⁹ bytes; those used longest ago are read again, to the same bits.
    """

    def __init__(self, vlm: VLM, memory_gb: float):
        self.vlm, self._budget, self._used = vlm, int(memory_gb * 1e9), 0
        self._pictures: OrderedDict[tuple[str, str], PictureInputs] = OrderedDict()
        self._texts: dict[tuple[str, str, tuple[str, ...]], tuple[Prompt, list[int]]] = {}

    def fits(self, one: Forced) -> bool:
        """Whether the answer can be forced: it is not empty, and the prompt not longer than the model reads."""
        try:
            self.vlm.answer_tokens(one.question, one.answer, one.image is not None)
        except InputError:
            return False
        return True

    def batch(self, asked: Sequence[Forced], soft: Sequence[Tensor | None] | None = None) -> Encoded:
        """As `VLM.encode` gives it.

        Args:
            soft: per row embeddings (n, E) that stand before its question, or None; gradients flow into them.
        """
        vlm, read = self.vlm, [self._read(one) for one in asked]
        prompts = [prompt for _, prompt, _ in read]
        if soft is not None:
            filler = generation.pad_id(vlm.tokenizer, vlm._prompter.end_ids)
            pairs = zip(prompts, soft, strict=True)
            prompts = [prompt if some is None else prompt.with_soft(len(some), filler) for prompt, some in pairs]
        encoded = vlm.assemble(prompts, [suffix for _, _, suffix in read], [pictures for pictures, _, _ in read])
        if encoded.soft_mask is not None:
            encoded.soft = torch.cat([some.to(vlm.device) for some in soft or () if some is not None and len(some)])
        return encoded

    def _read(self, one: Forced) -> tuple[PictureInputs, Prompt, list[int]]:
        pictures = self._seen(one)
        key = (one.question, one.answer, pictures.placeholders)
        if key not in self._texts:
            prompter = self.vlm._prompter
            prompt = prompter.prompt(one.question, pictures.placeholders)
            self._texts[key] = prompt, prompter.answer(prompt, one.answer)
        return pictures, *self._texts[key]

    def _seen(self, one: Forced) -> PictureInputs:
        if one.image is None:
            return self.vlm.read_pictures(None, one.question)
        # some families look at a picture with the question in mind
        name = str(one.image) if isinstance(one.image, str | Path) else picture_key(one.image)
        key = (name, one.question if self.vlm.family.read_pictures else "")
        if key not in self._pictures:
            self._pictures[key] = self.vlm.read_pictures(open_picture(one.image), one.question)
            self._used += _nbytes(self._pictures[key])
            while self._used > self._budget and len(self._pictures) > 1:
                self._used -= _nbytes(self._pictures.popitem(last=False)[1])
        self._pictures.move_to_end(key)
        return self._pictures[key]


def _nbytes(pictures: PictureInputs) -> int:
    return sum(tensor.nbytes for tensor in pictures.inputs.values())
