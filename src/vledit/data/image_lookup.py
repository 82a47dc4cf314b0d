"""Find the pictures that annotation files name, under one or more folders in whatever layout they were unpacked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

_LAYOUTS = ("", "images", "data", "image")


@dataclass(frozen=True)
class MissingPicture:
    """Stands where a picture's path would, in a case that is not finished; `vledit.data.reading` takes it out."""

    name: str
    reason: str


class ImageLookup:
    """Pictures by the name that an annotation file gives them.

    Tried in this order: the name below a root or a usual folder in it (``images/``, ``data/``, `layouts`); the name
    without leading folders that the root itself ends in (root ``…/val2014``, name ``val2014/1.jpg``); a file anywhere
    below a root whose path ends in the whole name; and, where `by_name`, a file of that name anywhere below a root, if
    there is only one.

    Args:
        roots: folders to look in.
        layouts: further folders in a root that a benchmark's archives unpack to.
        by_name: whether a file name alone tells which picture is meant (COCO's does; VLKEB's ``google_15.jpg`` and
            GQA's ``21.jpg`` do not, and a match by name alone could be another picture).
    """

    def __init__(self, roots: Sequence[Path], layouts: Sequence[str] = (), by_name: bool = False):
        self.roots = [Path(root).expanduser() for root in roots]
        self.layouts = (*_LAYOUTS, *layouts)
        self.by_name = by_name
        self._found: dict[str, Path | MissingPicture] = {}

    def find(self, name: str) -> Path | MissingPicture:
        """Return the path of the picture, or a `MissingPicture` that says where it was looked for."""
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def _find(self, name: str) -> Path | MissingPicture:
        parts = _parts(name)
        if not parts:
            return MissingPicture(name, "the name is empty")
        near = next((path for path in self._near(parts) if os.path.isfile(path)), None)
        return self._anywhere(name, parts) if near is None else Path(near)

    def folder(self, *names: str) -> Path | None:
        """Return the first folder of one of these names below a root, or None."""
        for root in self.roots:
            for name in names:
                if (root / name).is_dir():
                    return root / name
        return None

    def _near(self, parts: tuple[str, ...]) -> Iterator[str]:
        for root in self.roots:
            yield from (os.path.join(root, layout, *parts) for layout in self.layouts)
            ending = root.absolute().parts
            yield from (os.path.join(root, *parts[n:]) for n in range(1, len(parts)) if ending[-n:] == parts[:n])

    def _anywhere(self, name: str, parts: tuple[str, ...]) -> Path | MissingPicture:
        same = self._index.get(parts[-1], [])
        whole = [path for path in same if path.parts[-len(parts) :] == parts]
        found = whole or (same if self.by_name else [])
        if len(found) == 1:
            return found[0]
        where = " or ".join(map(str, self.roots)) or "no folder"
        if found:
            return MissingPicture(name, f"{len(found)} files below {where} could be it, e.g. {found[0]} and {found[1]}")
        return MissingPicture(name, f"no such file below {where}")

    @cached_property
    def _index(self) -> dict[str, list[Path]]:
        """File name → paths below the roots; links are followed, no folder is entered twice."""
        found: dict[str, list[Path]] = {}
        entered: set[str] = set()
        for root in self.roots:
            for folder, below, files in os.walk(root, followlinks=True):
                real = os.path.realpath(folder)
                if real in entered:
                    below.clear()
                    continue
                entered.add(real)
                below.sort()
                for file in files:
                    found.setdefault(file, []).append(Path(folder, file))
        return found


def _parts(name: str) -> tuple[str, ...]:
    """Return the folders and file of a name, without what would lead out of a root."""
    parts = PurePosixPath(name.strip().replace("\\", "/")).parts
    return tuple(part for part in parts if part not in ("/", "..", ".") and not part.endswith(":"))
