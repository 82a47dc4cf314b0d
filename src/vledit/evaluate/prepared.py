"""One case made ready for scoring: base answers first, then the trunk of every probe, run once and shared by all editors.

Everything below the edited site is frozen, so these are the same for every edit.  The prompt's part of a teacher-forced trunk
is that of the prompt alone (attention is causal), so keys are read from it, over the prompt's tokens only.

What is run per probe is what its metrics need.  Generality: prompt + new answer.  Locality: prompt + the base's own answer,
which is verified where the data set holds a right one and generated where it is not that; a greedy answer is one string, so
an edited model that gives the base's answer does not give another, and only where it does not is the new answer tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..data.case import EditCase, EditRequest, Probe
from ..editors.balancedit import pool
from ..vlm.base import VLM, Site, Trunk
from ..vlm.pictures import open_picture
from ..vlm.tail import SiteTail

RELIABILITY = "reliability"
MAX_NEW_TOKENS = 16


@dataclass
class Asked:
    """One probe with its place in the case.

    Args:
        target: the answer that counts as new.
        base_answer: the base's greedy answer; None where no metric of this family asks for it.
        base_new, base_new_token: whether the base gives the target already, exactly and by tokens (NaN where not run).
    """

    family: str
    cell: str
    index: int
    probe: Probe
    target: str
    base_answer: str | None = None
    base_new: bool = False
    base_new_token: float = float("nan")

    @property
    def is_locality(self) -> bool:
        return self.family == "locality"


class TrunkRows:
    """Trunks of some of a case's rows, possibly in several batches, each with its tail above the site."""

    def __init__(self) -> None:
        self._at: dict[int, tuple[Trunk, int]] = {}
        self._tails: dict[int, SiteTail] = {}

    def add(self, trunk: Trunk, rows: Sequence[int]) -> None:
        """`rows`: the case's row of each row of `trunk`."""
        for i, row in enumerate(rows):
            self._at[row] = (trunk, i)

    def discard(self, row: int) -> None:
        """Forgets a row."""
        self._at.pop(row, None)

    def __contains__(self, row: int) -> bool:
        return row in self._at

    def batches(self, rows: Sequence[int]) -> Iterator[tuple[Trunk, list[int], list[int]]]:
        """Yields (trunk, rows, the row of the trunk that each is), batch by batch."""
        groups: dict[int, list[int]] = {}
        for row in rows:
            groups.setdefault(id(self._at[row][0]), []).append(row)
        for some in groups.values():
            yield self._at[some[0]][0], some, [self._at[row][1] for row in some]

    def tail(self, vlm: VLM, trunk: Trunk, site: Site) -> SiteTail:
        """The part of the model above the site for this trunk, made once."""
        if id(trunk) not in self._tails:
            self._tails[id(trunk)] = vlm.site_tail(trunk, site)
        return self._tails[id(trunk)]


@dataclass
class PreparedCase:
    """A case with base answers, trunks (prompt + target; prompt + base answer) and keys (key tokens → (B, in))."""

    vlm: VLM
    case: EditCase
    site: Site
    asked: list[Asked]
    pictures: list[Any]
    targets: TrunkRows = field(default_factory=TrunkRows)
    sames: TrunkRows = field(default_factory=TrunkRows)
    keys: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def request(self) -> EditRequest:
        """The request with its picture opened."""
        request = self.case.request
        return EditRequest(self.pictures[0], request.question, request.answer, request.rephrases, request.id)

    def trunk(self, rows: Sequence[int], answers: Sequence[str]) -> Trunk:
        """Trunk of prompt + answer of these rows."""
        questions = [self.asked[row].probe.question for row in rows]
        encoded = self.vlm.encode([self.pictures[row] for row in rows], questions, answers)
        return self.vlm.trunk(encoded, self.site.layer)

    def need_targets(self, rows: Sequence[int]) -> None:
        """Makes sure that prompt + target has been run for these rows."""
        missing = [row for row in rows if row not in self.targets]
        if missing:
            self.targets.add(self.trunk(missing, [self.asked[row].target for row in missing]), missing)

    def scored(self, kind: TrunkRows, rows: Sequence[int], changes: Sequence[Any]) -> dict[int, tuple[bool, float]]:
        """Row → (exact, token) of the forced answer, with each row's change acting: what `VLM.verify` says, from the tail."""
        of_row = dict(zip(rows, changes, strict=True))
        found: dict[int, tuple[bool, float]] = {}
        for trunk, some, local in kind.batches(rows):
            tail = kind.tail(self.vlm, trunk, self.site)
            with torch.inference_mode():
                logits = tail.logits(_deltas(tail, {i: of_row[row] for row, i in zip(some, local, strict=True)}))
                right = logits.float().argmax(-1) == tail.targets
            for row, i in zip(some, local, strict=True):
                share = float(right[tail.target_rows == i].float().mean())
                found[row] = (share == 1.0, share)
        return found


