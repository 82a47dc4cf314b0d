"""Runs variants over cases: the work of one process (`Worker`), and a whole run, which can be interrupted and continued.

A case that fails is recorded with the reason, and the run continues. Only errors that would make all further figures wrong (the
base changed) or impossible (out of memory, an interrupt) end it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from ..data.case import EditCase
from ..editors.base import Edit
from ..editors.registry import editor as make_editor
from ..editors.together import EDITS
from ..errors import CheckFailedError, InputError
from ..vlm.base import VLM
from .as_released import Way, way_of
from .asking import prepare
from .checks import BaseGuard
from .held import Held, digest
from .manifest import Variant, manifest, weights_hash
from .metrics import by_variant
from .plan import Plan, Task, keys, tasks
from .prepared import PreparedCase
from .protocols import STOPPING, Chain, Failure, Scored, single
from .results import Results, read_results
from .trunk_cache import TrunkCache

__all__ = [
    "Plan",
    "Results",
    "Variant",
    "Worker",
    "by_variant",
    "manifest",
    "read_results",
    "records_of",
    "run",
    "run_all",
]

Line = dict[str, Any]
KEPT = 16
"""Cases of a sequence or batch that stay in memory; the others come from the disk, or are run again where there is no cache."""


class Worker:
    """Does tasks on one loaded model.

    Args:
        weights: SHA-256 of the model's weights where it is known.
        cache: None: trunks are kept in memory only, case by case.
    """

    def __init__(
        self,
        vlm: VLM,
        cases: Sequence[EditCase],
        variants: Sequence[Variant],
        plan: Plan,
        cache: TrunkCache | None = None,
        weights: str = "",
    ):
        self.vlm, self.cases, self.plan, self.cache = vlm, cases, plan, cache
        self.variants = {variant.name: variant for variant in variants}
        self.guard = BaseGuard(vlm, weights or weights_hash(vlm.model))
        self.layer, self.key_sites = ends(vlm, variants)
        self.texts = plan.with_text(len(cases))
        self._kept: dict[str, PreparedCase] = {}
        self._begun: dict[str, tuple[int, list[Any]]] = {}  # variant → block of cases, what was begun of them

    def _begun_of(self, name: str, place: int) -> Any:
        """What a variant's editor makes of this case's edit together with those beside it.

        Cases go together by their places, whatever was done before: a run that is interrupted, or spread over workers, has
        the same bits.
        """
        block = place // EDITS
        if self._begun.get(name, (-1, []))[0] != block:
            cases = self.cases[block * EDITS : (block + 1) * EDITS]
            begun = Held(self.vlm, self.variants[name]).begun([one.request for one in cases], apart=True)
            self._begun[name] = (block, begun)
        return self._begun[name][1][place % EDITS]

    def run(self, task: Task) -> Iterator[Line]:
        """Yields lines for the results file, each as soon as it is known; a case's base line before its records."""
        run = {"single": self._single, "sequential": self._chain, "batch": self._chain}[self.plan.protocol]
        seen = set(task.bases)
        yield from run(task, seen)

    def finish(self) -> dict[str, Any]:
        """The weights are looked at once more, all of them.  Raises: BaseChangedError."""
        self.guard.check_weights()
        return {"weights": self.guard.weights, "cache": {} if self.cache is None else asdict(self.cache.report)}

    def _prepare(self, case: EditCase) -> PreparedCase:
        return prepare(self.vlm, case, self.layer, self.plan.tokens, self.cache, self.guard, self.key_sites)

    def _ready(
        self, case: EditCase, bases: set[str], way: Way | None = None
    ) -> tuple[PreparedCase | Failure, list[Line]]:
        """The prepared case, or why there is none; and its base line where it is not written yet.

        Args:
            way: whose mistakes are made; where they change what the base is asked, there is no base line.
        """
        if way is not None and way.blind:
            try:
                return self._prepare(way.case(case)), []
            except STOPPING:
                raise
            except Exception as error:
                return Failure.of("prepare", error), []
        if case.id in self._kept:
            return self._kept[case.id], []
        began = time.perf_counter()
        try:
            prepared = self._prepare(case)
            line = None if case.id in bases else prepared.base_record(time.perf_counter() - began)
        except STOPPING:
            raise
        except Exception as error:
            return Failure.of("prepare", error), []
        bases.add(case.id)
        return prepared, [] if line is None else [line]

    def _single(self, task: Task, bases: set[str]) -> Iterator[Line]:
        (place,) = task.cases
        case = self.cases[place]
        usual, lines = self._ready(case, bases)
        yield from lines
        for name in task.variants:
            if (name, case.id, 1) in task.done:
                continue
            way = way_of(self.variants[name])
            prepared = usual if way is None or not way.blind else self._ready(case, bases, way)[0]
            began = time.perf_counter()
            begun = None
            if isinstance(prepared, Failure):
                scored = Scored(case.id, [], failure=prepared)
            else:
                begun = self._begun_of(name, place)
                began = time.perf_counter()
                scored = single(self.vlm, prepared, self.variants[name], self.guard, place in self.texts, begun)
            earlier = 0.0 if begun is None else begun.seconds
            yield scored.record(name, time.perf_counter() - began + earlier)

    def _chain(self, task: Task, bases: set[str]) -> Iterator[Line]:
        """Edits of each variant made one after the other; scored at the points of the plan.

        The base is asked about all cases that will be scored before the first edit is made; what it gave is read from the disk
        when it is needed.
        """
        cases = [self.cases[place] for place in task.cases]
        points = self.plan.points(len(self.cases))
        self._kept = {}
        scored = {place for point in points for place in self.plan.places(point)}
        for place, case in enumerate(cases):
            if self.plan.protocol == "sequential" and place not in scored:
                continue
            if case.id in bases and self.cache is not None:
                continue
            prepared, lines = self._ready(case, bases)
            yield from lines
            if isinstance(prepared, PreparedCase) and len(self._kept) < KEPT:
                self._kept[case.id] = prepared
        for name in task.variants:
            if set(keys(self.plan, cases, name)) <= task.done:
                continue
            self.guard.check()
            chain = Chain(self.vlm, self.variants[name])
            begun: list[Any] = []
            for count, case in enumerate(cases, 1):
                if not begun:
                    begun = chain.held.begun([one.request for one in cases[count - 1 : count - 1 + EDITS]])
                way = way_of(chain.variant)
                edit = chain.add(case if way is None else way.case(case), begun.pop(0))
                yield from self._made_again(task, name, case, edit)
                is_last = count == len(cases)
                if self.plan.protocol == "sequential" and count in points:
                    yield from self._score(task, chain, cases, self.plan.places(count), count, bases)
                elif self.plan.protocol == "batch" and is_last:
                    yield from self._score(task, chain, cases, range(count), self.plan.batch_size, bases)

    def _score(
        self,
        task: Task,
        chain: Chain,
        cases: Sequence[EditCase],
        chosen: Sequence[int],
        after: int,
        bases: set[str],
    ) -> Iterator[Line]:
        """All probes of the chosen ones of the task's cases, given by their places there, with the edits that the chain holds."""
        name = chain.variant.name
        for case, place in [(cases[one], task.cases[one]) for one in chosen]:
            if (name, case.id, after) in task.done:
                continue
            prepared, lines = self._ready(case, bases, way_of(chain.variant))
            yield from lines
            began = time.perf_counter()
            if isinstance(prepared, Failure):
                edit = chain.held.edits.get(case.id)
                scored = Scored(case.id, [], edit, prepared, after, chain.order[case.id])
            else:
                scored = chain.score(prepared, after, place in self.texts and after == max(self._points()))
            yield scored.record(name, time.perf_counter() - began)

    def _points(self) -> tuple[int, ...]:
        return self.plan.points(len(self.cases))

    def _made_again(self, task: Task, name: str, case: EditCase, edit: Edit | None) -> Iterator[Line]:
        """A sequence that was interrupted is made again; where its edits come out otherwise, the file says so."""
        before = task.digests.get((name, case.id))
        if before is not None and edit is not None and digest(edit) != before:
            text = "made again after an interruption, with other bits: the records before and after it are of two sequences"
            yield {"note": text, "of": name, "at": case.id}


