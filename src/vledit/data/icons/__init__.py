"""The embedded data set `icons`: real things, flags and brands, each drawn by many hands.

``vledit.data.icons.load()`` reads it, ``build()`` makes it. Nothing here imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vledit.data.icons.builder import build
    from vledit.data.icons.compositing import composite
    from vledit.data.icons.dataset import CorruptPicture, IconData, NotBuilt, load
    from vledit.data.icons.edit_filter import filter_edits, load_edits
    from vledit.data.icons.model import Concept, Drawing

__all__ = [
    "Concept",
    "CorruptPicture",
    "Drawing",
    "IconData",
    "NotBuilt",
    "build",
    "composite",
    "filter_edits",
    "load",
    "load_edits",
]

_HOMES = {
    "build": "builder",
    "composite": "compositing",
    "filter_edits": "edit_filter",
    "load": "dataset",
    "load_edits": "edit_filter",
    "IconData": "dataset",
    "NotBuilt": "dataset",
    "CorruptPicture": "dataset",
    "Concept": "model",
    "Drawing": "model",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that the package costs nothing to import."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
