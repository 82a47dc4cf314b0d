"""Adapters of fine-tuning tools (PEFT): a folder or Hugging Face id with `adapter_config.json`, put into its base model."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from .errors import InputError, MissingDataError
from .paths import local

CONFIG_FILE = "adapter_config.json"
OURS = "VLEDIT"
"""`peft_type` in files that earlier versions of `EditedModel.save_pretrained` wrote: edits, which PEFT cannot load."""
_EDITS = ("codebook.vledit", "weight_edits.json")
"""Files by which a folder of edits is known."""
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
_MISSING = "Found missing adapter keys"


def resolve(name: str, adapter: str | Path | None = None) -> tuple[str, str | None]:
    """The base and the adapter that a name means: for a folder of an adapter the base that it names, and itself.

    Args:
        adapter: an adapter that is given beside the base.

    Raises:
        InputError: two adapters, a folder that names no base, or edits of this package in the place of an adapter.
        MissingDataError: there is no such adapter.
    """
    folder = local(name)
    own = folder / CONFIG_FILE
    if adapter is not None:
        if own.is_file() and not (folder / "config.json").is_file():
            raise InputError(
                f"adapter: '{name}' is an adapter itself. Give its base as the model, or leave adapter out."
            )
        return name, _checked(adapter)
    if not own.is_file() or (folder / "config.json").is_file():
        if not (folder / "config.json").is_file():
            _refuse_edits(folder)
        return name, None
    base = _settings(folder).get("base_model_name_or_path")
    if not base:
        raise InputError(
            f"model: the adapter in '{name}' names no base (base_model_name_or_path in {CONFIG_FILE}). "
            f"Give the base as the model, and adapter='{name}' (--adapter)."
        )
    beside = folder / str(base)
    return (str(beside) if beside.is_dir() and not Path(base).is_dir() else str(base)), str(folder)


def _checked(adapter: str | Path) -> str:
    folder = local(adapter)
    if folder.is_file():
        raise InputError(f"adapter: '{adapter}' is a file; give the folder that holds {CONFIG_FILE}.")
    if folder.is_dir():
        if not (folder / CONFIG_FILE).is_file():
            _refuse_edits(folder)
            raise InputError(
                f"adapter: the folder '{adapter}' has no {CONFIG_FILE}; give the folder of a PEFT adapter."
            )
        _settings(folder)
        return str(folder)
    if str(adapter).count("/") != 1 or str(adapter).startswith((".", "~", "/")):
        raise MissingDataError(f"adapter: there is no folder '{adapter}'. Check the path.")
    return str(adapter)


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise MissingDataError(f"adapter: '{path}' cannot be read ({error}). Get it again.") from error
    if not isinstance(found, dict):
        raise MissingDataError(f"adapter: '{path}' holds no settings. Get it again.")
    if found.get("peft_type") == OURS:
        raise _holds_edits(folder)
    return found


def _refuse_edits(folder: Path) -> None:
    if any((folder / name).is_file() for name in _EDITS):
        raise _holds_edits(folder)


def _holds_edits(folder: Path) -> InputError:
    return InputError(
        f"model: '{folder}' holds edits, not a model. Load the model that they were made on, then: "
        f"EditedModel.from_pretrained(model.vlm, '{folder}')."
    )


def has_processor(adapter: str | None) -> bool:
    """Whether a processor was saved with the adapter, as trainers do."""
    return adapter is not None and any((Path(adapter) / name).is_file() for name in _PROCESSOR_FILES)


def check(adapter: str | None) -> None:
    """Raises: MissingDataError where there is an adapter and `peft` is not installed."""
    if adapter is None:
        return
    from importlib.util import find_spec

    if find_spec("peft") is None:
        raise MissingDataError(
            f"adapter '{adapter}': peft is not installed. Run: pip install 'vledit[peft]' (or: pip install peft)."
        )


def attach(model: Any, adapter: str) -> Any:
    """The model with the adapter in its layers.

    Raises:
        ValueError: the adapter is for another model, or lacks weights (`loading` puts it into words).
    """
    from peft import PeftModel

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            adapted = PeftModel.from_pretrained(model, adapter)
        except RuntimeError as error:  # sizes that differ, line by line after a headline
            lines = [line.strip() for line in str(error).splitlines()]
            raise ValueError(f"the adapter is of another model: {lines[min(1, len(lines) - 1)]}") from error
    for one in said:
        text = str(one.message)
        if text.startswith(_MISSING):
            raise ValueError(f"the adapter lacks weights, or is for another model: {text[:200]}")
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return adapted