def ends(vlm: VLM, variants: Sequence[Variant]) -> tuple[int, tuple[str, ...]]:
    """The decoder layer at which trunks end so that every variant can change what is above, and lower sites of keys.

    Raises: UnknownNameError, InputError for a variant that cannot be made; before any case is run.
    """
    sites, keys = [], set()
    for variant in variants:
        method = make_editor(variant.editor, **variant.settings)
        sites.append(vlm.resolve_site(getattr(method.config, "site", "") or vlm.default_site))
        if hasattr(method, "key_site"):
            keys.add(vlm.resolve_site(method.key_site(vlm)))
    layer = min((site.layer for site in sites), default=vlm.default_site.layer)
    return layer, tuple(sorted(str(site) for site in keys if site.layer < layer))


class Engine(Protocol):
    """Where tasks are done."""

    def lines(self, tasks: Sequence[Task]) -> Iterator[Line]:
        """Yields the lines of all tasks, in any order of tasks; a line once yielded is written down."""
        ...

    def finish(self) -> list[dict[str, Any]]:
        """What every worker's `finish` gives."""
        ...


class InProcess:
    """Tasks one after the other, here."""

    def __init__(self, worker: Worker):
        self.worker = worker

    def lines(self, tasks: Sequence[Task]) -> Iterator[Line]:
        for task in tasks:
            yield from self.worker.run(task)

    def finish(self) -> list[dict[str, Any]]:
        return [self.worker.finish()]