def _deltas(tail: SiteTail, changes: dict[int, Any]) -> Tensor | None:
    """What each row's change adds to the site's output at the tail's positions, (N, out); None where nothing acts."""
    groups: dict[int, tuple[Any, list[int]]] = {}
    for row, change in changes.items():
        if change is not None:
            groups.setdefault(id(change), (change, []))[1].append(row)
    if not groups:
        return None
    deltas = torch.zeros(len(tail.rows), tail.vlm.site_module(tail.site).out_features, device=tail.inputs.device)
    for change, rows in groups.values():
        where = torch.isin(tail.rows, torch.tensor(rows, device=tail.rows.device))
        deltas[where] = change.delta(tail.inputs[where]).to(deltas)
    return deltas


def prepare(vlm: VLM, case: EditCase, site: Site, key_tokens: tuple[str, ...] = ("mean",)) -> PreparedCase:
    """Base answers, trunks and keys of a case.  The model is the base: nothing acts on it."""
    answer = case.request.answer
    asked = [Asked(RELIABILITY, "edit", 0, Probe(case.request.image, case.request.question), answer)]
    for family, cell, index, probe in case.probes():
        target = probe.answer if family == "portability" and probe.answer else answer
        asked.append(Asked(family, cell, index, probe, target))
    pictures = [None if one.probe.image is None else open_picture(one.probe.image) for one in asked]
    prepared = PreparedCase(vlm, case, site, asked, pictures)
    ask_base(prepared, [i for i, one in enumerate(asked) if one.is_locality])
    wanted = [i for i, one in enumerate(asked) if not one.is_locality]
    prepared.need_targets(wanted)
    for row, (exact, token) in prepared.scored(prepared.targets, wanted, [None] * len(wanted)).items():
        asked[row].base_new, asked[row].base_new_token = exact, token
    read_keys(prepared, key_tokens)
    return prepared


def ask_base(prepared: PreparedCase, rows: list[int]) -> None:
    """The base's greedy answer to each row and the trunk of prompt + that answer."""
    known = [row for row in rows if prepared.asked[row].probe.answer]
    if known:
        answers = [prepared.asked[row].probe.answer or "" for row in known]
        trunk = prepared.trunk(known, answers)
        prepared.sames.add(trunk, known)
        scored = prepared.scored(prepared.sames, known, [None] * len(known))
        for row, answer in zip(known, answers, strict=True):
            if scored[row][0]:
                prepared.asked[row].base_answer = answer
            else:
                prepared.sames.discard(row)
    left = [row for row in rows if prepared.asked[row].base_answer is None]
    if left:
        questions = [prepared.asked[row].probe.question for row in left]
        texts = prepared.vlm.answer([prepared.pictures[row] for row in left], questions, MAX_NEW_TOKENS)
        for row, text in zip(left, texts, strict=True):
            prepared.asked[row].base_answer = text
        # an empty answer cannot be forced: such a row is `same` only where nothing fires
        spoken = [row for row in left if prepared.asked[row].base_answer]
        if spoken:
            prepared.sames.add(
                prepared.trunk(spoken, [prepared.asked[row].base_answer or "" for row in spoken]), spoken
            )
        prepared.need_targets([row for row in left if row not in spoken])
    for row in rows:
        prepared.asked[row].base_new = prepared.asked[row].base_answer == prepared.asked[row].target


def read_keys(prepared: PreparedCase, key_tokens: Sequence[str]) -> None:
    """The key of every row, over its prompt's tokens."""
    vlm, count = prepared.vlm, len(prepared.asked)
    from_sames = [row for row in range(count) if row in prepared.sames]
    from_targets = [row for row in range(count) if row not in prepared.sames]
    found: dict[str, list[Tensor | None]] = {tokens: [None] * count for tokens in key_tokens}
    for kind, rows in ((prepared.sames, from_sames), (prepared.targets, from_targets)):
        for trunk, some, local in kind.batches(rows):
            inputs = vlm.site_input(trunk, prepared.site)
            for tokens in key_tokens:
                keys = pool(inputs, trunk.encoded, tokens)
                for row, i in zip(some, local, strict=True):
                    found[tokens][row] = keys[i]
    prepared.keys = {tokens: torch.stack([k for k in keys if k is not None]) for tokens, keys in found.items()}
