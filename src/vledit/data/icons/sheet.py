"""The contact sheet of the built data set: a picture for people to look at before they trust the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from vledit.data.icons.dataset import IconData, load
from vledit.data.icons.model import Concept
from vledit.data.icons.sets import DOMAINS

_TILE, _LABEL = 56, 128
_INK, _GREY, _RED = (20, 20, 24), (120, 120, 128), (200, 30, 30)


def contact_sheet(data: IconData | None = None, per_domain: int = 12, columns: int = 14) -> Image.Image:
    """Return `per_domain` concepts of each domain, a row each, as one RGB picture.

    Rows are spread evenly over the domain's table. Drawings stand on a clean and on a varied background in turns; one
    of a held-out hand has a red bar below it.
    """
    data = data or load()
    rows = [concept for domain in DOMAINS for concept in _spread(data.concepts_of(domain), per_domain)]
    sheet = Image.new("RGB", (_LABEL + columns * _TILE, max(1, len(rows)) * _TILE), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for row, concept in enumerate(rows):
        top = row * _TILE
        draw.text((4, top + 12), concept.name[:20], fill=_INK)
        draw.text((4, top + 28), concept.group[:20], fill=_GREY)
        for column, drawing in enumerate(data.drawings_of(concept.id)[:columns]):
            left = _LABEL + column * _TILE
            mode = "clean" if column % 2 == 0 else "augment"
            sheet.paste(data.composite(drawing, 0, mode, _TILE - 2), (left, top))
            if drawing.split == "held_out":
                draw.rectangle((left, top + _TILE - 5, left + _TILE - 3, top + _TILE - 3), fill=_RED)
    return sheet


def write_contact_sheet(path: Path, data: IconData | None = None) -> Path:
    """Write the contact sheet as PNG and return `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(data).save(path, "PNG")
    return path


def _spread(concepts: Sequence[Concept], count: int) -> list[Concept]:
    step = max(1, len(concepts) // max(1, count))
    return list(concepts[::step][:count])
