"""Reading annotation files: one JSON list of records, whose fields are checked as they are taken, and the cleaning of texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vledit.errors import InputError

_QUOTES = ('"', "'", "“”", "‘’")
_PREFIXES = ("nq question:",)


class FieldError(ValueError):
    """A field of a record is missing or unfit; `field` names it."""

    def __init__(self, field: str, text: str):
        super().__init__(text)
        self.field, self.text = field, text


def read_records(path: Path, benchmark: str, key: str | None = None) -> list[Any]:
    """Return the list of records in a JSON file, each as it stands there.

    Args:
        key: where the list is one field of an object (OK-VQA's layout), that field.

    Raises: InputError naming the file where it cannot be read, is no JSON or holds no such list.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{benchmark}: {path} cannot be read ({error.strerror}). Check the path.") from error
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError both are
        raise InputError(
            f"{benchmark}: {path} is not JSON ({error}). A file of a few lines is often a pointer or a web page that was "
            "saved instead of the data: fetch it again."
        ) from error
    if key is not None:
        content = content.get(key) if isinstance(content, dict) else None
    if not isinstance(content, list):
        raise InputError(
            f"{benchmark}: {path} has no list {f'{key!r}' if key else 'of records'}; is it the right file?"
        )
    return content


class Record:
    """One record whose fields are taken by name; a field that is missing or unfit raises `FieldError`."""

    def __init__(self, values: Any):
        if not isinstance(values, Mapping):
            raise FieldError("record", f"is {_kind(values)}, not an object with fields")
        self.values = values

    def text(self, field: str, default: str | None = None) -> str:
        """Return a field's text without outer blanks; a number counts as its text, a list of one as that one.

        Args:
            default: what stands in for a field that is missing, null or empty; without one, that is an error.
        """
        value = self.values.get(field)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if value is not None and not isinstance(value, str):
            raise FieldError(field, f"is {_kind(value)}, not a text")
        if value is None or not value.strip():
            if default is not None:
                return default
            raise FieldError(field, "is missing" if value is None else "is empty")
        return value.strip()

    def texts(self, field: str) -> tuple[str, ...]:
        """Return a field that holds one text, a list of texts, or nothing; empty texts in a list are left out."""
        value = self.values.get(field)
        if value is None:
            return ()
        several = [value] if isinstance(value, str) else value
        if not isinstance(several, list) or not all(isinstance(one, str) for one in several):
            raise FieldError(field, f"is {_kind(value)}, not a text or a list of texts")
        return tuple(one.strip() for one in several if one.strip())

    def numbers(self, field: str) -> tuple[int, ...]:
        """Return a list of whole numbers; () where the field is missing."""
        value = self.values.get(field)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(one, int) and not isinstance(one, bool) for one in value):
            raise FieldError(field, f"is {_kind(value)}, not a list of whole numbers")
        return tuple(value)

    def records(self, field: str) -> list[Record]:
        """Return a list of records; [] where the field is missing or null."""
        value = self.values.get(field)
        if value is None:
            return []
        if not isinstance(value, list):
            raise FieldError(field, f"is {_kind(value)}, not a list")
        try:
            return [Record(one) for one in value]
        except FieldError as error:
            raise FieldError(field, f"an item {error.text}") from error


def _kind(value: Any) -> str:
    names = {list: "a list", dict: "an object", bool: "true or false", type(None): "null", str: "a text"}
    return names.get(type(value), "a number")


def unquoted(text: str) -> str:
    """Return `text` without one pair of quotes around the whole of it: '"Is it hot?"' → 'Is it hot?'.

    Quotes that belong to a part of it stay: 'What does "stop" mean?', '5\\'5"'.
    """
    for pair in _QUOTES:
        first, last = pair[0], pair[-1]
        if len(text) > 2 and text[0] == first and text[-1] == last:
            inner = text[1:-1]
            if first not in inner and last not in inner and inner.strip():
                return inner.strip()
    return text


def without_prefix(text: str) -> str:
    """Return a locality question without the mark of its source: 'nq question: who …' → 'who …'."""
    for prefix in _PREFIXES:
        if text.lower().startswith(prefix) and len(text.strip()) > len(prefix):
            return text[len(prefix) :].strip()
    return text
