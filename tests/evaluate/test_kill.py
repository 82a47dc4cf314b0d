"""kill −9 at random moments, 20 times: nothing lost, nothing done twice; the file ends up as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.vlm.models import tiny
from vledit.evaluate.manifest import manifest
from vledit.evaluate.results import Results, read_results
from vledit.evaluate.runner import InProcess, Plan, Worker, run_all
from vledit.evaluate.trunk_cache import TrunkCache

from .small import VARIANTS, case, content

CASES = [case(i, near=2) for i in range(4)]
KILLS = 20


def run_here(path, plan, trunks):
    """A run as `vledit bench` makes it, with its cache."""
    vlm = tiny("pocket")
    head = manifest(vlm, "test", CASES, VARIANTS, **plan.settings(len(CASES)))
    worker = Worker(vlm, CASES, VARIANTS, plan, TrunkCache(vlm, 1.0, trunks), head["manifest"]["weights"])
    with Results(path, head) as results:
        run_all(InProcess(worker), CASES, VARIANTS, plan, results)


def started(path, plan, trunks) -> int:
    """The process id of a child that does the run and ends."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run_here(path, plan, trunks)
            code = 0
        finally:
            os._exit(code)
    return child


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("plan", [Plan(), Plan("sequential", at=(1, 4))], ids=lambda plan: plan.protocol)
def test_killed_again_and_again(tmp_path, plan):
    began = time.perf_counter()
    run_here(tmp_path / "whole.jsonl", plan, tmp_path / "whole")
    whole, seconds = content(tmp_path / "whole.jsonl"), time.perf_counter() - began
    draw = random.Random(plan.protocol)
    kills = finished = 0
    path, trunks = tmp_path / "0.jsonl", tmp_path / "0"
    while kills < KILLS // 2:  # two protocols: 20 in all
        child = started(path, plan, trunks)
        time.sleep(draw.random() * 0.6 * seconds)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills += 1
            continue
        assert os.WEXITSTATUS(status) == 0
        assert content(path) == whole
        finished += 1
        path, trunks = tmp_path / f"{finished}.jsonl", tmp_path / f"{finished}"
    run_here(path, plan, trunks)
    assert content(path) == whole
    head, records = read_results(path)
    assert head["end"]["records"] == len(records)
    keys = [line for line in path.read_text().splitlines() if line.startswith('{"variant"')]
    assert len(keys) == len(records)  # nothing was done twice


def test_killed_in_mid_write(tmp_path):
    """The same for every place within a line, without waiting for chance."""
    plan = Plan()
    run_here(tmp_path / "whole.jsonl", plan, tmp_path / "trunks")
    data = (tmp_path / "whole.jsonl").read_bytes()
    whole = content(tmp_path / "whole.jsonl")
    draw = random.Random(0)
    for place in [1, *(draw.randrange(1, len(data)) for _ in range(6)), len(data) - 1]:
        path = tmp_path / f"{place}.jsonl"
        path.write_bytes(data[:place])
        run_here(path, plan, tmp_path / "trunks")
        assert content(path) == whole
