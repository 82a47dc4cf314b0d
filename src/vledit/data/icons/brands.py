"""Match brand marks across sets by name: the domain `brands`.

`brands.csv` (hand-checked) says which names are brands, what each makes and its industry, and what
other sets call it. The brand's own colour comes from simple-icons.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from vledit.data.icons.model import Candidate, Concept
from vledit.data.icons.sets import BY_NAME
from vledit.data.icons.sources import Source, plain_name

TABLE = Path(__file__).with_name("brands.csv")
MIN_HANDS = 5
MIN_HANDS_BY_INDUSTRY = {"technology hardware": 3}
MIN_HANDS_BY_PRODUCT = {"computers": 2}
"""Makers of computers are few and drawn by few, and the demo renames one."""

REQUIRED_PREFIX = {"tabler": "brand-"}
"""Sets in which a plain name is a common noun ("apple" the fruit), and what marks a brand."""

COLOURS = {
    # brands that simple-icons names no colour for
    "ibm": "0F62FE",
    "microsoft": "5E5E5E",
    "oracle": "F80000",
    "salesforce": "00A1E0",
    "twitter": "1D9BF0",
    "linkedin": "0A66C2",
    "skype": "00AFF0",
    "slack": "4A154B",
    "microsoftteams": "6264A7",
    "microsoftedge": "0078D7",
    "internetexplorer": "0076D6",
    "microsoftbing": "258FFA",
    "yahoo": "6001D2",
    "yandex": "FC3F1D",
    "amazon": "FF9900",
    "magento": "EE672F",
    "xbox": "107C10",
    "nintendoswitch": "E60012",
    "invision": "FF3366",
    "canva": "00C4CC",
    "adobe": "FF0000",
    "adobexd": "FF61F6",
    "adobephotoshop": "31A8FF",
    "adobeillustrator": "FF9A00",
    "adobeaftereffects": "9999FF",
    "amazonwebservices": "FF9900",
    "microsoftazure": "0078D4",
    "heroku": "430098",
    "visualstudiocode": "007ACC",
    "java": "ED8B00",
    "css3": "1572B6",
}

# Around the brand's name, by set: "brand-apple", "file-type-docker", "apple-fill", "logo-apple".
_PREFIXES = ("", "brand", "logo", "filetype")
_SUFFIXES = (
    "",
    "icon",
    "fill",
    "filled",
    "line",
    "logo",
    "original",
    "light",
    "dark",
    "color",
    "circlefilled",
    "outlined",
)


def candidates(sources: list[Source], node_modules: Path) -> list[Candidate]:
    """Return the brands of `brands.csv` with the icons of `sources` that draw their mark."""
    colours = _colours(node_modules)
    found = []
    with TABLE.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            slug = row["slug"].strip()
            names = {plain_name(text) for text in (slug, row["name"], *row["aliases"].split(";"))}
            icons = [(source.icon_set.name, icon) for source in sources for icon in icons_of(source, names - {""})]
            facts = {
                "brand": row["name"].strip(),
                "product": row["product"].strip(),
                "industry": row["industry"].strip(),
            }
            concept = Concept(
                f"brands/{slug}",
                "brands",
                facts["brand"],
                facts,
                facts["industry"],
                colours.get(slug) or COLOURS.get(slug, ""),
            )
            found.append(Candidate(concept, tuple(dict.fromkeys(icons))))
    return found


def icons_of(source: Source, names: set[str]) -> list[str]:
    """Return the icons of `source` whose name is one of `names`, or that with a set's own affix."""
    required = REQUIRED_PREFIX.get(source.icon_set.name, "")
    found = []
    for name in sorted(names):
        for prefix in _PREFIXES:
            for suffix in _SUFFIXES:
                key = f"{prefix}{name}{suffix}"
                icon = source.names.get(key)
                if icon is not None and icon.startswith(required):
                    found.append(icon)
    return found


def is_enough(concept: Concept, pairs: list[tuple[str, str]]) -> bool:
    """Tell whether a brand has enough (set, style) drawings: by 5 hands, fewer for makers."""
    by_industry = MIN_HANDS_BY_INDUSTRY.get(concept.facts["industry"], MIN_HANDS)
    needed = MIN_HANDS_BY_PRODUCT.get(concept.facts["product"], by_industry)
    return len({BY_NAME[name].hand for name, _ in pairs}) >= needed


def _colours(node_modules: Path) -> dict[str, str]:
    """Return a brand's own colour as RRGGBB, by simple-icons slug."""
    path = node_modules / "simple-icons" / "data" / "simple-icons.json"
    entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return {entry.get("slug") or plain_name(entry["title"]): entry["hex"] for entry in entries}