def run_all(
    engine: Engine,
    cases: Sequence[EditCase],
    variants: Sequence[Variant],
    plan: Plan,
    results: Results,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Does what is left of a run and writes its end.

    Args:
        progress: called with a case's id whenever one more record is in the file.
    Returns: the end line's content.
    Raises: BaseChangedError; InputError where two cases have one id.
    """
    check_ids(cases)
    began = time.perf_counter()
    for line in engine.lines(tasks(plan, cases, variants, results)):
        if "base" in line and line["base"] in results.bases:
            continue  # another worker was asked for it too
        results.append(line)
        if "variant" in line:
            progress(line["case"])
    ends = engine.finish()
    if any(end["weights"] != results.head["manifest"].get("weights", end["weights"]) for end in ends):
        raise CheckFailedError("base: the weights at the end are not those of the manifest.")
    wanted = {key for variant in variants for key in keys(plan, cases, variant.name)}
    end = {
        "weights": ends[0]["weights"],
        "unchanged": True,  # `finish` raises otherwise
        "records": len(wanted & results.done),
        "failed": len(results.failed),
        "seconds": round(time.perf_counter() - began, 3),
        "cache": _summed(end["cache"] for end in ends),
    }
    if not results.finished:
        results.append({"end": end})
    return end


def _summed(reports: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for report in reports:
        for name, value in report.items():
            total[name] = total.get(name, 0) + value
    return total


def check_ids(cases: Sequence[EditCase]) -> None:
    """Raises: InputError where two cases have one id, or one has none: records could not be told apart."""
    ids = [case.id for case in cases]
    if len(set(ids)) < len(ids) or not all(ids):
        twice = next((id for id in ids if not id or ids.count(id) > 1), "")
        raise InputError(f"cases: the id '{twice}' is empty or there twice; every case of a run needs its own.")


def run(
    vlm: VLM,
    cases: Sequence[EditCase],
    variants: Sequence[Variant],
    results: Results | Path,
    plan: Plan | None = None,
    cache: TrunkCache | None = None,
    progress: Callable[[str], None] = lambda _: None,
    **about: Any,
) -> dict[str, Any]:
    """A whole run on a model that is loaded, in this process.

    Args:
        results: the file, or its path (then its manifest is made here, with `about` in it, e.g. benchmark="icons").
    """
    plan = plan or Plan()
    if isinstance(results, Path):
        head = manifest(vlm, about.pop("benchmark", ""), cases, variants, **plan.settings(len(cases)), **about)
        with Results(results, head) as opened:
            return run(vlm, cases, variants, opened, plan, cache, progress)
    worker = Worker(vlm, cases, variants, plan, cache, results.head["manifest"].get("weights", ""))
    return run_all(InProcess(worker), cases, variants, plan, results, progress)


def records_of(
    vlm: VLM,
    cases: Sequence[EditCase],
    variants: Sequence[Variant],
    progress: Callable[[], None] = lambda: None,
    cache: TrunkCache | None = None,
) -> list[dict[str, Any]]:
    """Single edits, scored by exact answers; the records, of which no file is kept.

    Args:
        cache: where the base's answers are kept between calls.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        run(vlm, cases, variants, path, Plan(tokens=False), cache, progress=lambda _: progress())
        return read_results(path)[1]
