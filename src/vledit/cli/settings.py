"""`--set name=value` → typed settings of a configuration dataclass."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from typing import Any

from ..errors import InputError, UnknownNameError

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def parse_settings(config: type, pairs: Iterable[str]) -> dict[str, Any]:
    """Reads "name=value" texts as fields of the dataclass `config`.

    Raises: InputError for a text without "=", or a value that is not of the field's type; UnknownNameError for a name that
        is no field.
    """
    hints = typing.get_type_hints(config)
    known = {field.name for field in fields(config)}
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise InputError(f"--set: '{pair}' is not like name=value, e.g. --set alpha=0.3.")
        if name not in known:
            raise UnknownNameError("setting", name, known)
        found[name] = parse_value(name, text.strip(), hints[name])
    return found


def parse_value(name: str, text: str, kind: Any) -> Any:
    """Reads `text` as a value of the annotation `kind`: bool, int, float, str, Path, a union of such with None, a tuple.

    Raises: InputError that names the field.
    """
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        members = typing.get_args(kind)
        if type(None) in members and text.lower() in ("none", ""):
            return None
        return parse_value(name, text, next(member for member in members if member is not type(None)))
    if typing.get_origin(kind) is tuple:
        wanted, parts = typing.get_args(kind), [part.strip() for part in text.split(",")]
        if len(parts) != len(wanted):
            raise InputError(f"{name}: {len(wanted)} values separated by commas are expected, not '{text}'.")
        return tuple(parse_value(name, part, member) for part, member in zip(parts, wanted, strict=True))
    if kind is bool:
        if text.lower() in (*_TRUE, *_FALSE):
            return text.lower() in _TRUE
        raise InputError(f"{name}: true or false is expected, not '{text}'.")
    try:
        return kind(text)
    except (TypeError, ValueError):
        raise InputError(f"{name}: {type_name(kind)} is expected, not '{text}'.") from None


def type_name(kind: Any) -> str:
    """An annotation for people."""
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return " or ".join("none" if member is type(None) else type_name(member) for member in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return ", ".join(type_name(member) for member in typing.get_args(kind))
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def described(config: type) -> list[dict[str, Any]]:
    """The fields of a configuration with type, default and help text."""
    hints = typing.get_type_hints(config)
    return [
        {
            "name": field.name,
            "type": type_name(hints[field.name]),
            "default": _default(field),
            "help": field.metadata.get("help", ""),
        }
        for field in fields(config)
    ]


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else None
