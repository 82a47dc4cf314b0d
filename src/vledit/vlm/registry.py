"""Finds the family of a model.  Families of other packages join through the entry point group `vledit.families`."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ..errors import InputError, UnknownNameError
from .families import Family

_BUILT_IN = {
    "pocket": "vledit.vlm.pocket:FAMILY",
    "blip2": "vledit.vlm.blip2:FAMILY",
    "minigpt4": "vledit.vlm.minigpt4:FAMILY",
}
GROUP = "vledit.families"


@cache
def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def family_names() -> list[str]:
    """Names of all families, built in and installed."""
    return sorted({*_BUILT_IN, *_installed()})


@cache
def family(name: str) -> Family:
    """The family of that name; only its own file is imported.

    Raises:
        UnknownNameError: there is none; the message suggests the near miss.
    """
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        return getattr(import_module(module), attribute)
    if name in _installed():
        return _installed()[name].load()
    raise UnknownNameError("model family", name, family_names())


def family_of(config: Any) -> Family:
    """The family that covers a Hugging Face config.

    Raises:
        InputError: none does.
    """
    for name in family_names():
        candidate = family(name)
        if candidate.matches(config):
            return candidate
    text_type = getattr(getattr(config, "text_config", None), "model_type", "none")
    raise InputError(
        f"no family covers models of type '{config.model_type}' with a language model of type '{text_type}'. "
        f"Known families: {', '.join(family_names())}. Add one through the entry point group '{GROUP}'."
    )


def checkpoints() -> dict[str, str]:
    """Short name → Hugging Face id of every published checkpoint that a family names."""
    return {short: hub for name in family_names() for short, hub in family(name).checkpoints.items()}
