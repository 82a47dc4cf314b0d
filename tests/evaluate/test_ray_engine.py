"""Cases spread over Ray workers: the same file as in one process, also when a worker is killed."""

from __future__ import annotations

import builtins
import os
import signal
import sys
from pathlib import Path

import pytest

from vledit.errors import InputError, MissingDataError
from vledit.evaluate.ray_engine import RayEngine
from vledit.evaluate.results import Results, read_results
from vledit.evaluate.runner import Plan, run, run_all

from .small import VARIANTS, case, content

ROOT = Path(__file__).parents[2]
COUNT = 6


def open_small():
    """What every worker begins with."""
    from tests.evaluate.small import case
    from tests.vlm.models import build

    return build("pocket"), [case(i, near=2) for i in range(COUNT)]


CASES = [case(i, near=2) for i in range(COUNT)]


@pytest.fixture(scope="module")
def engine():
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'vledit[ray]'")
    os.environ.setdefault("RAY_worker_niceness", "0")  # a busy machine would starve workers that are nice
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]), "OMP_NUM_THREADS": "1"}
    with RayEngine(open_small, VARIANTS, Plan(), workers=2, environment=environment) as spread:
        yield spread


def test_a_killed_workers_cases_are_redone(engine, tmp_path):
    whole = tmp_path / "whole.jsonl"
    run(*open_small(), VARIANTS, whole)
    head = engine.head(benchmark="")
    pids, killed = engine.pids(), []

    def kill_one(_: str) -> None:
        if not killed:  # the first record is there: the other worker is in the middle of a case
            killed.append(pids[engine.busy()[0]])
            os.kill(killed[0], signal.SIGKILL)

    with Results(tmp_path / "ray.jsonl", head) as results:
        end = run_all(engine, CASES, VARIANTS, Plan(), results, kill_one)
    assert engine.deaths == 1
    assert len(set(engine.pids()) & set(pids)) == 1
    assert (end["records"], end["failed"], end["unchanged"]) == (2 * COUNT, 0, True)
    assert content(tmp_path / "ray.jsonl") == content(whole)
    mine, other = (read_results(path)[0]["manifest"] for path in (tmp_path / "ray.jsonl", whole))
    assert mine == other  # a run begun on one machine can be gone on with on many


def test_more_workers_than_there_is_room_for_are_refused(engine):
    with pytest.raises(InputError, match="CPUs"):
        RayEngine(open_small, VARIANTS, Plan(), workers=64)
    with pytest.raises(InputError, match="workers"):
        RayEngine(open_small, VARIANTS, Plan(), workers=0)


def test_without_ray_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "ray":
            raise ImportError("No module named 'ray'")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDataError, match=r"vledit\[ray\]"):
        RayEngine(open_small, VARIANTS, Plan())
