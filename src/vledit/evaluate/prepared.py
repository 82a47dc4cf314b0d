"""One case made ready for scoring: what the base answers, and the score of every probe under an edit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from ..editors.answering import NOTHING, answer_with, forced_with, kinds
from ..editors.effect import Effect
from ..vlm.pictures import picture_key
from .anew import Anew
from .case_trunks import MAX_NEW_TOKENS, CaseTrunks
from .trunk_rows import Acting

TOP = 10

Forced = tuple[list[int], Tensor, Tensor, Tensor]
"""Rows, logits (n, V), targets (n,), the row of `rows` that each is of (n,)."""


class Score(NamedTuple):
    """One forced answer. `exact`: greedy decoding gives it; `token`: share of its tokens; `top10`: as EasyEdit counts."""

    exact: bool
    token: float
    top10: float = float("nan")


@dataclass
class PreparedCase(CaseTrunks):
    """A case with base answers and trunks, which says what an edit changes.

    Args:
        base_top: row → (n, 10) int64, the base's likeliest tokens at the positions that predict its own answer, as far as it
            was generated. Rows without it (the answer is empty, or spelled otherwise when it is read again) cannot be told
            by teacher forcing and are generated.
    """

    base_top: dict[int, Tensor] = field(default_factory=dict)
    _anew: Anew | None = None

    @contextmanager
    def expecting(self, rows: Sequence[int], effects: Sequence[Effect | None]) -> Iterator[None]:
        """Within the block these rows are scored with these effects: what their changed prompts share is run once."""
        _, anew = _split(rows, effects)
        answers: dict[int, list[str]] = {}
        for row in anew:
            one = self.asked[row]
            said = [one.base_answer] if one.is_locality and row in self.base_top else []
            asked = [one.target] if self.tokens or not one.is_locality else []
            answers[row] = [text for text in (*said, *asked) if text]
        if anew:
            self._anew = Anew(self.vlm, anew, answers, lambda row: (self.picture(row), self.asked[row].probe.question))
        try:
            yield
        finally:
            self._anew = None

    def score_targets(self, rows: Sequence[int], effects: Sequence[Effect | None]) -> dict[int, Score]:
        """Row → whether the target is what greedy decoding gives, end included: what `VLM.verify` says, from the tail."""
        kept, anew = _split(rows, effects)
        self.need_targets(kept)
        found: dict[int, Score] = {}
        told = self.targets.logits(self.vlm, list(kept), [_changes(effect) for effect in kept.values()])
        for some, logits, targets, places in (
            *told,
            *self._forced(anew, {row: self.asked[row].target for row in anew}),
        ):
            right = (logits.float().argmax(-1) == targets).cpu()
            for place, row in enumerate(some):
                share = float(right[places == place].float().mean())
                found[row] = Score(share == 1.0, share)
        return found

    def score_sames(self, rows: Sequence[int], effects: Sequence[Effect | None]) -> dict[int, Score]:
        """Row → whether the greedy answer is the base's: the likeliest token is that of the base at every position.

        An answer that was cut off counts as the same where it is so up to there.  Rows that teacher forcing cannot tell are
        generated; they have no scores by token.
        """
        kept, anew = _split(rows, effects)
        known = [row for row in kept if row in self.base_top]
        found = {row: self._generated(row, effect) for row, effect in kept.items() if row not in self.base_top}
        told = self.sames.logits(self.vlm, known, [_changes(kept[row]) for row in known])
        again = {row: self.asked[row].base_answer or "" for row in anew if row in self.base_top}
        found |= {row: self._generated(row, effect) for row, effect in anew.items() if row not in again}
        retold = self._forced({row: anew[row] for row in again}, again)
        for some, logits, _, places in (*told, *retold):
            top = logits.float().topk(TOP, -1).indices.cpu()
            for place, row in enumerate(some):
                base = self.base_top[row]
                mine = top[places == place][: len(base)]
                equal = mine[:, 0] == base[:, 0]
                found[row] = Score(bool(equal.all()), float(equal.float().mean()), float((mine == base).float().mean()))
        return found

    def read_base_top(self) -> None:
        """Notes what the base itself predicts along its own answers; rows whose answer cannot be forced are dropped."""
        rows = self.sames.rows()
        for some, logits, targets, places in self.sames.logits(self.vlm, rows, [None] * len(rows)):
            top = logits.float().topk(TOP, -1).indices.cpu()
            for place, row in enumerate(some):
                base, forced = top[places == place], targets.cpu()[places == place]
                wrong = (base[:, 0] != forced).nonzero().flatten()
                reached = len(base) if not len(wrong) else int(wrong[0])
                if reached == len(base) or reached >= MAX_NEW_TOKENS:  # else it is spelled otherwise than it was said
                    self.base_top[row] = base[:reached].clone()
                else:
                    self.sames.discard(row)

    def _forced(self, anew: Mapping[int, Effect], answers: Mapping[int, str]) -> Iterator[Forced]:
        """As `TrunkRows.logits`, for rows of which nothing that was computed holds: the model reads another prompt."""
        known = [row for row in anew if self._anew is not None and self._anew.holds(row, answers[row])]
        for some in self.chunks(known, answers):
            assert self._anew is not None
            for rows, logits, encoded in self._anew.forced(some, answers):
                yield rows, logits, encoded.targets, encoded.target_rows.cpu()
        for some in self.chunks([row for row in anew if row not in known], answers):
            for kind in kinds([anew[row] for row in some]):
                rows = [some[place] for place in kind]
                pictures, questions = (
                    [self.picture(row) for row in rows],
                    [self.asked[row].probe.question for row in rows],
                )
                effects, texts = [anew[row] for row in rows], [answers[row] for row in rows]
                logits, encoded = forced_with(self.vlm, effects, pictures, questions, texts)
                yield rows, logits, encoded.targets, encoded.target_rows.cpu()

    def _generated(self, row: int, effect: Effect | None) -> Score:
        return Score(self.answer([row], [effect])[0] == self.asked[row].base_answer, float("nan"))

    def answer(self, rows: Sequence[int], effects: Sequence[Effect | None]) -> list[str]:
        """The free text of these rows with what happens to each, generated one by one."""
        texts = []
        for row, effect in zip(rows, effects, strict=True):
            picture, question = self.picture(row), self.asked[row].probe.question
            texts += answer_with(self.vlm, effect or NOTHING, [picture], [question], MAX_NEW_TOKENS)
        return texts

    # --- the base line of the results file ----------------------------------------------------------------------

    def base_record(self, seconds: float) -> dict[str, Any]:
        """What the base answers, as docs/results_format.md has it."""
        request = self.case.request
        return {
            "base": self.case.id,
            "request": {
                "question": request.question,
                "answer": request.answer,
                "image": _key(request.image),
                "base_answer": self.case.base_answer,
                "tags": dict(self.case.tags),
            },
            "probes": [
                {
                    "family": one.family,
                    "cell": one.cell,
                    "index": one.index,
                    "id": one.probe.id,
                    "question": one.probe.question,
                    "image": _key(one.probe.image),
                    "target": one.target,
                    "answer": one.probe.answer,
                    "base_answer": one.base_answer or "",
                    "base_new": one.base_new,
                    "base_new_token": one.base_new_token,
                    "tags": one.tags(),
                }
                for one in self.asked
            ],
            "seconds": round(seconds, 4),
        }


def _key(image: object) -> str | None:
    return None if image is None else picture_key(image)


def _split(rows: Sequence[int], effects: Sequence[Effect | None]) -> tuple[dict[int, Effect | None], dict[int, Effect]]:
    """Rows whose prompt is the base's very prompt, and rows that are run anew."""
    of_row = dict(zip(rows, effects, strict=True))
    anew = {row: effect for row, effect in of_row.items() if effect is not None and not effect.keeps_prompt}
    return {row: effect for row, effect in of_row.items() if row not in anew}, anew


def _changes(effect: Effect | None) -> Acting | None:
    return None if effect is None else effect.changes
