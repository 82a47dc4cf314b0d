"""The records of the data set: a thing that can be asked about, and a drawing of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from vledit.data.icons.sets import Domain, Style
from vledit.data.icons.splits import Split


@dataclass(frozen=True)
class Concept:
    """Something that is drawn by many hands: a thing, a country's flag, a brand.

    id: ``<domain>/<slug>``. name: what a person would call it. facts: answer by kind of question
    (`name` or `country` or `brand` among them). group: what near locality draws its neighbours
    from (subgroup of a thing, continent of a country, industry of a brand). colour: a brand's own
    ``RRGGBB``, else "".
    """

    id: str
    domain: Domain
    name: str
    facts: dict[str, str] = field(hash=False)
    group: str
    colour: str = ""


@dataclass(frozen=True)
class Drawing:
    """One drawing of a concept.

    set, hand: the icon set, and the vendor family that it belongs to. style: "mono" means that only
    the alpha channel says anything, so that it may be recoloured. colour: for a mono drawing, the
    brand's ``RRGGBB`` or "". pack, sha256: where the picture's bytes stand, and their hash.
    """

    id: str
    concept: str
    set: str
    hand: str
    style: Style
    split: Split
    pack: str
    file: str
    sha256: str
    colour: str = ""


@dataclass(frozen=True)
class Candidate:
    """A concept with the icons that may draw it, before anything is rendered: (set, icon) pairs."""

    concept: Concept
    icons: tuple[tuple[str, str], ...]
