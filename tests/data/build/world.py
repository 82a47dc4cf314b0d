"""Builds in the world of coloured squares: their source, a verifier that sees colours, and the parts put together."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vledit.data.build.chat import Chat, Endpoint
from vledit.data.build.construct import SUPPLIED, Construction, Wants
from vledit.data.build.drawing import Studio
from vledit.data.build.endpoint_pictures import EndpointPictures
from vledit.data.build.picture_models import PictureSettings
from vledit.data.build.prompts import load_prompts
from vledit.data.build.sources import read_source
from vledit.data.build.splits import read_shares
from vledit.data.build.store import Store
from vledit.data.build.texts import Writer
from vledit.data.build.verifying import Judge
from vledit.data.build.writing import cases_by_split, write_benchmark

from .scripted_server import COLOURS, NAMES, square

QUESTION = "What colour is this?"


class ColourVerifier:
    """Names the colour that a picture shows; the known ones only, if `known` is given."""

    together = 8

    def __init__(self) -> None:
        self.about = {"model": "colours"}
        self.asked = 0

    def answers(self, asked: Sequence[tuple[Path | None, str]]) -> list[str]:
        self.asked += len(asked)
        return ["I do not know" if path is None else self._name(path) for path, _ in asked]

    def _name(self, path: Path) -> str:
        with Image.open(path) as picture:
            pixel: Any = picture.convert("RGB").getpixel((12, 12))
        return min(NAMES, key=lambda name: sum((a - b) ** 2 for a, b in zip(pixel, COLOURS[name], strict=True)))


class SameMeaning:
    """Finds all wordings alike in meaning but those with "shade"."""

    def __init__(self) -> None:
        self.about = {"encoder": "scripted"}

    def cosines(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [0.1 if "shade" in second else 0.9 for _, second in pairs]


def write_source(folder: Path, records: int = 10, wrong: int = 0) -> Path:
    """A CSV of squares; the last `wrong` of them say another colour than they show."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "squares.csv"
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["id", "image", "question", "answer", "category"])
        for number in range(records):
            name = NAMES[number % len(NAMES)]
            square(name, number).save(folder / f"{number}.png")
            said = NAMES[(number + 1) % len(NAMES)] if number >= records - wrong else name
            rows.writerow([f"s{number}", f"{number}.png", QUESTION, said, "warm" if number % 2 else "cold"])
    return path


def construction(source: Path, url: str, store: Path, wants: Wants | None = None, **more: Any) -> Construction:
    wants = wants or Wants(rephrasings=4, pictures=3, near=2, tries=5)
    kept, prompts = Store(store), load_prompts()
    chat = Chat(Endpoint(url, "scripted", retries=4, timeout=10), kept)
    writer = Writer(chat, prompts, wants.rephrasings + SUPPLIED, wants.text_questions)
    model = EndpointPictures(url, "painter", PictureSettings(size=24, retries=4))
    studio = Studio(model, prompts["picture"], kept)
    judge = Judge(more.pop("verifier", None) or ColourVerifier(), kept)
    return Construction(read_source(source), writer, studio, judge, SameMeaning(), wants, **more)


def build(source: Path, url: str, store: Path, out: Path, **more: Any) -> dict[str, Any]:
    """The whole build, written to `out`; the manifest."""
    parts = construction(source, url, store, **more)
    result = parts.run()
    cases = cases_by_split(result, "squares", parts.wants.rephrasings, read_shares("0.6,0.1,0.3"), 0)
    about = {
        "source": {"file": source.name},
        "prompts": {name: prompt.about() for name, prompt in parts.writer.prompts.items()},
        "language_model": {"model": "scripted"},
        "picture_model": parts.studio.model.about,
        "verifier": parts.judge.verifier.about,
        "meaning": parts.meaning.about,
        "settings": {"tries": parts.wants.tries},
        "licences": {"source": "CC0", "pictures": "CC0", "texts": "CC0"},
    }
    return write_benchmark(result, cases, out, about)


def digest(folder: Path) -> dict[str, str]:
    """Every file's hash by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
