"""One case made ready for scoring: what the base answers, and the trunk of every probe, run once and shared by all editors.

Everything below the edited site is frozen, so these are the same for every edit.  The prompt's part of a teacher-forced trunk
is that of the prompt alone (attention is causal), so keys are read from it, over the prompt's tokens only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..codebook import Query
from ..data.case import EditCase, EditRequest, Probe
from ..editors.answering import NOTHING, answer_with, forced_with, kinds, pool
from ..editors.effect import Effect
from ..vlm.acting import Read
from ..vlm.base import VLM, Encoded, Site, Trunk
from ..vlm.columns import UnpackableError
from ..vlm.forest import Forest
from ..vlm.pictures import open_picture, picture_key
from ..vlm.speaking import speak
from .trunk_rows import Acting, TrunkRows

RELIABILITY = "reliability"
MAX_NEW_TOKENS = 16
BATCH = 16
"""Rows of like length that go through the trunk together."""
KEPT_BYTES = 2_000_000_000
"""Most that keys and values of a case's prompts may take until the base has answered: they are large in large models."""
TOP = 10


Forced = tuple[list[int], Tensor, Tensor, Tensor]
"""Rows, logits (n, V), targets (n,), the row of `rows` that each is of (n,)."""


class Score(NamedTuple):
    """One forced answer. `exact`: greedy decoding gives it; `token`: share of its tokens; `top10`: as EasyEdit counts."""

    exact: bool
    token: float
    top10: float = float("nan")


@dataclass
class Asked:
    """One probe with its place in the case.

    Args:
        target: the answer that counts as new.
        base_answer: the base's greedy answer; None where no metric of this family asks for it.
        base_new, base_new_token: whether the base gives the target already, exactly and by tokens (NaN where not run).
        recognised: whether the base gives the answer in the probe's tag "truth"; None where there is none.
        edited: what the data set says that the base answers to the edited question.
    """

    family: str
    cell: str
    index: int
    probe: Probe
    target: str
    base_answer: str | None = None
    base_new: bool = False
    base_new_token: float = float("nan")
    recognised: bool | None = None
    edited: str = ""

    @property
    def is_locality(self) -> bool:
        return self.family == "locality"

    def tags(self) -> dict[str, str]:
        """The probe's tags and what was found out of the base: "recognised", "same_answer" (as the edited question's)."""
        found = dict(self.probe.tags)
        if self.recognised is not None:
            found["recognised"] = "yes" if self.recognised else "no"
        if self.is_locality and self.edited and self.base_answer is not None:
            alike = self.base_answer.strip().casefold() == self.edited.strip().casefold()
            found["same_answer"] = "yes" if alike else "no"
        return found


