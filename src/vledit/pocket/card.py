"""The model card of the embedded model, measured: greedy exact match with 95 % intervals, and whether it uses the picture.

There are four conditions per kind of question: seen drawings newly augmented, and drawings by held-out vendors, each with train
and with test wordings. Exact match is determined by the verified pass (`VLM.verify`), which is true exactly if greedy decoding
gives the answer.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..vlm.base import VLM
from .examples import NOTHING, general_questions

SIZE = 192
CONDITIONS = (
    ("seen drawings, train wordings", "train", "train"),
    ("seen drawings, test wordings", "train", "test"),
    ("held-out vendors, train wordings", "held_out", "train"),
    ("held-out vendors, test wordings", "held_out", "test"),
)
WORDINGS = {"train": "train", "test": "held_out"}
"""The data set's name for what the card calls so: it tests with all wordings that training never saw."""


@dataclass(frozen=True)
class Share:
    """right of n, with Wilson's 95 % interval."""

    right: int
    n: int

    @property
    def mean(self) -> float:
        return self.right / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        if not self.n:
            return math.nan, math.nan
        z, p, n = 1.96, self.mean, self.n
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


@dataclass(frozen=True)
class Question:
    """One thing to ask: picture (or None), question, the right answer."""

    image: Any
    question: str
    answer: str


def verified(vlm: VLM, asked: list[Question], batch: int = 32) -> Iterator[tuple[list[int], list[bool]]]:
    """Batch by batch: which questions, and whether the greedy answer to each is exactly the right one."""
    for rows in vlm.batches(asked, batch):
        some = [asked[i] for i in rows]
        encoded = vlm.encode([q.image for q in some], [q.question for q in some], [q.answer for q in some])
        yield rows, vlm.verify(encoded).exact.tolist()


def exact(vlm: VLM, asked: list[Question], batch: int = 32) -> Share:
    """Share of questions whose greedy answer is exactly the right one."""
    return Share(sum(sum(right) for _, right in verified(vlm, asked, batch)), len(asked))


def answers(vlm: VLM, asked: list[Question], batch: int = 32) -> list[str]:
    """Greedy answers, in order."""
    found = [""] * len(asked)
    for rows in vlm.batches(asked, batch):
        texts = vlm.answer([asked[i].image for i in rows], [asked[i].question for i in rows], max_new_tokens=12)
        for i, text in zip(rows, texts, strict=True):
            found[i] = text
    return found


def picture_questions(
    data: Any, domain: str, kind: str, split: str, wordings: str, n: int, seed: int
) -> list[Question]:
    """`n` questions of one kind: drawings of the split drawn evenly, augmented newly (no seed of the training's)."""
    rng = random.Random(f"card {seed} {domain} {kind} {split} {wordings}")
    drawings = [d for d in data.drawings if d.split == split and data.concepts[d.concept].domain == domain]
    asked = []
    for drawing in rng.sample(drawings, min(n, len(drawings))):
        mode = "augment" if split == "train" else "clean"
        image = data.composite(drawing, seed=f"card{rng.random()}", mode=mode, size=SIZE)
        question = rng.choice(data.wordings(domain, kind, WORDINGS[wordings]))
        asked.append(Question(image, question, data.concepts[drawing.concept].facts[kind]))
    return asked


def text_questions(data: Any, key: str, wordings: str, n: int, seed: int) -> list[Question]:
    """`n` questions without any picture, e.g. for "flags.capital"."""
    rng = random.Random(f"card text {seed} {key} {wordings}")
    domain, kind = key.split(".")
    concepts = data.concepts_of(domain)
    asked = []
    for concept in rng.sample(concepts, min(n, len(concepts))):
        question = rng.choice(data.text_wordings(key, WORDINGS[wordings])).format(name=concept.name)
        asked.append(Question(None, question, concept.facts[kind]))
    return asked


