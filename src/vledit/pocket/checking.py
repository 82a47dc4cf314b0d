"""What a model in training knows: whether it recognises held-out drawings, and answers wordings that it was not trained on."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import torch

from .examples import ROOM, Examples
from .learner import Learner
from .packing import Packed, Packer, Row


@torch.no_grad()
def recognised(learner: Learner, examples: Examples, count: int, batch: int) -> dict[str, float]:
    """How often the memory's first slot is the right one, on held-out vendors' drawings, by domain."""
    rng = random.Random(1)
    drawings = [d for d in examples.data.drawings if d.split == "held_out"]
    right: dict[str, list[bool]] = defaultdict(list)
    for _ in range(0, count, batch):
        chosen = rng.choices(drawings, k=batch)
        pictures = np.stack([examples.picture(d, rng.randrange(2**31), "clean") for d in chosen])
        best = learner.look(torch.from_numpy(pictures))[1].argmax(-1).tolist()
        for drawing, slot in zip(chosen, best, strict=True):
            domain = examples.data.concepts[drawing.concept].domain
            right[domain].append(slot == examples.index[drawing.concept])
    return {f"recognised.{domain}": round(float(np.mean(values)), 3) for domain, values in right.items()}


@torch.no_grad()
def answered(learner: Learner, examples: Examples, packer: Packer, batches: int, size: int) -> dict[str, float]:
    """Teacher-forced exact match with test wordings: on train drawings newly augmented, and on held-out vendors."""
    out = {}
    for split in ("train", "held_out"):
        right: dict[str, list[bool]] = defaultdict(list)
        for i in range(batches):
            rows = check_rows(examples, split, seed=10_000 + i, size=size)
            packed = packer.pack(rows)
            visual, _ = learner.look(torch.from_numpy(packed.pictures))
            logits, targets = learner.answer_logits(packed, visual)
            for kind, exact in exact_by_pair(packed, logits.argmax(-1).numpy(), targets.numpy()):
                right[kind].append(exact)
        for kind, values in right.items():
            out[f"{split}.{kind}"] = round(float(np.mean(values)), 3)
    return out


def check_rows(examples: Examples, split: str, seed: int, size: int) -> list[Row]:
    """Rows with drawings of one split and test wordings."""
    rng = random.Random(seed)
    drawings = [d for d in examples.data.drawings if d.split == split]
    rows = []
    wordings, examples.wordings = examples.wordings, "held_out"
    try:
        for _ in range(size):
            drawing = rng.choice(drawings)
            mode = "augment" if split == "train" else "clean"
            picture = examples.picture(drawing, rng.randrange(2**31), mode)
            rows.append(Row(picture, examples.pairs(rng, drawing.concept, ROOM)))
    finally:
        examples.wordings = wordings
    return rows


def exact_by_pair(packed: Packed, predicted: np.ndarray, targets: np.ndarray) -> list[tuple[str, bool]]:
    """Was every token of the pair's answer predicted? In the order of the rows."""
    rows, columns = np.nonzero(packed.targets != -100)
    segments = packed.segments[rows, columns]
    right = predicted == targets
    out = []
    for row, kinds in enumerate(packed.kinds):
        for number, kind in enumerate(kinds, start=1):
            mine = (rows == row) & (segments == number)
            out.append((kind, bool(right[mine].all())))
    return out
