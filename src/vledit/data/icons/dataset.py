"""Read the built data set: concepts, drawings, pictures, wordings. Loads no torch."""

from __future__ import annotations

import io
import json
import zipfile
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from vledit.data.cache import cache_root, sha256_bytes
from vledit.data.icons.compositing import Mode, composite
from vledit.data.icons.model import Concept, Drawing
from vledit.data.icons.splits import Split
from vledit.errors import MissingDataError

WORDINGS = Path(__file__).with_name("wordings.json")
FORMAT = 2
"""Of `index.json`; raise when a reader of an older one would go wrong."""
WordingSplit = Literal["train", "validation", "test", "held_out"]
"""Of a wording; "held_out" is validation and test together: all that training never saw."""


class NotBuilt(MissingDataError):
    """The data set is not in the cache; the message says how to build it."""


class CorruptPicture(MissingDataError):
    """A picture's bytes are not those that were built; building again repairs it."""


@dataclass(frozen=True, eq=False)
class IconData:
    """The data set as built under `root`; `version` names its content (16 hex digits)."""

    root: Path
    concepts: dict[str, Concept]
    drawings: list[Drawing]
    version: str
    _packs: dict[str, zipfile.ZipFile] = field(default_factory=dict, repr=False)

    @cached_property
    def _by_concept(self) -> dict[tuple[str, Split | None], list[Drawing]]:
        found: defaultdict[tuple[str, Split | None], list[Drawing]] = defaultdict(list)
        for drawing in self.drawings:
            found[drawing.concept, None].append(drawing)
            found[drawing.concept, drawing.split].append(drawing)
        return dict(found)

    @cached_property
    def _by_domain(self) -> dict[str, list[Concept]]:
        found: defaultdict[str, list[Concept]] = defaultdict(list)
        for concept in self.concepts.values():
            found[concept.domain].append(concept)
        return dict(found)

    def concepts_of(self, domain: str) -> list[Concept]:
        """Return the concepts of one domain, in the order of its table."""
        return list(self._by_domain.get(domain, ()))

    def drawings_of(self, concept_id: str, split: Split | None = None) -> list[Drawing]:
        """Return the drawings of a concept, of one split or of both.

        Raises: KeyError for an unknown concept.
        """
        if concept_id not in self.concepts:
            raise KeyError(f"no concept {concept_id!r} in the data set icons")
        return list(self._by_concept.get((concept_id, split), ()))

    def picture(self, drawing: Drawing) -> Image.Image:
        """Return the drawing, RGBA 192 x 192, transparent around it.

        Raises: CorruptPicture where its bytes changed since it was built.
        """
        if drawing.pack not in self._packs:
            self._packs[drawing.pack] = zipfile.ZipFile(self.root / "sets" / drawing.pack)
        try:
            content = self._packs[drawing.pack].read(drawing.file)
        except (zipfile.BadZipFile, KeyError, OSError) as error:
            raise CorruptPicture(f"{drawing.id}: {error}; run: vledit data build icons") from error
        if sha256_bytes(content) != drawing.sha256:
            raise CorruptPicture(f"{drawing.id} changed on disk; run: vledit data build icons")
        return Image.open(io.BytesIO(content)).convert("RGBA")

    def composite(self, drawing: Drawing, seed: int | str = 0, mode: Mode = "clean", size: int = 160) -> Image.Image:
        """Return the drawing on a background, RGB `size` x `size`; see `composite`."""
        return composite(
            self.picture(drawing),
            f"{drawing.id}/{seed}",
            mode,
            size,
            style=drawing.style,
            colour=drawing.colour,
            domain=self.concepts[drawing.concept].domain,
        )

    def wordings(self, domain: str, kind: str, split: WordingSplit) -> list[str]:
        """Return the ways to ask for `kind` of a picture of `domain`.

        Raises: KeyError where there is no such question.
        """
        return wordings_of(split, domain, kind)

    def text_wordings(self, question: str, split: WordingSplit) -> list[str]:
        """Return the ways to ask `question` ("flags.capital") without a picture, with ``{name}``.

        Raises: KeyError where there is no such question.
        """
        return wordings_of(split, "text", question)


def load(root: Path | None = None) -> IconData:
    """Return the built data set, from ``<cache>/icons`` or `root`; reads only its index.

    Raises: NotBuilt where it is not there or of another format.
    """
    root = root or cache_root() / "icons"
    try:
        index = json.loads((root / "index.json").read_text(encoding="utf-8"))
        if index["format"] != FORMAT:
            raise ValueError(f"format {index['format']}")
    except (OSError, ValueError, KeyError) as error:
        raise NotBuilt(f"the data set icons is not built in {root}; run: vledit data build icons") from error
    concepts = {entry["id"]: Concept(**entry) for entry in index["concepts"]}
    drawings = [Drawing(**entry) for entry in index["drawings"]]
    return IconData(root, concepts, drawings, index["version"])


@lru_cache(maxsize=1)
def all_wordings() -> dict[str, Any]:
    """Return `wordings.json`: (domain, kind) -> train, validation and test wordings; "text", "general" too."""
    return json.loads(WORDINGS.read_text(encoding="utf-8"))


def wordings_of(split: WordingSplit, *path: str) -> list[Any]:
    """Return the wordings of one split at a place of `wordings.json`; "held_out": those of test, then of validation.

    Raises: KeyError where there is no such place, naming those that there are.
    """
    value: Any = all_wordings()
    for key in path:
        if key not in value:
            raise KeyError(f"no wordings for {'/'.join(path)}; known here: {', '.join(value)}")
        value = value[key]
    return [*value["test"], *value["validation"]] if split == "held_out" else list(value[split])
