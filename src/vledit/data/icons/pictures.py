"""Pictures of an edit set that are made when they are opened: a drawing on a background, or black."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from PIL import Image

from vledit.data.icons.compositing import Mode
from vledit.data.icons.dataset import IconData
from vledit.data.icons.model import Drawing

SIZE = 192


@dataclass(frozen=True)
class IconPicture:
    """A drawing on a background; the same fields give the same pixels. A `LazyPicture`."""

    data: IconData = field(repr=False, compare=False)
    drawing: Drawing
    seed: int = 0
    mode: Mode = "clean"
    size: int = SIZE

    @property
    def key(self) -> str:
        """Name the content: the drawing's hash and how it is put on its background."""
        return f"icons:{self.drawing.sha256[:20]}:{self.drawing.id}:{self.mode}:{self.seed}:{self.size}"

    def open(self) -> Image.Image:
        """Return the picture, RGB `size` x `size`. Raises: CorruptPicture."""
        return self.data.composite(self.drawing, self.seed, self.mode, self.size)


@dataclass(frozen=True)
class BlackPicture:
    """A picture that shows nothing. A `LazyPicture`."""

    size: int = SIZE

    @property
    def key(self) -> str:
        """Name the content."""
        return f"black:{self.size}"

    def open(self) -> Image.Image:
        """Return the picture, RGB `size` x `size`, all black."""
        return _black(self.size).copy()


@lru_cache(maxsize=4)
def _black(size: int) -> Image.Image:
    return Image.new("RGB", (size, size))
