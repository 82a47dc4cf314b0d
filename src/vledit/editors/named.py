"""Settings by name: `settings=published` (the authors'), `settings=tuned` (the result of `vledit tune`), or a file of settings.

They are looked up for the loaded model, since both depend on it; settings given in addition to the name take precedence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.cache import cache_root
from ..errors import InputError, MissingDataError
from .registry import editor_class

if TYPE_CHECKING:
    from ..vlm.base import VLM

KEY = "settings"
NAMES = ("default", "published", "tuned")
BEST = "best.json"


def tuned_folder(editor: str, vlm: VLM) -> Path:
    """Where `vledit tune` keeps what it tried with an editor on a model, and the best of it."""
    return cache_root() / "tuned" / f"{editor}-{vlm.fingerprint[:16]}"


def resolved(editor: str, settings: Mapping[str, Any], vlm: VLM) -> dict[str, Any]:
    """The settings with the name `settings` replaced by what it stands for.

    Raises:
        InputError: nothing was published for the model's family, or what was is about the fitting; a file that is unfit.
        MissingDataError: `tuned`, but nothing was tuned for this model.
        UnknownNameError: a file holds a setting that the editor does not have.
    """
    rest = dict(settings)
    name = rest.pop(KEY, None)
    if name is None:
        return rest
    found = dict(named(editor, str(name), vlm))
    editor_class(editor).Config.from_settings({**found, **rest})
    return {**found, **rest}


def named(editor: str, name: str, vlm: VLM) -> Mapping[str, Any]:
    """What one name stands for; see `resolved`."""
    if name == "default":
        return {}
    if name == "published":
        return published(editor, vlm.family.name)
    path = tuned_folder(editor, vlm) / BEST if name == "tuned" else Path(name).expanduser()
    if name == "tuned" and not path.is_file():
        raise MissingDataError(
            f"settings: '{editor}' was not tuned for '{vlm.name}'; run `vledit tune --editor {editor}` first."
        )
    try:
        record = json.loads(path.read_bytes())
        return dict(record[KEY])
    except (OSError, KeyError, TypeError, ValueError):
        raise InputError(
            f"settings: '{name}' is none of {', '.join(NAMES)}, and no JSON file with an object '{KEY}'."
        ) from None


def published(editor: str, family: str) -> Mapping[str, Any]:
    """The authors' settings of an edit on a model family.

    Raises: InputError where there are none, or where they are settings of the fitting.
    """
    method = editor_class(editor)
    found = method.published(family) if hasattr(method, "published") else {}
    known = {field.name for field in fields(method.Config)}
    own = {name: value for name, value in found.items() if name in known}
    if found and not own:
        raise InputError(
            f"settings: what was published of '{editor}' is about its fitting; run `vledit fit --editor {editor} --published`."
        )
    if not own:
        raise InputError(
            f"settings: the authors of '{editor}' gave none for the family '{family}'; leave settings=published out."
        )
    return own
