"""Errors that a user can act on: each names the wrong field and says what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VLEditError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what the command line returns for it."""

    exit_code = 1


class InputError(VLEditError, ValueError):
    """Something that the user gave is unfit: a picture, a question, an answer, a name, a setting."""

    exit_code = 2


class PictureError(InputError):
    """A picture cannot be read or is too large."""


class UnknownNameError(InputError):
    """No such editor, model, site, data set or entry; the message suggests the near miss."""

    def __init__(self, what: str, name: str, known: Iterable[str], more: int = 0):
        """`more`: how many are known beside those in `known`, where these are too many to be listed."""
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        rest = f" and {more:,} more" if more else ""
        super().__init__(f"unknown {what} '{name}'.{hint} Known: {', '.join(known) or 'none'}{rest}.")


class UnfitModelError(InputError):
    """A model that cannot be edited; `kind`: its config's `model_type`, "" where that is not known."""

    def __init__(self, reason: str, kind: str = ""):
        super().__init__(reason)
        self.kind = kind


class CodebookError(VLEditError):
    """A codebook file is damaged, of a newer schema, or otherwise unreadable."""

    exit_code = 3


class ModelMismatchError(CodebookError):
    """A codebook was made for another model than the one that is loaded."""

    exit_code = 4


class MissingDataError(VLEditError):
    """Data or weights are not there yet; the message says which command makes them."""

    exit_code = 5


class EditFailedError(VLEditError):
    """Training ended without the model giving the new answer."""

    exit_code = 6


class CheckFailedError(VLEditError):
    """A check of the evaluation itself failed: its figures would not be what they are called."""

    exit_code = 7


class GateError(VLEditError):
    """An edited model lost more than its thresholds allow."""

    exit_code = 8
