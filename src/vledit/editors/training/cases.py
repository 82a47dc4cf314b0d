"""Training cases: an edit, what must change with it and what must not, with the frozen part of the model run once.

What a row of a case is forced to say: in scope the new answer, out of scope the base's own greedy answer.  Everything below
the lowest edited layer is run once per case and kept: in memory up to a budget, and on disk where a `TrunkCache` is given.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...data.case import EditCase, EditRequest, Probe
from ...errors import InputError
from ...vlm.base import VLM, Trunk

if TYPE_CHECKING:
    from ...evaluate.case_trunks import Asked
    from ...evaluate.prepared import PreparedCase
    from ...evaluate.trunk_cache import TrunkCache
    from ...evaluate.trunk_rows import TrunkRows

CHECK_EVERY = 50
"""After so many new cases it is checked again that the model is still the base."""


def held_out(probe: Probe) -> bool:
    """Whether a probe shows what the scoring keeps back: a wording of the test split, a hand that no training has seen."""
    return probe.tags.get("wording") == "test" or probe.tags.get("seen") == "no"


def training_case(case: EditCase, per_cell: int, seed: int = 0, cells: Sequence[str] | None = None) -> EditCase:
    """The case as a fitting sees it: at most `per_cell` probes of each cell, drawn by seed and id, nothing that is held out.

    The request's own rephrases come first among the wordings: they are given to the editor in any case.

    Args:
        cells: only these, e.g. ("generality/text", "locality/random_image"); default: all of generality and locality.
    """
    request = case.request
    wordings = tuple(Probe(request.image, text) for text in request.rephrases)
    generality = {**case.generality, "text": (*wordings, *case.generality.get("text", ()))}
    chosen: dict[str, dict[str, tuple[Probe, ...]]] = {"generality": {}, "locality": {}}
    for family, found in (("generality", generality), ("locality", case.locality)):
        for cell, probes in sorted(found.items()):
            if cells is not None and f"{family}/{cell}" not in cells:
                continue
            fit = [probe for probe in probes if not held_out(probe)]
            draw = random.Random(f"{seed}/{case.id}/{family}/{cell}")
            places = sorted(draw.sample(range(len(fit)), min(per_cell, len(fit))))
            if places:
                chosen[family][cell] = tuple(fit[place] for place in places)
    return replace(case, generality=chosen["generality"], locality=chosen["locality"], portability={})


@dataclass
class Rows:
    """Some rows of a case that lie in one batch, ready for the layers above the trunk.

    Attributes:
        numbers: the rows, in the order of the batch.
        trunk: the rows' trunk; its `encoded` says where the forced answers are.
        targets: (n,) the forced answers' tokens, ends included, row after row.
        base: (n, H) what the base gives to its vocabulary projection at the positions that predict them.
    """

    numbers: list[int]
    trunk: Trunk
    targets: Tensor
    base: Tensor
    vlm: VLM = field(repr=False)

    @property
    def owners(self) -> Tensor:
        """(n,) the row that each of `targets` belongs to."""
        return torch.tensor(self.numbers, device=self.targets.device)[self.trunk.encoded.target_rows]

    @property
    def positions(self) -> Tensor:
        """(B, T) bool: the positions that predict the forced answers."""
        return self.trunk.encoded.predict_mask

    def base_log_probs(self) -> Tensor:
        """(n, V) float32: the base's log-probabilities there."""
        return base_log_probs(self.vlm, self.base)


def base_log_probs(vlm: VLM, base: Tensor) -> Tensor:
    """(n, H) of some `Rows.base` → (n, V) float32 log-probabilities."""
    with torch.no_grad():
        return vlm.after_projection(vlm.anatomy.lm_head(base)).float().log_softmax(-1)


