"""Match emoji nouns across sets: the domain `things`.

`things.csv` (hand-checked) says what a person would call each emoji, and which emoji are one thing by
name ("dog face" and "dog"); emojibase says its code points, old names and Spanish label.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vledit.data.icons.model import Candidate, Concept
from vledit.data.icons.sets import BY_NAME
from vledit.data.icons.sources import Source, plain_hexcode, plain_name, slug_of

TABLE = Path(__file__).with_name("things.csv")
MIN_COLOUR_DRAWINGS = 8
MIN_HANDS = 5
NAMED_BY_COLOUR = {
    "red apple",
    "green apple",
    "closed book",
    "green book",
    "blue book",
    "orange book",
    "red lantern",
    "black cat",
}
"""Things that a drawing of one colour cannot show: mono sets are left out for them."""


@dataclass(frozen=True)
class Emoji:
    """An emoji as emojibase describes it; `names` best first, all plain (`plain_name`)."""

    label: str
    hexcode: str
    names: tuple[str, ...]
    spanish: str


def read_emoji(node_modules: Path) -> dict[str, Emoji]:
    """Return every emoji by English label."""
    base = node_modules / "emojibase-data"
    spanish = {entry["hexcode"]: entry["label"] for entry in _read(base / "es" / "data.json")}
    codes: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted((base / "en" / "shortcodes").glob("*.json")):
        for hexcode, value in _read(path).items():
            codes[hexcode] += [value] if isinstance(value, str) else value
    found: dict[str, Emoji] = {}
    for entry in _read(base / "en" / "data.json"):
        label, hexcode = entry["label"], entry["hexcode"]
        # fxemoji names its pictures by the character's Unicode name, others by short codes
        names = [label, unicodedata.name(entry["emoji"][0], ""), *codes[hexcode]]
        plain = tuple(dict.fromkeys(name for name in map(plain_name, names) if name))
        found[label] = Emoji(label, plain_hexcode(hexcode), plain, spanish.get(hexcode, ""))
    return found


def match_emoji(source: Source, emoji: list[Emoji]) -> dict[str, list[str]]:
    """Return the icons of `source` for each emoji, by label.

    By code points where the set says them, else by name, best name first; an icon goes to the emoji
    whose name it matches best, so that a short code of one emoji never takes another one's picture.
    """
    matched: defaultdict[str, list[str]] = defaultdict(list)
    if source.hexcodes:
        for one in emoji:
            if one.hexcode in source.hexcodes:
                matched[one.label].append(source.hexcodes[one.hexcode])
        return matched
    owner: dict[str, tuple[int, str]] = {}
    for one in emoji:
        for rank, name in enumerate(one.names):
            owner[name] = min(owner.get(name, (rank, one.label)), (rank, one.label))
    claims: dict[str, tuple[int, bool, str]] = {}
    for name, icon in source.names.items():
        # streamline draws some things several times: "bird-1", "bird-2"
        key = next((key for key in (name, re.sub(r"\d$", "", name)) if key in owner), None)
        if key is not None:
            rank, label = owner[key]
            # older sets call the game "cricket" as well: then the icon's own name decides
            claim = (rank, plain_name(icon) != name, label)
            claims[icon] = min(claims.get(icon, claim), claim)
    best: dict[str, int] = {}
    for rank, _, label in claims.values():
        best[label] = min(best.get(label, rank), rank)
    for icon, (rank, _, label) in claims.items():
        if rank == best[label]:
            matched[label].append(icon)
    return matched


def candidates(sources: list[Source], node_modules: Path) -> list[Candidate]:
    """Return the things of `things.csv` with all their icons in `sources`."""
    emoji = read_emoji(node_modules)
    everything = list(emoji.values())
    icons = {source.icon_set.name: match_emoji(source, everything) for source in sources}
    found = []
    with TABLE.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            labels = row["labels"].split(";")
            pairs = [
                (name, icon)
                for name, matched in icons.items()
                for label in labels
                for icon in matched.get(label, ())
                if not (row["name"] in NAMED_BY_COLOUR and BY_NAME[name].style == "mono")
            ]
            concept = _concept(row, emoji[labels[0]])
            found.append(Candidate(concept, tuple(dict.fromkeys(pairs))))
    return found


def is_enough(_: Concept, pairs: list[tuple[str, str]]) -> bool:
    """Tell whether a thing has enough (set, style) drawings: 8 in colour, by 5 hands in all."""
    colour = sum(style == "colour" for _, style in pairs)
    hands = {BY_NAME[name].hand for name, _ in pairs}
    return colour >= MIN_COLOUR_DRAWINGS and len(hands) >= MIN_HANDS


def simple_spanish(label: str) -> str:
    """Return a Spanish emoji label as one would say it: "cara de perro" is "perro"."""
    text = label.split(":")[-1].strip()
    return re.sub(r"^(cara|rostro) de ", "", text)


def _concept(row: dict[str, str], emoji: Emoji) -> Concept:
    name = row["name"]
    facts = {
        "name": name,
        "category": row["category"],
        "group": row["group"],
        "letter": name[0].upper(),
        "spanish": row.get("spanish") or simple_spanish(emoji.spanish),
    }
    return Concept(f"things/{slug_of(name)}", "things", name, facts, row["category"])


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
