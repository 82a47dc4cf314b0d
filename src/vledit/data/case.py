"""The records that every benchmark, editor and metric shares: `EditRequest`, `Probe`, `EditCase`.

Pictures are held as `PictureRef`-like callables only at the edges; inside, a picture is a `PIL.Image.Image`, a path, or
`None` (a question without a picture).  Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image


@runtime_checkable
class LazyPicture(Protocol):
    """A picture that is opened when it is needed; `key` identifies its content (for caches and results files)."""

    @property
    def key(self) -> str: ...

    def open(self) -> Image: ...


Picture = "Image | Path | str | LazyPicture | None"
"""What may stand where a picture is asked for; `vledit.vlm.pictures.open_picture` turns any of them into RGB."""


@dataclass(frozen=True)
class EditRequest:
    """One fact to change: asked `question` about `image`, the model is to answer `answer`.

    Args:
        image: the picture, or None for a question without a picture.
        question: the question as a user would type it (no prompt template).
        answer: the new answer (the papers' y^n).
        rephrases: other wordings of the question, used for the positive sample if the backbone's own is not usable.
        id: name of the edit; if empty, it is derived from the content.
    """

    image: object | None
    question: str
    answer: str
    rephrases: tuple[str, ...] = ()
    id: str = ""


@dataclass(frozen=True)
class Probe:
    """One question that is put to the model to find out what an edit did.

    Args:
        image: the picture, or None for a question without a picture.
        question: the question, without prompt template.
        answer: the correct answer according to the *data set*, or None if only the base's own answer matters.
        tags: properties of the probe by which reports group, e.g. {"hand": "emojione", "seen": "no"}.
        id: unique within a case and cell.
    """

    image: object | None
    question: str
    answer: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    id: str = ""


Cells = Mapping[str, tuple[Probe, ...]]


@dataclass(frozen=True)
class EditCase:
    """One edit of a benchmark with all questions that are asked after it.

    Probes in `generality` cells ("text", "image", ...) are to get the request's answer, those in `locality` cells ("near_image",
    "text", "random_image", "other_question", "black", ...) the base's answer, those in `portability` cells their own answer.
    """

    request: EditRequest
    generality: Cells
    locality: Cells
    portability: Cells = field(default_factory=dict)
    base_answer: str = ""
    """The answer that the data set holds for right before the edit (the papers' y^o)."""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.request.id

    def trimmed(self, most: int) -> EditCase:
        """Return the case with at most this many probes of each cell, the first ones; 0: all of them."""
        if not most:
            return self
        families = ("generality", "locality", "portability")
        kept = {name: {cell: probes[:most] for cell, probes in getattr(self, name).items()} for name in families}
        return replace(self, **kept)

    def probes(self) -> Iterator[tuple[str, str, int, Probe]]:
        """Yields (family, cell, index, probe) over all cells, in a fixed order."""
        for family in ("generality", "locality", "portability"):
            for cell, probes in sorted(getattr(self, family).items()):
                for index, probe in enumerate(probes):
                    yield family, cell, index, probe
