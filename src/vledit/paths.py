"""Paths that users give: what `~` and `file://` mean, and clear errors for places that cannot be written."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .errors import InputError


def local(given: str | Path) -> Path:
    """The path that is meant: `~` is the home folder, a `file://` URL the path in it.

    Raises: InputError for a `file://` URL that names another computer, or a path that no system takes.
    """
    text = str(given)
    if "\0" in text:
        raise InputError(f"path: {text!r} has a NUL character in it. Check the path.")
    if text[:7].lower() == "file://":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise InputError(
                f"path: '{text}' names the computer '{parts.netloc}'. Write file:///path for a local file."
            )
        text = unquote(parts.path)
    return Path(text).expanduser()


def output_folder(given: str | Path, field: str) -> Path:
    """The folder, made where it is not there, ready to be written into.

    Args:
        field: what the path was given for, for the error.

    Raises: InputError where it is a file, lies below one, or cannot be made or written into.
    """
    folder = local(given)
    if not str(given).strip():
        raise InputError(f"{field}: the path is empty. Give a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{field}: '{folder}' is a file, or lies below one. Give a folder.") from None
    except OSError as error:
        raise InputError(
            f"{field}: the folder '{folder}' cannot be made ({reason(error)}). Give a place that you can write to."
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{field}: the folder '{folder}' cannot be written into. Give a place that you can write to.")
    return folder


def output_file(given: str | Path, field: str) -> Path:
    """The file's path, its folder made where it is not there; nothing is written yet.

    Raises: InputError where it is a folder, lies below a file, or its folder cannot be made or written into.
    """
    path = local(given)
    if path.is_dir():
        raise InputError(f"{field}: '{path}' is a folder. Give the path of a file.")
    output_folder(path.absolute().parent, field)
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"{field}: '{path}' cannot be written. Check its permissions, or give another path.")
    return path


def reason(error: OSError) -> str:
    """What the system says, without the path."""
    return error.strerror or type(error).__name__