def measure(vlm: VLM, data: Any, n: int = 200, seed: int = 1, say: Callable[[str], None] = print) -> dict[str, Any]:
    """All of the card's figures; each is {"right", "n", "mean", "low", "high"}."""
    card: dict[str, Any] = {"pictures": {}, "text": {}, "looking": {}}
    kinds = {d: sorted(data.concepts_of(d)[0].facts) for d in ("things", "flags", "brands")}
    for domain, names in kinds.items():
        for kind in names:
            for condition, split, wordings in CONDITIONS:
                share = exact(vlm, picture_questions(data, domain, kind, split, wordings, n, seed))
                card["pictures"].setdefault(f"{domain}.{kind}", {})[condition] = record(share)
            say(
                f"{domain}.{kind}: "
                + ", ".join(f"{c} {v['text']}" for c, v in card["pictures"][f"{domain}.{kind}"].items())
            )
    from .examples import TEXT_KINDS

    for key in TEXT_KINDS:
        card["text"][key] = {w: record(exact(vlm, text_questions(data, key, w, n, seed))) for w in ("train", "test")}
        say(f"text {key}: {card['text'][key]['test']['text']}")
    card["text"]["general"] = {
        w: record(exact(vlm, [Question(None, q, a) for q, a in general_questions(WORDINGS[w])]))
        for w in ("train", "test")
    }
    card["looking"] = looking(vlm, data, n, seed)
    for name, value in card["looking"].items():
        say(f"{name}: {value['text']}")
    return card


def looking(vlm: VLM, data: Any, n: int, seed: int) -> dict[str, Any]:
    """Does the answer depend on the picture? Swapped, blackened and missing pictures, with test wordings."""
    rng = random.Random(f"card looking {seed}")
    asked: list[Question] = []
    for domain, kind in (("things", "name"), ("flags", "country"), ("brands", "brand")):
        asked += picture_questions(data, domain, kind, "train", "test", n // 3, seed + 1)
    order = list(range(len(asked)))
    swapped = []
    for i, one in enumerate(asked):
        block = [j for j in order if j // (n // 3) == i // (n // 3) and asked[j].answer != one.answer]
        swapped.append(Question(asked[rng.choice(block)].image, one.question, one.answer))
    first, second = answers(vlm, asked), answers(vlm, swapped)
    black = [Question(vlm.black(), q.question, q.answer) for q in asked]
    none = [Question(None, q.question, q.answer) for q in asked]
    found = {
        "answer changes when the picture is swapped": Share(
            sum(a != b for a, b in zip(first, second, strict=True)), len(asked)
        ),
        f"a black picture is answered '{NOTHING}'": Share(sum(a == NOTHING for a in answers(vlm, black)), len(asked)),
        f"without a picture the answer is '{NOTHING}'": Share(
            sum(a == NOTHING for a in answers(vlm, none)), len(asked)
        ),
    }
    return {name: record(share) for name, share in found.items()}


def record(share: Share) -> dict[str, Any]:
    low, high = share.interval
    return {"right": share.right, "n": share.n, "mean": share.mean, "low": low, "high": high, "text": str(share)}


def markdown(card: dict[str, Any], about: dict[str, Any]) -> str:
    """The card's tables."""
    lines = [
        "## Measured",
        "",
        f"{about['date']}, seed {about['seed']}, {about['machine']}; weights `{about['weights']}`.",
        "",
    ]
    lines += ["Exact-match greedy accuracy in % [95 % interval]:", ""]
    names = [name for name, _, _ in CONDITIONS]
    lines += ["| question | n | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for key, row in card["pictures"].items():
        counts = "/".join(str(n) for n in sorted({row[name]["n"] for name in names}, reverse=True))
        lines.append(f"| {key} | {counts} | " + " | ".join(row[name]["text"] for name in names) + " |")
    lines += ["", "Without any picture:", "", "| question | n | train wordings | test wordings |", "|---|---|---|---|"]
    for key, row in card["text"].items():
        lines.append(f"| {key} | {row['test']['n']} | {row['train']['text']} | {row['test']['text']} |")
    lines += ["", "Does it look?", "", "| check | n | % |", "|---|---|---|"]
    for key, row in card["looking"].items():
        lines.append(f"| {key} | {row['n']} | {row['text']} |")
    return "\n".join(lines) + "\n"


def write(vlm: VLM, data: Any, folder: Path, n: int = 200, seed: int = 1) -> dict[str, Any]:
    """Measures and writes `model_card.md` and `model_card.json` into `folder`; returns what the latter holds."""
    import platform

    import torch

    card = measure(vlm, data, n, seed)
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, {str(vlm.dtype).removeprefix('torch.')}"
    weights = getattr(vlm.model.config, "weights_id", "")
    about = {"date": time.strftime("%Y-%m-%d"), "seed": seed, "machine": machine, "weights": weights}
    folder.mkdir(parents=True, exist_ok=True)
    card = {"about": about, **card}
    (folder / "model_card.json").write_text(json.dumps(card, indent=1) + "\n")
    preface = Path(__file__).with_name("card_preface.md").read_text(encoding="utf-8")
    (folder / "model_card.md").write_text(preface + markdown(card, about), encoding="utf-8")
    return card
