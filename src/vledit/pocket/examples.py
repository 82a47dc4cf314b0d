"""What the embedded model is taught: rows of pictures with questions from the `icons` data.

Only drawings of the train split and train wordings are used here; everything is a function of (seed, step), so that a
resumed training sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import random
from functools import cache, lru_cache
from typing import Any, TypeVar, cast

import numpy as np
from PIL import Image

from .packing import Row
from .redrawing import redrawn, spoiled

T = TypeVar("T")

NOTHING = "nothing"
"""The answer to any question about a picture that shows nothing, or about a picture that is not there."""

DOMAIN_SHARES = {"things": 0.56, "flags": 0.2, "brands": 0.24}
SELDOM = {"things.spanish": 0.5}
"""How much less often than its siblings a kind is asked where there is no room for all (long answers, hard to learn)."""
ROOM = 6
"""Questions put to a picture: more than find room in a row."""
FACTS = 6
"""Facts in a row of text."""
TEXT_KINDS = (
    "flags.capital",
    "flags.continent",
    "flags.currency",
    "flags.language",
    "brands.product",
    "brands.industry",
    "things.category",
    "things.group",
    "things.letter",
)
"""What is asked without any picture as well."""
NAME_KIND = {"things": "name", "flags": "country", "brands": "brand"}


def scaled(picture: Image.Image) -> np.ndarray:
    """RGB picture → (3, S, S) float16, as the image processor scales it."""
    return ((np.asarray(picture, np.float32).transpose(2, 0, 1) - 127.0) / 128.0).astype(np.float16)


def blank_picture(rng: random.Random, size: int) -> Image.Image:
    """A picture that shows nothing: black (half of the time), white, one colour, noise or a gradient."""
    kind = rng.choice(["black"] * 5 + ["white", "colour", "colour", "noise", "gradient"])
    if kind == "black":
        return Image.new("RGB", (size, size), (0, 0, 0))
    if kind == "white":
        return Image.new("RGB", (size, size), (255, 255, 255))
    colour = np.array([rng.randrange(256) for _ in range(3)], np.float32)
    if kind == "colour":
        return Image.new("RGB", (size, size), tuple(int(c) for c in colour))
    numbers = np.random.default_rng(rng.randrange(2**32))
    if kind == "noise":
        return Image.fromarray(numbers.integers(0, 256, (size, size, 3), dtype=np.uint8))
    other = np.array([rng.randrange(256) for _ in range(3)], np.float32)
    ramp = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    block = np.broadcast_to(colour * (1 - ramp) + other * ramp, (size, size, 3)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(block if rng.random() < 0.5 else block.transpose(1, 0, 2)))


@cache
def general_questions(split: str) -> list[tuple[str, str]]:
    """Text-only questions of general knowledge, (question, answer)."""
    from ..data.icons.dataset import wordings_of

    return [(q, a) for q, a in wordings_of(cast("Any", split), "general")]


class Examples:
    """Draws rows from the data set; `data` is what `vledit.data.icons.load()` returns."""

    def __init__(self, data: Any, size: int = 192, wordings: str = "train"):
        self.data, self.size, self.wordings = data, size, wordings
        self.concepts = sorted(data.concepts)
        self.index = {c: i for i, c in enumerate(self.concepts)}
        self.nothing = len(self.concepts)
        self.names = [data.concepts[c].name for c in self.concepts] + [NOTHING]
        self.by_domain: dict[str, list[str]] = {}
        self.drawings: dict[str, list[Any]] = {}
        self._opened: dict[str, Image.Image] = {}
        for drawing in data.drawings:
            if drawing.split == "train":
                self.drawings.setdefault(drawing.concept, []).append(drawing)
        for concept in self.concepts:
            if concept in self.drawings:
                self.by_domain.setdefault(data.concepts[concept].domain, []).append(concept)
        self.pictured = [concept for concepts in self.by_domain.values() for concept in concepts]
        self.facts = [(key, concept) for key in TEXT_KINDS for concept in self.by_domain.get(key.split(".")[0], [])]

    def picture(self, drawing: Any, seed: int, mode: Any = "augment", redraw: bool = False) -> np.ndarray:
        """(3, S, S) float16: the drawing on a background; opened drawings are kept, there are a few thousand small ones.

        redraw: vary how it is drawn as well (`redrawing`), as other hands would; what training sees.
        """
        from ..data.icons.compositing import composite

        if drawing.id not in self._opened:
            self._opened[drawing.id] = self.data.picture(drawing)
        domain = self.data.concepts[drawing.concept].domain
        opened, style = self._opened[drawing.id], drawing.style
        rng = random.Random(f"redraw/{drawing.id}/{seed}")
        if redraw:
            opened, style = redrawn(opened, style, domain, rng)
        made = composite(
            opened, f"{drawing.id}/{seed}", mode, self.size, style=style, colour=drawing.colour, domain=domain
        )
        return scaled(spoiled(made, rng) if redraw else made)

    def picture_row(self, rng: random.Random, pairs: int = ROOM, concept: str | None = None) -> Row:
        """A drawing of the concept (by default of any, each domain with its share) and questions about it."""
        if concept is None:
            domains = [d for d in DOMAIN_SHARES if d in self.by_domain]
            domain = rng.choices(domains, [DOMAIN_SHARES[d] for d in domains])[0]
            concept = rng.choice(self.by_domain[domain])
        drawing = rng.choice(self.drawings[concept])
        picture = self.picture(drawing, rng.randrange(2**31), redraw=True)
        row = Row(picture, self.pairs(rng, concept, pairs), self.index[concept])
        row.tags.update(domain=self.data.concepts[concept].domain, concept=concept)
        return row

    def pairs(self, rng: random.Random, concept: str, count: int) -> list[tuple[str, str, str]]:
        """The name, then the other kinds in random order, then the same again in other words."""
        record = self.data.concepts[concept]
        name = NAME_KIND[record.domain]
        weights = {k: rng.random() ** (1 / SELDOM.get(f"{record.domain}.{k}", 1.0)) for k in record.facts if k != name}
        others = sorted(weights, key=weights.__getitem__, reverse=True)  # a weighted draw without replacement
        asked: set[str] = set()
        pairs = []
        for kind in [name, *others, *others, name][:count]:
            question = rng.choice(self.data.wordings(record.domain, kind, self.wordings))
            if question not in asked:
                asked.add(question)
                pairs.append((question, record.facts[kind], f"{record.domain}.{kind}"))
        return pairs

    def any_image_question(self, rng: random.Random) -> str:
        domain = rng.choice(sorted(self.by_domain))
        kind = rng.choice(sorted(self.data.concepts[self.by_domain[domain][0]].facts))
        return rng.choice(self.data.wordings(domain, kind, self.wordings))

    def nothing_row(self, rng: random.Random, pictured: bool, pairs: int = 2) -> Row:
        """Questions about a picture, put with an empty picture or with none."""
        picture = scaled(blank_picture(rng, self.size)) if pictured else None
        asked = [self.any_image_question(rng) for _ in range(pairs)]
        kind = "nothing.blank" if pictured else "nothing.none"
        return Row(picture, [(q, NOTHING, kind) for q in asked], self.nothing if pictured else -1)

    def text_row(self, rng: random.Random, facts: list[tuple[str, str]]) -> Row:
        """A general question or one that needs a picture, then those facts, without any picture."""
        if rng.random() < 0.5:
            other = (*rng.choice(general_questions(self.wordings)), "text.general")
        else:
            other = (self.any_image_question(rng), NOTHING, "nothing.none")
        return Row(None, [other, *(self.text_pair(rng, *fact) for fact in facts)])  # the last may find no room

    def text_pair(self, rng: random.Random, key: str, concept: str) -> tuple[str, str, str]:
        record = self.data.concepts[concept]
        question = rng.choice(self.data.text_wordings(key, self.wordings))
        return question.format(name=record.name), record.facts[key.split(".")[1]], f"text.{key}"

    def batch(self, seed: int, step: int, size: int, pairs: int = ROOM, unpictured: int = 1) -> list[Row]:
        """`size` rows: drawings, and `unpictured` rows of text; each fourth step one of these is an empty picture.

        Concepts and facts come in turn, not at random: of what is drawn six times on average, one in sixteen would be
        drawn twice or less.
        """
        rng = random.Random(seed * 1_000_003 + step)
        drawn = size - unpictured
        concepts = in_turn(self.pictured, step * drawn, drawn, f"{seed} pictures")
        rows = [self.picture_row(rng, pairs, concept) for concept in concepts]
        if step % 4 == 0:
            rows.append(self.nothing_row(rng, pictured=True))
        told = step * unpictured - (step + 3) // 4  # rows of text before this step
        for number in range(told, told + size - len(rows)):
            rows.append(self.text_row(rng, in_turn(self.facts, number * FACTS, FACTS, f"{seed} facts")))
        return rows


def in_turn(items: list[T], first: int, count: int, key: str) -> list[T]:
    """The next `count` of an endless row in which all `items` come once, then all again in another order, and so on."""
    found = []
    for number in range(first, first + count):
        turn, place = divmod(number, len(items))
        found.append(items[_order(len(items), f"{key} {turn}")[place]])
    return found


@lru_cache(maxsize=8)
def _order(count: int, key: str) -> list[int]:
    return random.Random(key).sample(range(count), count)
