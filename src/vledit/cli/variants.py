"""Editors with settings, as they are written on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import InputError
from .settings import parse_settings

if TYPE_CHECKING:
    from ..evaluate.manifest import Variant
    from ..vlm.base import VLM


def parse_variants(text: str) -> list[Variant]:
    """ "balancedit:transformation=span,alpha=0.3;ft" → variants, their settings typed as the editor's configuration says.

    A variant is called as it is written, or as it says itself: "narrow=balancedit:alpha=0.9" is called "narrow".  A part
    without "=" belongs to the setting before it ("layers=3,4" is one).

    Raises: UnknownNameError for an unknown editor or setting; InputError for an unfit value, none at all, or a name that is
        given twice.
    """
    from ..editors.named import KEY
    from ..editors.registry import editor_class
    from ..evaluate.manifest import Variant

    found: dict[str, Variant] = {}
    for one in filter(None, (part.strip() for part in text.split(";"))):
        head, _, rest = one.partition(":")
        name, named, editor = (part.strip() for part in head.rpartition("="))
        if named and not name:
            raise InputError(f"editors: '{one}' has no name before its '='.")
        name = name or one
        pairs: list[str] = []
        for part in filter(None, rest.split(",")):
            if "=" in part or not pairs:
                pairs.append(part)
            else:
                pairs[-1] += f",{part}"
        config = editor_class(editor).Config
        by_name = [pair for pair in pairs if pair.partition("=")[0].strip() == KEY]
        settings = parse_settings(config, [pair for pair in pairs if pair not in by_name])
        config.from_settings(settings)
        if by_name:  # looked up once the model is there, see `with_named`
            settings[KEY] = by_name[-1].partition("=")[2].strip()
        if name in found:
            raise InputError(f"editors: '{name}' is given twice.")
        found[name] = Variant(name, editor, settings)
    if not found:
        raise InputError("editors: none given; see `vledit editors`.")
    return list(found.values())


def with_named(variants: Sequence[Variant], vlm: VLM) -> list[Variant]:
    """The variants with `settings=published` and `settings=tuned` replaced by what they stand for on this model.

    Raises: InputError, MissingDataError; see `vledit.editors.named`.
    """
    from ..editors.named import resolved

    return [replace(variant, settings=resolved(variant.editor, variant.settings, vlm)) for variant in variants]
