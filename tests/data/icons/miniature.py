"""A miniature of the npm packages, made of a few squares and circles: the mechanics of a build in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vledit.data.icons import builder, dataset, things
from vledit.data.icons.dataset import IconData
from vledit.data.icons.model import Concept, Drawing
from vledit.data.icons.sets import BY_NAME, IconSet
from vledit.data.icons.splits import split_of

SETS: tuple[IconSet, ...] = tuple(BY_NAME[name] for name in ("twemoji", "openmoji", "noto", "emojione", "fxemoji"))
NAMES = ("dog", "cat", "fox", "owl")
CODES = {"dog": "1F415", "cat": "1F408", "fox": "1F98A", "owl": "1F989"}
TABLE = """name,category,group,spanish,labels
dog,mammal,animal,,dog
cat,mammal,animal,,cat
fox,mammal,animal,,fox
owl,bird,animal,búho,owl
"""


def body(name: str, set_name: str) -> str:
    """Return an SVG body that differs by name and by set; twemoji's and emojione's dog are the same drawing."""
    kind = NAMES.index(name)
    hand = 0 if name == "dog" and set_name == "emojione" else [one.name for one in SETS].index(set_name)
    colour = ("#c00000", "#00a000", "#0000d0", "#d0a000")[kind]
    corner = f'<rect x="{2 + 3 * hand}" y="{1 + 2 * hand}" width="6" height="{4 + 2 * kind}" fill="#101080"/>'
    return f'<circle cx="16" cy="16" r="{15 - kind}" fill="{colour}"/>{corner}'


def write_packages(node_modules: Path) -> Path:
    """Write the packages as npm would install them, and return their folder."""
    for one in SETS:
        icons = {name: {"body": body(name, one.name)} for name in NAMES}
        if one.name == "noto":
            icons["owl"] = {"body": '<path d="M0 0h1v1z" fill="none"/>'}  # nothing visible
        _write(node_modules / one.package / "icons.json", {"icons": icons, "width": 32, "height": 32})
    base = node_modules / "emojibase-data"
    labels = {"en": {name: name for name in NAMES}, "es": {"dog": "cara de perro", "cat": "gato", "fox": "zorro"}}
    for language, words in labels.items():
        entries = [
            {"label": label, "hexcode": CODES[name], "emoji": chr(int(CODES[name], 16))}
            for name, label in words.items()
        ]
        _write(base / language / "data.json", entries)
    _write(base / "en" / "shortcodes" / "github.json", {CODES["fox"]: "fox_face"})
    return node_modules


def use(monkeypatch: Any, folder: Path) -> Path:
    """Make `builder.build` build from the miniature; return the data set's root."""
    node_modules = write_packages(folder / "node_modules")
    table = folder / "things.csv"
    table.write_text(TABLE, encoding="utf-8")
    monkeypatch.setattr(things, "TABLE", table)
    monkeypatch.setattr(things, "MIN_COLOUR_DRAWINGS", 3)
    monkeypatch.setattr(builder, "SETS", SETS)
    monkeypatch.setattr(builder, "DOMAINS", ("things",))
    monkeypatch.setattr(builder.packages, "install", lambda names, root: node_modules)
    return folder / "icons"


def described(names: int = 60) -> IconData:
    """Return a data set that exists in words only (no pictures): three domains, six hands."""
    concepts: dict[str, Concept] = {}
    drawings: list[Drawing] = []
    for index in range(names):
        group, wide = f"group {index % 3}", f"wide {index % 2}"
        facts = {
            "things": {
                "name": f"thing{index:02d}",
                "category": group,
                "group": wide,
                "letter": "TUVW"[index % 4],
                "spanish": f"cosa{index}",
            },
            "flags": {
                "country": f"land{index:02d}",
                "capital": f"city{index:02d}",
                "continent": group,
                "currency": f"coin{index % 4}",
                "language": f"tongue{index % 5}",
            },
            "brands": {"brand": f"brand{index:02d}", "product": f"product{index % 6}", "industry": group},
        }
        for domain, own in facts.items():
            name = next(iter(own.values()))
            concept = Concept(f"{domain}/{name}", domain, name, own, group)  # type: ignore[arg-type]
            concepts[concept.id] = concept
            for hand in ("twemoji", "google", "openmoji", "microsoft", "emojione", "mozilla"):
                drawings.append(
                    Drawing(
                        f"{concept.id}@{hand}", concept.id, hand, hand, "colour", split_of(hand), "p", "f", "0" * 64
                    )
                )
    return IconData(Path("nowhere"), concepts, drawings, "miniature")


def reload(root: Path) -> IconData:
    return dataset.load(root)


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
