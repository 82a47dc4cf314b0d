"""What happens to one request: changes at points of the model, something put into its prompt, or another model that answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..codebook import Decision
from ..vlm.acting import is_vision

if TYPE_CHECKING:
    from torch import Tensor

    from ..vlm.base import VLM


@dataclass(frozen=True, eq=False)
class Insert:
    """What is put into a prompt, around the question as the user typed it.

    Args:
        before, after: text before and after the question, with its own blanks and line breaks.
        soft: (n, E) embeddings that stand before the question (and before `before`), or None.
    """

    before: str = ""
    after: str = ""
    soft: Tensor | None = None

    def question(self, asked: str) -> str:
        """The question as the model reads it."""
        return self.before + asked + self.after


def decided(entry: str | None, explanation: str, nearest: str | None = None, **more: Any) -> Decision:
    """A decision of a memory that is no codebook.

    Args:
        entry: id of the edit that acts (of several the strongest), or None.
        more: `distance`, `radius`, `site`, `readings` of `Decision`, where the memory has such.
    """
    found = {"distance": None, "radius": None, **more}
    return Decision(entry, nearest or entry, fired=entry is not None, explanation=explanation, **found)


@dataclass(frozen=True, eq=False)
class Effect:
    """What happens to one request, and why.

    Args:
        decision: which edit acts (of several the strongest), the nearest one, distances: the explanation.
        changes: point → `Change` or `Transformation`; see `vlm.acting`.
        insert: what is put into the prompt.
        responder: the model that answers in the base's place.  It is asked as the base would be, with `changes` and `insert`
            acting on it.
    """

    decision: Decision
    changes: Mapping[str, Any] = field(default_factory=dict)
    insert: Insert | None = None
    responder: VLM | None = None

    @property
    def keeps_prompt(self) -> bool:
        """Whether the model sees the base's very prompt: what has been computed of it below the changes holds."""
        return self.insert is None and self.responder is None and not any(map(is_vision, self.changes))