@dataclass
class PreparedCase:
    """A case with base answers and trunks (prompt + target; prompt + base answer).

    Args:
        layer: decoder layer at which the trunks end.
        tokens: whether every score is run; else only what `exact` needs.
        base_top: row → (n, 10) int64, the base's likeliest tokens at the positions that predict its own answer, as far as it
            was generated. Rows without it (the answer is empty, or spelled otherwise when it is read again) cannot be told
            by teacher forcing and are generated.
        checked: of which keys it has been checked that they are those of the prompts alone (`checks.check_routed_key`).
    """

    vlm: VLM
    case: EditCase
    layer: int
    asked: list[Asked]
    tokens: bool = True
    targets: TrunkRows = field(default_factory=TrunkRows)
    sames: TrunkRows = field(default_factory=TrunkRows)
    base_top: dict[int, Tensor] = field(default_factory=dict)
    checked: set[Query] = field(default_factory=set)
    _pictures: dict[Any, Any] = field(default_factory=dict)
    _forest: Forest | None = None
    _rows: dict[int, int] = field(default_factory=dict)  # row → its place in the forest
    _grown: dict[tuple[int, str], int] = field(default_factory=dict)  # (row, answer) → the answer's number there
    _keys: dict[tuple[str, str, str], Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, vlm: VLM, case: EditCase, layer: int, tokens: bool = True) -> PreparedCase:
        """The case with its probes in order and nothing run."""
        answer = case.request.answer
        edited = case.base_answer
        asked = [Asked(RELIABILITY, "edit", 0, Probe(case.request.image, case.request.question), answer)]
        for family, cell, index, probe in case.probes():
            target = probe.answer if family == "portability" and probe.answer else answer
            asked.append(Asked(family, cell, index, probe, target, edited=edited))
        return cls(vlm, case, layer, asked, tokens)

    def __len__(self) -> int:
        return len(self.asked)

    def picture(self, row: int) -> Any:
        """The row's picture, opened when it is needed first, once for all rows that have it; None where there is none."""
        image = self.asked[row].probe.image
        if image is None:
            return None
        key = _identity(image)
        if key not in self._pictures:
            self._pictures[key] = open_picture(image)
        return self._pictures[key]

    @cached_property
    def request(self) -> EditRequest:
        """The request with its picture opened."""
        request = self.case.request
        return EditRequest(self.picture(0), request.question, request.answer, request.rephrases, request.id)

    # --- trunks -------------------------------------------------------------------------------------------------

    def chunks(self, rows: Sequence[int], answers: Mapping[int, str] | None = None) -> list[list[int]]:
        """The rows in batches of at most `BATCH`, those of like length together, so that little is padding."""

        def length(row: int) -> int:
            probe = self.asked[row].probe
            prompt = len(self.vlm.prompt(probe.question, probe.image is not None).ids)
            return prompt + (len((answers or {}).get(row, "")) // 4)

        order = sorted(rows, key=lambda row: (self.asked[row].probe.image is None, length(row), row))
        return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]

    def grow(self, answers: Mapping[int, Sequence[str]]) -> None:
        """Puts these rows' prompts, each with several answers, through the trunk with what they share run once.

        What `run_trunks` and `speak` are asked for afterwards is then there already.  Nothing happens for models whose
        prompts cannot share a row: theirs are run one by one.
        """
        rows = list(answers)
        pictures, questions = [self.picture(row) for row in rows], [self.asked[row].probe.question for row in rows]
        try:
            self._forest = Forest.grow(
                self.vlm, self.layer, pictures, questions, list(answers.values()), keep_bytes=KEPT_BYTES
            )
        except UnpackableError:
            self.drop_forest()
            return
        self._rows = {row: place for place, row in enumerate(rows)}
        self._grown = {(row, text): k for row, texts in answers.items() for k, text in enumerate(texts)}

    def drop_forest(self) -> None:
        """Forgets what was grown: it is as large as all prompts together."""
        self._forest, self._rows, self._grown = None, {}, {}

    def run_trunks(self, kind: TrunkRows, answers: Mapping[int, str]) -> None:
        """Puts prompt + answer of these rows through the trunk, or takes them from what was grown."""
        forest = self._forest
        grown = [row for row, text in answers.items() if forest is not None and (row, text) in self._grown]
        for some in self.chunks(grown, answers):
            assert forest is not None
            kind.add(forest.trunk([(self._rows[row], self._grown[row, answers[row]]) for row in some]), some)
        rest = [row for row, text in answers.items() if (row, text) not in self._grown]
        for some in self.chunks(rest, answers):
            questions = [self.asked[row].probe.question for row in some]
            pictures = [self.picture(row) for row in some]
            encoded = self.vlm.encode(pictures, questions, [answers[row] for row in some])
            trunk = self.vlm.trunk(encoded, self.layer)
            kind.add(replace(trunk, encoded=_without_pictures(encoded)), some)

    def speak(self, rows: Sequence[int]) -> dict[int, str]:
        """The base's greedy answers, from what was grown where that is possible."""
        forest = self._forest
        if forest is None:
            return self._generate(rows)
        known = [row for row in rows if forest.remembers(self._rows[row])]
        try:
            said = speak(forest, [self._rows[row] for row in known], MAX_NEW_TOKENS)
        except UnpackableError:  # this model's layers are called otherwise when a token comes alone
            return self._generate(rows)
        texts = self._generate([row for row in rows if row not in known])
        for row in known:
            one = said[self._rows[row]]
            texts[row] = one.text
            if forest.reads_as(self._rows[row], one.answer, one.text):
                self._grown[row, one.text] = one.answer
        return texts

    def _generate(self, rows: Sequence[int]) -> dict[int, str]:
        texts: dict[int, str] = {}
        for some in self.chunks(rows):
            pictures, questions = [self.picture(row) for row in some], [self.asked[row].probe.question for row in some]
            texts |= dict(zip(some, self.vlm.answer(pictures, questions, MAX_NEW_TOKENS), strict=True))
        return texts

    def need_targets(self, rows: Iterable[int]) -> None:
        """Makes sure that prompt + target has been run for these rows."""
        missing = {row: self.asked[row].target for row in rows if row not in self.targets}
        if missing:
            self.run_trunks(self.targets, missing)

    def lower(self, layer: int) -> None:
        """Ends the trunks at a lower layer: an edit's site lies below where they ended."""
        if layer >= self.layer:
            return
        targets = {row: self.asked[row].target for row in self.targets.rows()}
        sames = {row: self.asked[row].base_answer or "" for row in self.sames.rows()}
        self.layer, self.targets, self.sames, self._keys, self.checked = layer, TrunkRows(), TrunkRows(), {}, set()
        wanted = {
            row: list(dict.fromkeys(kind[row] for kind in (targets, sames) if row in kind))
            for row in sorted({*targets, *sames})
        }
        self.grow(wanted)
        self.run_trunks(self.targets, targets)
        self.run_trunks(self.sames, sames)
        self.drop_forest()

    # --- scores -------------------------------------------------------------------------------------------------

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
        for some in self.chunks(list(anew), answers):
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

    # --- keys ---------------------------------------------------------------------------------------------------

    def keys(self, query: Query) -> Tensor:
        """(B, in) float32: the key of every row that a router asks for, over its prompt's tokens; read once."""
        # at inference there is no answer: a key made of prompt and answer is compared with the prompt's mean
        tokens = "mean" if query.key_tokens == "prompt+answer" else query.key_tokens
        kept = (query.site, query.prompt, tokens)
        if kept not in self._keys:
            site = self.vlm.resolve_site(query.site)
            read = self._read_full if query.prompt == "full" else self._read_questions
            self._keys[kept] = read(site, tokens)
        return self._keys[kept]

    def read(self, read: Read) -> Tensor:
        """(B, ...): what a memory reads of every row's prompt, from the trunks that are there."""
        site = self.vlm.resolve_site(read.site)
        self.lower(site.layer)
        found: dict[int, Tensor] = {}
        for trunk, some, local in self._prompts():
            part = trunk if len(local) == len(trunk) else trunk.select(local)
            x = self.vlm.site_output(part, site) if read.output else self.vlm.site_input(part, site)
            pooled = read.pool(x, part.encoded)
            places = local if len(local) == len(trunk) else range(len(local))
            found |= {row: pooled[i] for row, i in zip(some, places, strict=True)}
        return torch.stack([found[row] for row in range(len(self))])

    def _prompts(self) -> Iterator[tuple[Trunk, list[int], list[int]]]:
        """(trunk, rows, the row of the trunk that each is) that together hold every row's prompt once."""
        rest = [row for row in range(len(self)) if row not in self.targets]
        for kind, rows in ((self.targets, self.targets.rows()), (self.sames, rest)):
            yield from kind.batches(rows)

    def _read_full(self, site: Site, tokens: str) -> Tensor:
        self.lower(site.layer)
        found: dict[int, Tensor] = {}
        from_targets = [row for row in range(len(self)) if row in self.targets]
        rest = [row for row in range(len(self)) if row not in self.targets]
        for kind, rows in ((self.targets, from_targets), (self.sames, rest)):
            for trunk, some, local in kind.batches(rows):
                part = trunk if len(local) == len(trunk) else trunk.select(local)
                places = local if len(local) == len(trunk) else range(len(local))
                keys = self._pooled(part, site, tokens)
                found |= {row: keys[place] for row, place in zip(some, places, strict=True)}
        return torch.stack([found[row] for row in range(len(self))])

    def _read_questions(self, site: Site, tokens: str) -> Tensor:
        """Keys of the questions without their pictures; each wording is run once."""
        questions = list(dict.fromkeys(one.probe.question for one in self.asked))
        found: dict[str, Tensor] = {}
        for start in range(0, len(questions), BATCH):
            some = questions[start : start + BATCH]
            trunk = self.vlm.trunk(self.vlm.encode([None] * len(some), some), site.layer)
            found |= dict(zip(some, self._pooled(trunk, site, tokens), strict=True))
        return torch.stack([found[one.probe.question] for one in self.asked])

    def _pooled(self, trunk: Trunk, site: Site, tokens: str) -> Tensor:
        return pool(self.vlm.site_input(trunk, site), trunk.encoded, tokens)

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


def _without_pictures(encoded: Encoded) -> Encoded:
    """What the part above the trunk reads; the pixels are below it."""
    inputs = {name: value for name, value in encoded.model_inputs.items() if name not in encoded.picture_sizes}
    return replace(encoded, model_inputs=inputs, picture_sizes={}, pictures={})


def _identity(image: object) -> Any:
    """Equal for pictures that are the same; for those that cannot tell (opened ones), for the same object."""
    try:
        hash(image)
    except TypeError:
        return id(image)
    return image


def _key(image: object) -> str | None:
    return None if image is None else picture_key(image)


def _split(rows: Sequence[int], effects: Sequence[Effect | None]) -> tuple[dict[int, Effect | None], dict[int, Effect]]:
    """Rows whose prompt is the base's very prompt, and rows that are run anew."""
    of_row = dict(zip(rows, effects, strict=True))
    anew = {row: effect for row, effect in of_row.items() if effect is not None and not effect.keeps_prompt}
    return {row: effect for row, effect in of_row.items() if row not in anew}, anew


def _changes(effect: Effect | None) -> Acting | None:
    return None if effect is None else effect.changes
