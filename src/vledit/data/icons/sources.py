"""Read one icon set from its npm package: names, code points, and the picture file of a name."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vledit.data.icons.sets import IconSet


def plain_name(text: str) -> str:
    """Return `text` as lower-case ASCII letters and digits only, for comparing names of sets."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]", "", ascii_text.lower())


def slug_of(name: str) -> str:
    """Return `name` as it stands in a concept's id: "São Tomé" is "sao-tome"."""
    ascii_text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]+", "-", ascii_text.lower()).strip("-")


def plain_hexcode(text: str) -> str:
    """Return an emoji's code points in one spelling: lower case, without the variation selector."""
    return "-".join(part for part in text.lower().split("-") if part != "fe0f")


@dataclass(frozen=True)
class Source:
    """An icon set as installed under `node_modules`; what it holds is read when first asked."""

    icon_set: IconSet
    node_modules: Path

    @property
    def folder(self) -> Path:
        return self.node_modules / self.icon_set.package

    @cached_property
    def _iconify(self) -> dict[str, Any]:
        return json.loads((self.folder / "icons.json").read_text(encoding="utf-8"))

    @cached_property
    def files(self) -> dict[str, Path]:
        """Picture files by stem, for a set that is a folder of files."""
        folder = self.folder / self.icon_set.folder
        return {path.stem: path for path in sorted(folder.iterdir()) if path.is_file()}

    @cached_property
    def names(self) -> dict[str, str]:
        """Icon by its plain name; an icon's own name goes before an alias."""
        if self.icon_set.folder:
            return {plain_name(stem): stem for stem in self.files}
        found: dict[str, str] = {}
        for name in self._iconify["icons"]:
            found.setdefault(plain_name(name), name)
        for alias, entry in self._iconify.get("aliases", {}).items():
            if not entry.keys() - {"parent"}:  # one with a turn or a flip is another picture
                found.setdefault(plain_name(alias), self._root(entry["parent"]))
        return found

    @cached_property
    def hexcodes(self) -> dict[str, str]:
        """Icon by emoji code points (`plain_hexcode`), where the package says them."""
        if self.icon_set.folder:
            return {plain_hexcode(stem): stem for stem in self.files}
        path = self.folder / "chars.json"
        chars: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return {plain_hexcode(code): self._root(name) for code, name in chars.items()}

    def _root(self, name: str) -> str:
        aliases = self._iconify.get("aliases", {})
        while name in aliases:
            name = aliases[name]["parent"]
        return name

    def picture_bytes(self, icon: str) -> bytes:
        """Return the icon's own file: SVG (made of its Iconify body) or a raster picture.

        Raises: KeyError for an icon that the set does not hold.
        """
        if self.icon_set.folder:
            return self.files[icon].read_bytes()
        data = self._iconify
        entry = data["icons"][icon]
        left, top = (entry.get(key, data.get(key, 0)) for key in ("left", "top"))
        width, height = (entry.get(key, data.get(key, 16)) for key in ("width", "height"))
        head = (
            '<svg xmlns="http://www.w3.org/2000/svg" '
            'xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{width}" height="{height}" viewBox="{left} {top} {width} {height}">'
        )
        return f"{head}{entry['body']}</svg>".encode()
