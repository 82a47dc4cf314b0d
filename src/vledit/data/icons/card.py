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

Real pictures of real things, from icon sets that people drew and published on npm: the same thing by five to twenty
hands. Three domains: **things** (emoji nouns), **flags** (countries), **brands** (marks). Built on the user's machine
by `vledit data build icons` from packages pinned in `package-lock.json`; no picture is part of this repository.

Each drawing is rendered to 192 x 192 RGBA, cut to its edges. Drawings of one concept that repeat each other
(correlation above 0.97 at 32 x 32) are kept once. Drawings of one dark colour are "mono" and shown in varied inks, a
brand's in its own colour. Pictures for a model are composites on varied backgrounds.
"""

LIMITS = """\
## What it is not

- Drawings, not photographs: what holds here need not hold on photographs.
- Names are what an English speaker would call the drawing; two emoji of one name are one concept ("dog face", "dog").
- Facts are those of the packages below, with the corrections in `flags.py`; capitals, currencies and the order of
  official languages are simplified to one answer (the currency's common name: "peso"), and may be disputed or change.
- Countries: the members and observers of the United Nations; Monaco (as Indonesia) and Chad (as Romania) are left out
  because their flags cannot be told apart. The list is no statement about any territory.
- Icons that show something else than their name says are listed in `exclusions.py`; there will be more.

## Trademarks

Brand marks are trademarks of their owners. They are used here nominatively: to ask which brand a mark belongs to.
Nothing here is endorsed by any owner, no mark is shipped, and edits that rename a brand are experiments on a model's
memory, not statements about a company. The licence of an icon set covers the drawing, not the mark.
"""


def data_card(data: IconData | None = None) -> str:
    """Return the data card of the built data set as Markdown: counts, splits, sources, licences, limits."""
    data = data or load()
    parts = [
        INTRODUCTION,
        f"Build `{data.version}`: {len(data.concepts)} concepts, {len(data.drawings)} drawings.\n",
        "## Counts\n",
        _table(
            ["domain", "concepts", "drawings", "train", "held out", "hands", "drawings each (median)"], _counts(data)
        ),
        "## Hands\n\nA hand is a vendor family; a held-out hand is never trained on, in any domain; "
        "what validation shows, test does not.\n",
        _table(["hand", "split", *DOMAINS], _hands(data)),
        "## Wordings\n\nEach question is asked in many ways; validation and test wordings are never trained on.\n",
        _table(["domain", "kind", "train", "validation", "test"], _wordings()),
        "## Sources\n",
        _table(["set", "package", "version", "licence", "drawings kept"], _sources(data)),
        "Names, facts and colours: "
        + ", ".join(f"`{name}` {locked_versions().get(name, '')}" for name in _fact_packages())
        + "; which names are brands, what they make, and what a person calls an emoji: hand-checked tables of this"
        " repository (`brands.csv`, `things.csv`).\n",
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
