"""What `vledit bench` costs a probe, against the plain loop: edit, `generate` for every probe, undo (see probe_speed.py)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import probe_speed

from vledit.data import icons
from vledit.data.case import EditCase
from vledit.evaluate.checks import BaseGuard
from vledit.evaluate.trunk_cache import TrunkCache

from .measuring import Bench


def _scoring(clock: probe_speed.Clock) -> float:
    """Seconds beside those of the edits themselves."""
    return clock.total - clock.seconds["edits"]


def measure(bench: Bench) -> None:
    vlm, edits = bench.vlm, icons.load_edits("test")
    cases = [edits[len(edits) // 2].trimmed(2)] if bench.quick else [edits[i * len(edits) // 2] for i in range(2)]
    guard = BaseGuard(vlm)
    again: list[float] = []
    once: list[tuple[float, float]] = []
    kept: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        cache = TrunkCache(vlm, 8.0, Path(folder))
        for case in cases:
            slow, first, second = (probe_speed.Clock(bench.now) for _ in range(3))
            ours = probe_speed.our_way(vlm, case, first, guard, cache, True)
            again_ours = probe_speed.our_way(vlm, case, second, guard, cache, True)
            plain = probe_speed.plain_loop(vlm, case, slow)
            assert ours == again_ours
            again.append(sum(plain[key] == ours[key] for key in plain) / len(plain))
            once.append((_scoring(slow) / _scoring(first), slow.total / first.total))
            kept.append((_scoring(slow) / _scoring(second), slow.total / second.total))
    about = {"goal": 15, "at_most": False}
    for name, found in (("", once), (", base kept from an earlier run", kept)):
        bench.note(f"evaluation, three editors, faster per probe{name}", [scored for scored, _ in found], **about)
        bench.note(f"evaluation, three editors, edits included{name}", [whole for _, whole in found], at_most=False)
    prompted(bench, [case.trimmed(1) for case in cases], guard, again)
    bench.note("evaluation, share of equal verdicts", again, unit="", goal=1.0, at_most=False)


def prompted(bench: Bench, cases: list[EditCase], guard: BaseGuard, equal: list[float]) -> None:
    """An editor that changes the prompt; of its own prompts everything has to be run."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        cache = TrunkCache(bench.vlm, 8.0, Path(folder))
        for case in cases:
            slow, fast = probe_speed.Clock(bench.now), probe_speed.Clock(bench.now)
            ours = probe_speed.our_way(bench.vlm, case, fast, guard, cache, True, probe_speed.PROMPTED)
            plain = probe_speed.plain_loop(bench.vlm, case, slow, probe_speed.PROMPTED)
            equal.append(sum(plain[key] == ours[key] for key in plain) / len(plain))
            found.append(slow.seconds["probes"] / fast.seconds["probes"])
    bench.note("evaluation, ike (changes the prompt), faster per probe, base not counted", found, at_most=False)
