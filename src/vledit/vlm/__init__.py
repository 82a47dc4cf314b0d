"""The frozen vision-language model: `VLM`, its families, pictures.  Names load lazily, and torch with them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import VLM as VLM
    from .encoded import Encoded as Encoded
    from .encoded import Trunk as Trunk
    from .families import Family as Family
    from .hooks import Transformation as Transformation
    from .hooks import transformed as transformed
    from .pictures import open_picture as open_picture
    from .pictures import picture_key as picture_key
    from .site import Site as Site
    from .tail import SiteTail as SiteTail
    from .verify import Verified as Verified

_LAZY = {
    "VLM": ".base",
    "Verified": ".verify",
    "Encoded": ".encoded",
    "Trunk": ".encoded",
    "Family": ".families",
    "Site": ".site",
    "SiteTail": ".tail",
    "Transformation": ".hooks",
    "open_picture": ".pictures",
    "picture_key": ".pictures",
    "transformed": ".hooks",
}
__all__ = [
    "VLM",
    "Encoded",
    "Family",
    "Site",
    "SiteTail",
    "Transformation",
    "Trunk",
    "Verified",
    "open_picture",
    "picture_key",
    "transformed",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module 'vledit.vlm' has no attribute '{name}'")
