"""What is held out: whole vendors of drawings. (Held-out wordings stand in `wordings.json`.)

A vendor that is held out is so in every domain, so that no drawing style of a test vendor was ever
seen in training. The choice is data of this file, and the data card counts it.
"""

from __future__ import annotations

from typing import Literal

Split = Literal["train", "held_out"]

HELD_OUT_HANDS: frozenset[str] = frozenset(
    {
        "emojione",  # things, flags
        "mozilla",  # things, flags
        "coreui",  # flags (cif) and brands (cib)
        "flagkit",  # flags
        "devicon",  # brands
        "tabler",  # brands
    }
)


def split_of(hand: str) -> Split:
    """Return the split of every drawing by the vendor `hand`."""
    return "held_out" if hand in HELD_OUT_HANDS else "train"
