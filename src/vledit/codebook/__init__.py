"""The codebook: edits kept as (key, transformation, influence radius) beside a model that never changes.

Source: BalancEdit (ICML 2025), Sec. 3.2.  The names below load on first use; none of them loads torch by itself, so a
codebook can be listed, searched and exported without a model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .book import Codebook as Codebook
    from .entry import Entry as Entry
    from .entry import FullTransformation as FullTransformation
    from .entry import LazyTransformation as LazyTransformation
    from .entry import NeuronTransformation as NeuronTransformation
    from .entry import SpanTransformation as SpanTransformation
    from .entry import Transformation as Transformation
    from .joining import differences as differences
    from .joining import join as join
    from .joining import merge as merge
    from .relation import Relation as Relation
    from .router import Decision as Decision
    from .router import Query as Query
    from .router import Router as Router
    from .scope import Anchors as Anchors
    from .scope import Scope as Scope

_LAZY = {
    "Codebook": ".book",
    "Entry": ".entry",
    "FullTransformation": ".entry",
    "LazyTransformation": ".entry",
    "NeuronTransformation": ".entry",
    "SpanTransformation": ".entry",
    "Transformation": ".entry",
    "differences": ".joining",
    "join": ".joining",
    "merge": ".joining",
    "Relation": ".relation",
    "Decision": ".router",
    "Query": ".router",
    "Router": ".router",
    "Anchors": ".scope",
    "Scope": ".scope",
}
__all__ = [
    "Anchors",
    "Codebook",
    "Decision",
    "Entry",
    "FullTransformation",
    "LazyTransformation",
    "NeuronTransformation",
    "Query",
    "Relation",
    "Router",
    "Scope",
    "SpanTransformation",
    "Transformation",
    "differences",
    "join",
    "merge",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module 'vledit.codebook' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
