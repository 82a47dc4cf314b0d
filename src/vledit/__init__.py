"""VLEdit: change one thing that a vision-language model knows, and prove what else changed.

Importing this package loads neither torch nor transformers; they load when a model does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .codebook import Codebook as Codebook
    from .data.case import EditCase as EditCase
    from .data.case import EditRequest as EditRequest
    from .data.case import Probe as Probe
    from .editors.ask_many import ask_many as ask_many
    from .editors.edited_model import EditedModel as EditedModel
    from .editors.many import edit_many as edit_many
    from .evaluate.probe_check import check_probes as check_probes
    from .loading import load as load

__version__ = "0.1.0"

_LAZY = {
    "load": ".loading",
    "EditedModel": ".editors.edited_model",
    "EditRequest": ".data.case",
    "EditCase": ".data.case",
    "Probe": ".data.case",
    "Codebook": ".codebook",
    "ask_many": ".editors.ask_many",
    "check_probes": ".evaluate.probe_check",
    "edit_many": ".editors.many",
}
__all__ = [
    "Codebook",
    "EditCase",
    "EditRequest",
    "EditedModel",
    "Probe",
    "ask_many",
    "check_probes",
    "edit_many",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module 'vledit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
