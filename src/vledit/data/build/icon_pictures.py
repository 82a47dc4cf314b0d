"""The drawings of `icons` as a picture model whose truth is known: what a verifier accepts can be held against it.

Asked for "a carousel horse", it draws the concept whose name stands in the text, by another hand for each seed. With `wrong`,
that share of its pictures shows another thing of the same group instead, as a bad picture model would.
"""

from __future__ import annotations

import random
from typing import Any

from vledit.data.build.agreement import normal
from vledit.data.build.picture_models import Made, PictureSettings, Wanted
from vledit.errors import InputError


class IconPictures:
    """Makes drawings.

    Args:
        wrong: share of pictures that show another thing of the same group; in [0, 1).

    Raises: MissingDataError where `icons` is not built.
    """

    together = 16
    threads = 1
    licence = "each drawing's own; see `vledit data card icons`"

    def __init__(self, settings: PictureSettings, wrong: float = 0.0):
        from vledit.data.icons.dataset import load

        if not 0 <= wrong < 1:
            raise InputError(f"image-model: wrong={wrong}; it must be at least 0 and below 1.")
        self.data, self.settings, self.wrong = load(), settings, wrong
        self.about: dict[str, Any] = {
            "drawings": "icons",
            "version": self.data.version,
            "size": settings.size,
            "wrong": wrong,
        }
        self._named = {normal(concept.name): concept for concept in self.data.concepts.values()}
        self._longest = max((len(name.split()) for name in self._named), default=0)

    @classmethod
    def of(cls, text: str, settings: PictureSettings) -> IconPictures:
        """Of "" or "wrong=0.2".  Raises: InputError."""
        if not text:
            return cls(settings)
        name, _, value = text.partition("=")
        try:
            if name != "wrong":
                raise ValueError
            return cls(settings, float(value))
        except ValueError:
            raise InputError(f"image-model: 'icons:{text}' is not icons:wrong=SHARE.") from None

    def make(self, wanted: list[Wanted]) -> list[Made]:
        """See `PictureModel`; `Made.right` says whether it is what was asked for."""
        return [self._one(one) for one in wanted]

    def _one(self, wanted: Wanted) -> Made:
        concept = asked = self._concept(wanted.object)
        if concept is None:
            return Made(None, f"icons has no drawing of {wanted.object!r}")
        draw = random.Random(f"{wanted.seed}/{concept.id}/{self.wrong}")
        if draw.random() < self.wrong:
            others = [c for c in self.data.concepts_of(concept.domain) if c.id != concept.id]
            same = [c for c in others if c.group == concept.group]
            concept = draw.choice(same or others)
        drawings = self.data.drawings_of(concept.id)
        order = random.Random(concept.id).sample(drawings, len(drawings))
        drawing = order[wanted.seed % len(order)]
        mode = "clean" if wanted.seed < len(order) else "augment"
        return Made(self.data.composite(drawing, wanted.seed, mode, self.settings.size), right=concept.id == asked.id)

    def _concept(self, text: str) -> Any:
        """The concept with the longest name that stands in a text."""
        words = normal(text).split()
        for length in range(min(self._longest, len(words)), 0, -1):
            for start in range(len(words) - length + 1):
                if found := self._named.get(" ".join(words[start : start + length])):
                    return found
        return None
