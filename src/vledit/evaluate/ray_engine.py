"""Tasks on Ray workers, on this machine or a cluster.  Each worker loads the model itself; one process writes the file.

A worker that dies (killed, out of memory, its machine lost) is replaced and its task is done again; results that it had not
handed over were not in the file.  An error that ends a run in one process (`STOPPING`) also ends it here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..data.case import EditCase
from ..editors.together import EDITS
from ..errors import InputError, MissingDataError, VLEditError
from .manifest import Variant, manifest
from .plan import Plan, Task
from .trunk_cache import TrunkCache

if TYPE_CHECKING:
    from ..vlm.base import VLM
    from .runner import Line

Opened = tuple["VLM", Sequence[EditCase]]
DEATHS = 5
"""So many deaths of workers per worker are borne before the run gives up: then it is no accident."""


def _next(waiting: deque[Task], place: int, blocks: dict[int, int]) -> Task:
    """Takes the next task for a worker: of a block that it began, or else of one that none has, or else the first."""
    of = [task.cases[0] // EDITS for task in waiting]
    mine = next((i for i, block in enumerate(of) if blocks.get(block) == place), None)
    fresh = next((i for i, block in enumerate(of) if block not in blocks), 0)
    chosen = fresh if mine is None else mine
    blocks.setdefault(of[chosen], place)
    task = waiting[chosen]
    del waiting[chosen]
    return task


def import_ray() -> Any:
    """Raises: MissingDataError naming the extra where Ray is not installed."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingDataError(
            "engine: Ray is not installed. Run `pip install 'vledit[ray]'`, or leave out --engine ray."
        ) from error
    return ray


class RayWorker:
    """What runs in each worker process: the model, and a `Worker` on it."""

    def __init__(
        self,
        open_run: Callable[[], Opened],
        variants: Sequence[Variant],
        plan: Plan,
        cache_gb: float,
        cache_folder: Any,
        threads: int,
    ):
        import torch

        from .runner import Worker

        torch.set_num_threads(threads)
        vlm, cases = open_run()
        cache = TrunkCache(vlm, cache_gb, cache_folder) if cache_gb > 0 else None
        self.worker = Worker(vlm, cases, variants, plan, cache)

    def head(self, **about: Any) -> dict[str, Any]:
        """The manifest, made where the model is."""
        worker = self.worker
        settings = {**worker.plan.settings(len(worker.cases)), **about}
        return manifest(
            worker.vlm, settings.pop("benchmark", ""), worker.cases, list(worker.variants.values()), **settings
        )

    def run(self, task: Task) -> list[Line]:
        """All lines of a task."""
        return list(self.worker.run(task))

    def finish(self) -> dict[str, Any]:
        return self.worker.finish()

    def pid(self) -> int:
        """The process, for whoever wants to look at it."""
        import os

        return os.getpid()


class RayEngine:
    """Workers on a Ray cluster, started here where there is none.

    Args:
        open_run: gives (model, cases); called once in every worker.
        cpus, gpus: of each worker; `gpus` may be a fraction.
        address: of a running cluster; None: start one on this machine for the time of the run.
        environment: variables set in the workers.
    Raises: MissingDataError without Ray; InputError where the machine has fewer CPUs or GPUs than asked for.
    """

    def __init__(
        self,
        open_run: Callable[[], Opened],
        variants: Sequence[Variant],
        plan: Plan,
        workers: int = 2,
        cpus: float = 1,
        gpus: float = 0,
        cache_gb: float = 0.0,
        cache_folder: Any = None,
        address: str | None = None,
        environment: dict[str, str] | None = None,
    ):
        if workers < 1:
            raise InputError(f"workers: {workers} given; at least 1 is needed.")
        self._ray = ray = import_ray()
        self._own = not ray.is_initialized()
        if self._own:
            own_cluster = {} if address else {"num_cpus": max(1, round(workers * cpus)), "include_dashboard": False}
            variables = {"env_vars": environment or {}}
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", runtime_env=variables, **own_cluster)
        there = ray.cluster_resources()
        if there.get("CPU", 0) < workers * cpus or there.get("GPU", 0) < workers * gpus:
            self.close()
            raise InputError(
                f"workers: {workers} with {cpus:g} CPUs and {gpus:g} GPUs each do not fit; the cluster has "
                f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs."
            )
        actor = ray.remote(RayWorker).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0)
        shared = [ray.put(value) for value in (list(variants), plan)]
        self._start = lambda: actor.remote(open_run, *shared, cache_gb, cache_folder, max(1, int(cpus)))
        self._actors = [self._start() for _ in range(workers)]
        self._most_deaths = DEATHS * workers
        self._running: dict[Any, tuple[int, Task]] = {}
        self.deaths = 0

    def head(self, **about: Any) -> dict[str, Any]:
        """The manifest of the run."""
        return self._get(self._actors[0].head.remote(**about))

    def pids(self) -> list[int]:
        """The workers' processes."""
        return self._ray.get([actor.pid.remote() for actor in self._actors])

    def busy(self) -> list[int]:
        """Which workers (places in `pids`) are doing a task."""
        return sorted(place for place, _ in self._running.values())

    def lines(self, tasks: Sequence[Task]) -> Iterator[Line]:
        """See `Engine`; a task's lines come together, when it is done."""
        ray, waiting = self._ray, deque(tasks)
        running = self._running = {}
        free = list(range(len(self._actors)))
        blocks: dict[int, int] = {}  # block of cases whose edits are begun together → the worker that began it
        while waiting or running:
            while waiting and free:
                place = free.pop()
                task = _next(waiting, place, blocks)
                running[self._actors[place].run.remote(task)] = (place, task)
            finished, _ = ray.wait(list(running), num_returns=1)
            place, task = running.pop(finished[0])
            free.append(place)
            try:
                lines = self._get(finished[0])
            except ray.exceptions.RayActorError as error:
                self._replace(place, error)
                waiting.appendleft(task)
                continue
            yield from lines

    def finish(self) -> list[dict[str, Any]]:
        """See `Engine`; a worker that died after its last task has nothing to say."""
        ends = []
        for place, actor in enumerate(self._actors):
            try:
                ends.append(self._get(actor.finish.remote()))
            except self._ray.exceptions.RayActorError as error:
                self._replace(place, error)
                ends.append(self._get(self._actors[place].finish.remote()))
        return ends

    def _replace(self, place: int, error: Exception) -> None:
        self.deaths += 1
        if self.deaths > self._most_deaths:
            raise VLEditError(f"engine: workers die again and again ({error}); too little memory?") from error
        self._actors[place] = self._start()

    def _get(self, reference: Any) -> Any:
        """The result; an error that the worker raised is raised as what it was there."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, BaseException) else error
            raise cause from error

    def close(self) -> None:
        """Ends the workers, and the cluster where it was started here."""
        for actor in getattr(self, "_actors", []):
            self._ray.kill(actor)
        if self._own:
            self._ray.shutdown()

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
