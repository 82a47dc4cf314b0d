"""What is held out: whole vendors of drawings, a part of them for validation and the others for test.

A vendor that is held out is so in every domain, so that no drawing style of a test vendor was ever seen in training, and
none that is scored on test is seen while a setting is chosen. Held-out wordings stand in `wordings.json`, in the same three
splits; concepts are shared out in `edits.py`. The choice is data of this file, and the data card counts it.
"""

from __future__ import annotations

from typing import Literal

Split = Literal["train", "held_out"]
"""Of a drawing: whether the embedded model saw its vendor in training."""
EditSplit = Literal["train", "validation", "test"]
"""Of an edit, a wording, a hand."""

VALIDATION_HANDS: frozenset[str] = frozenset(
    {
        "mozilla",  # things, two flags
        "flagkit",  # flags
        "devicon",  # brands
    }
)
TEST_HANDS: frozenset[str] = frozenset(
    {
        "emojione",  # things, flags
        "coreui",  # flags (cif) and brands (cib)
        "tabler",  # brands
    }
)
HELD_OUT_HANDS: frozenset[str] = VALIDATION_HANDS | TEST_HANDS


def split_of(hand: str) -> Split:
    """Return the split of every drawing by the vendor `hand`."""
    return "held_out" if hand in HELD_OUT_HANDS else "train"


def held_out_hands(split: EditSplit) -> frozenset[str]:
    """Return the held-out vendors whose drawings edits of `split` may show; none for train."""
    return {"train": frozenset(), "validation": VALIDATION_HANDS, "test": TEST_HANDS}[split]
