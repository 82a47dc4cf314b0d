"""A question on its way through the server, and its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..codebook import Decision
    from ..vlm.conversation import Turn


@dataclass(frozen=True)
class Reply:
    """What the model said.

    Args:
        text: the greedy answer.
        finish: "stop", or "length" where it was cut.
        prompt_tokens, answer_tokens: how many.
        decision: which edit fired or was nearest; None where the base was asked.
        revision: of the edits that answered.
    """

    text: str
    finish: str
    prompt_tokens: int
    answer_tokens: int
    decision: Decision | None
    revision: int


@dataclass
class Ask:
    """A conversation that waits for its answer.

    Args:
        turns: the conversation; the last turn is the question.
        most: tokens of the answer at most.
        edited: False asks the base model.
        whole_scope: whether edits are looked up by the whole conversation instead of the last turn.
        on_text: called with the answer's text as far as it is settled, from the model's thread.
        reply: is set when the answer is there.
    """

    turns: Sequence[Turn]
    most: int
    edited: bool = True
    whole_scope: bool = False
    on_text: Callable[[str], object] | None = None
    reply: Future[Reply] = field(default_factory=Future)

    @property
    def kind(self) -> tuple[bool, bool, bool]:
        """Asks of one kind can be answered together."""
        return self.edited, self.conversation, self.whole_scope and self.conversation

    @property
    def conversation(self) -> bool:
        """Whether there is more than one question in it."""
        return len(self.turns) > 1 or bool(self.turns[0].preface)
