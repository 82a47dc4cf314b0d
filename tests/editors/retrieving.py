"""What tests of editors that cite edits from a memory share: a sentence encoder of bags of words, small cases, small fittings."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.evaluate.small import case
from tests.vlm.models import QUESTIONS, picture
from vledit.data.case import EditRequest
from vledit.editors.edited_model import EditedModel
from vledit.editors.registry import editor_class
from vledit.editors.training.fitting import Fitting

REQUEST = EditRequest(picture(0), QUESTIONS[0], "two cups", ("What can be seen?",))
ROWS = ([picture(0), picture(9), None], [QUESTIONS[0], QUESTIONS[1], QUESTIONS[2]])


class Words:
    """Texts as unit vectors of their words: each word has a fixed random direction."""

    dim, fingerprint, name = 64, "words", "words"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        found = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                found[row] += np.random.RandomState(zlib.crc32(word.encode())).standard_normal(self.dim)
            found[row] /= np.linalg.norm(found[row])
        return found


def fitted(name: str, vlm: Any, folder: Path, cases: int = 4, **settings: Any) -> Path:
    """An editor's fitting to a tiny model on cases of its own."""
    method = editor_class(name)
    config = method.FitConfig(**{"per_cell": 1, **settings})
    return method.fit(Fitting(vlm, [case(number) for number in range(cases)], folder, config))


def logits(model: EditedModel, image: object, question: str, tokens: int = 3) -> torch.Tensor:
    """(tokens, V) of the greedy answer."""
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "return_dict_in_generate": True}
    return torch.cat(model.generate([image], [question], output_logits=True, **options).logits)
