"""Copies and pickles of models and codebooks: large frozen parts are shared or loaded again, not copied.

A deep copy of an edited model has edits of its own and the same base.  A pickle (`multiprocessing`, Ray) contains the edits as
the bytes of a codebook file and a record of how the base was loaded; unpickling loads the base again.
"""

from __future__ import annotations

import copy
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError, ModelMismatchError

if TYPE_CHECKING:
    from .codebook import Codebook
    from .vlm.base import VLM

_LOCK = type(threading.RLock())


def state(owner: Any) -> tuple[dict[str, Any], list[str]]:
    """What an object holds, and the names of its locks, of which a copy has its own."""
    held = dict(vars(owner))
    locks = [name for name, value in held.items() if isinstance(value, _LOCK)]
    return {name: value for name, value in held.items() if name not in locks}, locks


def rebuilt(kind: type, held: dict[str, Any], locks: list[str]) -> Any:
    """The object of what `state` gave."""
    made = object.__new__(kind)
    vars(made).update(held, **{name: threading.RLock() for name in locks})
    return made


def deep_copy(model: Any, memo: dict[int, Any]) -> Any:
    """A deep copy of an edited model: its own edits, the same base."""
    memo[id(model.vlm)] = model.vlm
    held, locks = state(model)
    made = rebuilt(type(model), {}, locks)
    memo[id(model)] = made
    vars(made).update({name: copy.deepcopy(value, memo) for name, value in held.items()})
    return made


def shallow_copy(model: Any) -> Any:
    """Another object that holds the very same things, locks included."""
    return rebuilt(type(model), vars(model), [])


def packed_codebook(book: Codebook) -> tuple[Any, tuple[Any, ...]]:
    """For `Codebook.__reduce__`: the bytes of its file; what is made of them lives in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codebook"
        book.save(path)
        return unpacked_codebook, (path.read_bytes(), book.router.compete)


def unpacked_codebook(data: bytes, compete: str) -> Codebook:
    """The codebook of `packed_codebook`, in memory."""
    from .codebook import Codebook

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codebook"
        path.write_bytes(data)
        with Codebook.open(path, compete=compete) as book:
            whole = {entry.id: replace(entry, transformation=_loaded(entry.transformation)) for entry in book.entries()}
            book._entries = whole
        book._store = None
    return book


def _loaded(transformation: Any) -> Any:
    return transformation.load() if hasattr(transformation, "load") else transformation


def packed_model(vlm: VLM) -> tuple[Any, tuple[Any, ...]]:
    """For `VLM.__reduce__`: how the model was loaded.

    Raises: InputError where it was not loaded by this package.
    """
    if vlm.loaded_by is None:
        raise InputError(
            f"pickle: '{vlm.name}' was not loaded by vledit.load, so that it cannot be loaded again elsewhere; keep its edits "
            "with save_pretrained(folder) and put them onto the model there: EditedModel.from_pretrained(vlm, folder)."
        )
    return loaded_again, (vlm.loaded_by, vlm.fingerprint)


def loaded_again(how: dict[str, Any], fingerprint: str) -> VLM:
    """The model, loaded as it was.  Raises: ModelMismatchError where another one is there by now."""
    from .loading import load_vlm

    vlm = load_vlm(**how)
    if vlm.fingerprint != fingerprint:
        raise ModelMismatchError(
            f"'{vlm.name}' is another model here ({vlm.fingerprint}) than where it was pickled ({fingerprint})."
        )
    return vlm
