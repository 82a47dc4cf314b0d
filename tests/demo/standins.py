"""A model and a data set small enough to see through: answers are looked up, routing and the codebook are the real ones."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from vledit.codebook import Anchors, Codebook, Decision, Entry, FullTransformation, Scope
from vledit.data.case import EditRequest
from vledit.data.icons.model import Concept, Drawing
from vledit.data.icons.sets import BY_NAME
from vledit.editors.base import Edit, EditReport
from vledit.errors import EditFailedError, InputError, UnknownNameError
from vledit.vlm.pictures import open_picture

BRANDS = {
    "Apple": ("simple-icons", "la", "tabler", "mingcute", "raphael"),
    "Dell": ("simple-icons", "logos"),
    "HP": ("simple-icons", "grommet-icons"),
    "IBM": ("logos", "simple-icons"),
    "Raspberry Pi": ("logos", "mdi"),
    "Microsoft": ("logos", "la", "ri"),
    "Intel": ("logos", "cib"),
}
UNKNOWN = "HP"
"""A brand whose mark the stand-in does not know."""
HANDS = ("simple-icons", "la", "tabler", "mingcute", "raphael", "logos", "grommet-icons", "mdi", "ri", "cib")
SITE = "1.mlp.out"
WIDTH = 8


@dataclass
class StandInData:
    """As `IconData`, with pictures that say in their first pixel what they are."""

    version: str = "0123456789abcdef"
    concepts: dict[str, Concept] = field(default_factory=dict)
    drawings: list[Drawing] = field(default_factory=list)
    hands: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, sets in BRANDS.items():
            facts = {"brand": name, "product": "computers", "industry": "technology hardware"}
            id = f"brands/{name.lower().replace(' ', '')}"
            self.concepts[id] = Concept(id, "brands", name, facts, "technology hardware")
            for one in sets if self.hands is None else self.hands:
                split = "held_out" if one in ("tabler", "cib") else "train"
                hand = BY_NAME[one].hand
                self.drawings.append(Drawing(f"{id}@{one}:x", id, one, hand, "mono", split, "p.zip", "x.webp", ""))

    def concepts_of(self, domain: str) -> list[Concept]:
        return [concept for concept in self.concepts.values() if concept.domain == domain]

    def drawings_of(self, concept: str) -> list[Drawing]:
        return [drawing for drawing in self.drawings if drawing.concept == concept]

    def composite(self, drawing: Drawing, seed: int, mode: str, size: int) -> Image.Image:
        number = list(BRANDS).index(self.concepts[drawing.concept].name)
        picture = Image.new("RGB", (size, size), (235 - 9 * number, 228, 190 + 9 * number))
        pen = ImageDraw.Draw(picture)
        hand = HANDS.index(drawing.set)
        pen.ellipse((30, 30 + hand, size - 30 - hand, size - 30), fill=(40 + 25 * number, 70, 160 - 12 * hand))
        pen.text((size // 2 - 8, size // 2 - 6), self.concepts[drawing.concept].name[:2], fill="white")
        picture.putpixel((0, 0), (number, hand, 77))
        return picture

    def wordings(self, domain: str, kind: str, split: str) -> list[str]:
        return [f"{kind} {split} wording {i}?" for i in range(8)]

    def text_wordings(self, question: str, split: str) -> list[str]:
        return [f"{question} of {{name}}?"]


@dataclass(frozen=True)
class Answered:
    """As `vledit.editors.edited_model.Answer`, which imports more."""

    text: str
    decision: Decision

    @property
    def explanation(self) -> str:
        return self.decision.explanation

    def __str__(self) -> str:
        return self.text


class StandIn:
    """As `EditedModel`: knows marks by their first pixel; keys are numbers made of picture and question."""

    def __init__(self, codebook: Codebook | None = None, reach: float = 8.0):
        self.vlm = SimpleNamespace(name="stand-in", fingerprint="f" * 16)
        self.codebook = codebook or Codebook("f" * 16, "stand-in")
        self.reach = reach
        self.asked = 0

    def answer(self, image: Any, question: str) -> Any:
        self.asked += 1
        image = _opened(image)
        decision = self.codebook.decide(key(image, question)[None])[0]
        text = base_answer(image, question)
        if decision.fired and decision.entry is not None:
            text = self.codebook.get(decision.entry).answer
        return Answered(text, decision)

    def edit(self, request: EditRequest, editor: str = "balancedit", **settings: Any) -> Edit:
        request = replace(request, image=_opened(request.image))
        if len(request.answer.split()) >= 64:
            raise InputError("answer is 200 tokens long; at most 64 are taken. Shorten the answer.")
        if request.answer == "unlearnable":
            raise EditFailedError("answer: the model does not answer 'unlearnable'.")
        if settings.get("site", SITE) != SITE:
            raise InputError(f"site: there is no layer as in '{settings['site']}'.")
        anchors = Anchors("supplied", "What logo is this?", "black", 1.0, 10.0)
        scope = Scope("mean", key(request.image, request.question), self.reach, alpha=0.2, anchors=anchors)
        id = request.id or self.codebook.free_id("e" + str(zlib.crc32(request.answer.encode())))
        entry = Entry(id, request.question, request.answer, SITE, (scope,), FullTransformation(torch.ones(4, WIDTH)))
        relation = self.codebook.relation(scope.key, request.question, request.answer, None, 1.0)
        report = EditReport(0.01, 3, 0.02, 2.5, entry.nbytes, True)
        return self.add(Edit(entry.id, editor, request, report, entry=entry, relation=relation))

    def add(self, edit: Edit) -> Edit:
        if edit.entry is not None and edit.relation is not None and edit.relation.same is None:
            self.codebook.add(edit.entry, same_fact="record")
        return edit

    def remove(self, id: str) -> None:
        if id not in {entry.id for entry in self.codebook.entries()}:
            raise UnknownNameError("edit", id, [])
        self.codebook.remove(id)


def _opened(image: Any) -> Any:
    return open_picture(image) if isinstance(image, str | Path) else image


def key(image: Any, question: str) -> np.ndarray:
    """(8,): the brand counts most, then whether there is a picture at all, then hand and wording."""
    found = np.zeros(WIDTH, dtype=np.float32)
    if image is None:
        found[0] = 60
    else:
        number, hand, mark = image.getpixel((0, 0))
        found[:3] = (number * 10, hand * 0.7, 0) if mark == 77 else (0, 0, 40)
    found[3] = zlib.crc32(question.split()[0].encode()) % 50 / 10
    found[4] = zlib.crc32(question.encode()) % 20 / 10
    return found


def base_answer(image: Any, question: str) -> str:
    """What the stand-in says without edits."""
    if image is None:
        return "Paris" if "France" in question else "computers"
    number, _, mark = image.getpixel((0, 0))
    if mark != 77:
        return "nothing"
    if question.startswith(("product", "industry")):
        return "computers"
    name = list(BRANDS)[number]
    return "Nvidia" if name == UNKNOWN else name