class TrainingCase:
    """One case with its frozen parts; see `TrainingCases`."""

    def __init__(self, prepared: PreparedCase):
        self._prepared = prepared
        self.vlm = prepared.vlm
        self.case = prepared.case
        self._base: dict[int, Tensor] = {}
        prepared._pictures.clear()

    @property
    def request(self) -> EditRequest:
        """The edit; its picture is opened when this is asked for."""
        return self._prepared.request

    @property
    def asked(self) -> list[Asked]:
        """All rows: number 0 is the edit itself; the others have family, cell, probe, and the base's answer out of scope."""
        return self._prepared.asked

    def rows(self, *cells: str) -> list[int]:
        """Numbers of the rows of some cells ("edit", "generality/text", "locality/near_image") or families ("locality")."""
        names = set(cells)
        return [
            number
            for number, one in enumerate(self.asked)
            if names & {one.family, one.cell if one.family == "reliability" else f"{one.family}/{one.cell}"}
        ]

    def draw(self, rng: random.Random, *cells: str) -> int | None:
        """One row of these cells, or None where there is none."""
        found = self.rows(*cells)
        return rng.choice(found) if found else None

    def frozen(self, rows: Sequence[int], forced: str = "own") -> list[Rows]:
        """The rows, batch by batch.

        Args:
            forced: "own": the new answer in scope, the base's answer out of scope (the new answer where the base's cannot be
                forced: it is empty, or its text is other tokens than it was said in); "new": the new answer for all.

        Raises: InputError for another word, or out-of-scope rows with the new answer where `forced_new` was not given.
        """
        if forced not in ("own", "new"):
            raise InputError(f"forced: '{forced}' given; 'own' or 'new' is expected.")
        prepared = self._prepared
        same = [row for row in rows if forced == "own" and row in prepared.sames]
        target = [row for row in rows if row not in same]
        if missing := [row for row in target if row not in prepared.targets]:
            # run now, its last bits would depend on what else is asked for now, and a resumed run would differ
            cell = f"{self.asked[missing[0]].family}/{self.asked[missing[0]].cell}"
            raise InputError(f"forced: {cell} was not run with the new answer; make the cases with forced_new=True.")
        return [*self._batches(prepared.targets, target), *self._batches(prepared.sames, same)]

    def _batches(self, kind: TrunkRows, rows: Sequence[int]) -> list[Rows]:
        found = []
        for trunk, numbers, local in kind.batches(rows):
            part = trunk.select(local)
            encoded = trunk.encoded
            wanted = torch.cat([(encoded.target_rows == place).nonzero()[:, 0] for place in local])
            found.append(Rows(numbers, part, encoded.targets[wanted], self._base_of(trunk)[wanted], self.vlm))
        return found

    def _base_of(self, trunk: Trunk) -> Tensor:
        """(n, H) for a whole batch of the case, run once."""
        if id(trunk) not in self._base:
            vlm = self.vlm
            with vlm.lock, torch.inference_mode(False), torch.no_grad():
                hidden = vlm.run_layers(trunk, trunk.hidden, trunk.layer)
                self._base[id(trunk)] = vlm.anatomy.finish(hidden[trunk.encoded.predict_mask])
        return self._base[id(trunk)]

    @property
    def nbytes(self) -> int:
        """What the frozen parts take."""
        seen: dict[int, int] = {}
        for kind in (self._prepared.targets, self._prepared.sames):
            for trunk, _, _ in kind.batches(kind.rows()):
                for tensor in _tensors([trunk.hidden, [[call.inputs, call.added] for call in trunk.calls]]):
                    seen[id(tensor)] = tensor.nbytes
        return sum(seen.values())


class TrainingCases:
    """The cases of a fitting, by number; made ready when they are asked for first.

    Args:
        cases: of a benchmark's training split.
        layer: lowest decoder layer that the editor changes; everything below is frozen and run once.
        cells: which cells the editor wants (see `training_case`); fewer are sooner run.
        forced_new: whether out-of-scope rows are run with the new answer too, as adversarial losses want them.
        cache: where trunks are kept between runs.
        memory_gb: most that the frozen parts take in memory, 10⁹ bytes; the ones used longest ago are dropped, and come from
            the cache (or are run) again when they are needed.
        on_new: called with how many cases have been made ready, whenever one more is.

    Attributes:
        made: how many cases were run or read from disk.

    Raises: InputError where there are no cases.
    """

    def __init__(
        self,
        vlm: VLM,
        cases: Sequence[EditCase],
        layer: int,
        per_cell: int = 2,
        seed: int = 0,
        cells: Sequence[str] | None = None,
        forced_new: bool = False,
        cache: TrunkCache | None = None,
        memory_gb: float = 2.0,
        on_new: Callable[[int], None] | None = None,
    ):
        if not cases:
            raise InputError("cases: a fitting needs at least one edit.")
        self.vlm = vlm
        self.cases = [training_case(case, per_cell, seed, cells) for case in cases]
        self.layer = vlm.resolve_site(f"{layer}.mlp.out").layer
        self.made = 0
        self._cache, self._forced_new = cache, forced_new
        self._budget = int(memory_gb * 1e9)
        self._on_new = on_new
        self._kept: OrderedDict[int, TrainingCase] = OrderedDict()
        self._guard: Any = None

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, number: int) -> TrainingCase:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        case = self._kept[number] = self._make(self.cases[number])
        used = sum(one.nbytes for one in self._kept.values())
        while used > self._budget and len(self._kept) > 1:
            used -= self._kept.popitem(last=False)[1].nbytes
        return case

    def _make(self, case: EditCase) -> TrainingCase:
        from ...evaluate.asking import prepare
        from ...evaluate.checks import BaseGuard

        self._guard = self._guard or _Seldom(BaseGuard(self.vlm))
        prepared = prepare(self.vlm, case, self.layer, self._forced_new, cache=self._cache, guard=self._guard)
        self.made += 1
        if self._on_new is not None:
            self._on_new(self.made)
        return TrainingCase(prepared)


class _Seldom:
    """Asks a `BaseGuard` now and then only: its two probes cost as much as a row."""

    def __init__(self, guard: Any):
        self._guard, self._count = guard, 0

    def check(self) -> None:
        if self._count % CHECK_EVERY == 0:
            self._guard.check()
        self._count += 1


def order(count: int, epoch: int, seed: int) -> list[int]:
    """The numbers 0 … count − 1 as they come in an epoch: a function of epoch and seed alone."""
    numbers = list(range(count))
    random.Random(f"{seed}/epoch/{epoch}").shuffle(numbers)
    return numbers


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
