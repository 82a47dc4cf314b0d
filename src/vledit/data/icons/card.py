"""The data card of the built data set: counts, splits, sources, licences, limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from vledit.data.icons.dataset import IconData, all_wordings, load
from vledit.data.icons.packages import locked_versions
from vledit.data.icons.sets import BY_NAME, DOMAINS, FACT_PACKAGES
from vledit.data.icons.splits import HELD_OUT_HANDS, VALIDATION_HANDS

INTRODUCTION = """\
# Data card: `icons`

Drawings from icon sets that were published on npm, of each concept by several vendors. There are three domains: **things**
(emoji of nouns), **flags** (of countries) and **brands** (their marks). The data set is built on your machine by
`vledit data build icons`, from packages pinned in `package-lock.json`; this repository contains no picture.

Each drawing is cropped to its edges and rendered at 192 x 192 RGBA. Of drawings of one concept that are nearly identical
(correlation above 0.97 at 32 x 32) one is kept. Drawings in a single dark colour ("mono") are shown in various colours, those
of a brand in the brand's own colour. The pictures that a model sees are drawings on varied backgrounds.
"""

LIMITS = """\
## Limits

- These are drawings, not photographs: results here may not hold on photographs.
- Names are what an English speaker would call the drawing; two emoji with the same name are one concept ("dog face", "dog").
- The facts come from the packages named above, with the corrections in `flags.py`. Capitals, currencies and official
  languages are simplified to one answer (for a currency its common name, such as "peso"); they may be disputed or change.
- The countries are the members and observers of the United Nations. Monaco (same flag as Indonesia) and Chad (same as
  Romania) are left out because their flags cannot be distinguished. The list is no statement about any territory.
- Icons that do not show what their name says are excluded in `exclusions.py`; there will be others.

## Trademarks

Brand marks are trademarks of their owners. They are used here only to ask which brand a mark belongs to. No owner endorses
this data set, and no mark is shipped with it. Edits that rename a brand are experiments on a model's memory, not statements
about a company. The licence of an icon set covers the drawing, not the mark.
"""


def data_card(data: IconData | None = None) -> str:
    """Return the data card of the built data set as Markdown: counts, splits, sources, licences, limits."""
    data = data or load()
    parts = [
        INTRODUCTION,
        f"Build `{data.version}`: {len(data.concepts)} concepts, {len(data.drawings)} drawings.\n",
        "## Counts\n",
        _table(
            ["domain", "concepts", "drawings", "train", "held out", "vendors", "drawings each (median)"], _counts(data)
        ),
        "## Vendors\n\nThe sets of one vendor are counted together. A held-out vendor is never used for training, in any domain; "
        "validation and test have different vendors.\n",
        _table(["vendor", "split", *DOMAINS], _hands(data)),
        "## Wordings\n\nNumber of wordings of each question. Those of validation and test are never used for training.\n",
        _table(["domain", "kind", "train", "validation", "test"], _wordings()),
        "## Sources\n",
        _table(["set", "package", "version", "licence", "drawings kept"], _sources(data)),
        "Names, facts and colours: "
        + ", ".join(f"`{name}` {locked_versions().get(name, '')}" for name in _fact_packages())
        + ". Which names are brands, what these brands make, and the everyday names of emoji are in tables of this repository"
        " that were checked by hand (`brands.csv`, `things.csv`).\n",
        LIMITS,
    ]
    return "\n".join(parts)


def _counts(data: IconData) -> list[list[str]]:
    rows = []
    for domain in DOMAINS:
        concepts = data.concepts_of(domain)
        if not concepts:
            continue
        drawings = [drawing for concept in concepts for drawing in data.drawings_of(concept.id)]
        sizes = sorted(len(data.drawings_of(concept.id)) for concept in concepts)
        train = sum(drawing.split == "train" for drawing in drawings)
        numbers = [len(concepts), len(drawings), train, len(drawings) - train]
        hands = len({drawing.hand for drawing in drawings})
        rows.append([domain, *map(str, numbers), str(hands), str(sizes[len(sizes) // 2])])
    return rows


def _hands(data: IconData) -> list[list[str]]:
    counts = Counter((drawing.hand, data.concepts[drawing.concept].domain) for drawing in data.drawings)
    hands = sorted({drawing.hand for drawing in data.drawings})
    hands.sort(key=lambda hand: hand in HELD_OUT_HANDS)
    return [
        [
            hand,
            "train" if hand not in HELD_OUT_HANDS else "validation" if hand in VALIDATION_HANDS else "test",
            *(str(counts[hand, domain] or "") for domain in DOMAINS),
        ]
        for hand in hands
    ]


def _wordings() -> list[list[str]]:
    return [
        [domain, kind, *(str(len(split[name])) for name in ("train", "validation", "test"))]
        for domain, kinds in all_wordings().items()
        if domain in (*DOMAINS, "text")
        for kind, split in kinds.items()
    ]


def _sources(data: IconData) -> list[list[str]]:
    counts, versions = Counter(drawing.set for drawing in data.drawings), locked_versions()
    return [
        [name, f"`{one.package}`", versions.get(one.package, ""), one.licence, str(counts[name])]
        for name, one in BY_NAME.items()
        if counts[name]
    ]


def _fact_packages() -> Iterable[str]:
    return dict.fromkeys(name for domain in DOMAINS for name in FACT_PACKAGES[domain])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"
