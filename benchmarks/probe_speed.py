"""Probes per second: how `vledit bench` scores, against the plain loop, in one run.

The plain loop is what evaluation code commonly does: edit, the whole model's `generate` for every probe by itself, undo; and
before it, once per case, `generate` for every locality probe to know what the base answers.  Ours asks the base once and runs
the frozen part of the model once per probe, both shared by all editors; an edit then costs only what lies above its site, and
one verified pass tells what greedy decoding would give, end of the answer included.  Both ways make the same edits with the
same code, and must come to the same verdicts; ours also gives all scores by token, which the plain loop does not.

    .venv/bin/python benchmarks/probe_speed.py [--cases 2] [--dtype float32] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import vledit
from vledit.data import icons
from vledit.data.case import EditCase
from vledit.editors.edited_model import EditedModel
from vledit.evaluate.asking import prepare
from vledit.evaluate.case_trunks import MAX_NEW_TOKENS
from vledit.evaluate.checks import BaseGuard
from vledit.evaluate.manifest import Variant, environment
from vledit.evaluate.protocols import single
from vledit.evaluate.runner import ends
from vledit.evaluate.trunk_cache import TrunkCache
from vledit.vlm.base import VLM

VARIANTS = [
    Variant("balancedit full", "balancedit", {"rephrase": "supplied"}),
    Variant("balancedit span", "balancedit", {"rephrase": "supplied", "transformation": "span"}),
    Variant("ft", "ft", {}),
]
PROMPTED = [Variant("ike", "ike", {})]
"""An editor that changes the prompt: nothing that was computed of the base's prompts holds for it."""
Verdicts = dict[tuple[str, str, str, str, int], tuple[bool, bool | None]]
"""(variant, case, family, cell, index) → (gives the new answer, answers as before)."""


class Clock:
    """Seconds by what they were spent on; `now` tells the time."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.seconds: dict[str, float] = {}

    def time(self, name: str, run: Any) -> Any:
        """What `run` gives; its time is added to `name`."""
        began = self.now()
        result = run()
        self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - began
        return result

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def plain_loop(vlm: VLM, case: EditCase, clock: Clock, variants: Sequence[Variant] = tuple(VARIANTS)) -> Verdicts:
    """Edit, `generate` per probe, undo; for every variant."""
    request = case.request
    model = EditedModel(vlm)

    def ask(image: object, question: str) -> str:
        return model.answer(image, question, MAX_NEW_TOKENS).text

    base = {
        (family, cell, index): clock.time("base", lambda p=probe: ask(p.image, p.question))
        for family, cell, index, probe in case.probes()
        if family == "locality"
    }
    found: Verdicts = {}
    for variant in variants:
        model = EditedModel(vlm)
        clock.time("edits", lambda m=model, v=variant: m.edit(request, v.editor, **v.settings))
        text = clock.time("probes", lambda: ask(request.image, request.question))
        found[variant.name, case.id, "reliability", "edit", 0] = (text == request.answer, None)
        for family, cell, index, probe in case.probes():
            text = clock.time("probes", lambda p=probe: ask(p.image, p.question))
            same = text == base[family, cell, index] if family == "locality" else None
            found[variant.name, case.id, family, cell, index] = (text == request.answer, same)
    return found


def our_way(
    vlm: VLM,
    case: EditCase,
    clock: Clock,
    guard: BaseGuard,
    cache: TrunkCache,
    tokens: bool,
    variants: Sequence[Variant] = tuple(VARIANTS),
) -> Verdicts:
    """As `vledit bench` does it, with its checks."""
    layer, key_sites = ends(vlm, variants)
    prepared = clock.time("base", lambda: prepare(vlm, case, layer, tokens, cache, guard, key_sites))
    found: Verdicts = {}
    for variant in variants:
        began, wall = clock.now(), time.perf_counter()
        scored = single(vlm, prepared, variant, guard)
        seconds, wall = clock.now() - began, time.perf_counter() - wall
        assert scored.edit is not None, scored.failure
        edit = scored.edit.report.seconds * seconds / wall
        clock.seconds["edits"] = clock.seconds.get("edits", 0.0) + edit
        clock.seconds["probes"] = clock.seconds.get("probes", 0.0) + seconds - edit
        for o in scored.outcomes:
            same = o.same if o.family == "locality" else None
            found[variant.name, case.id, o.family, o.cell, o.index] = (o.new, same)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--probes", type=int, default=0, help="most probes of each cell; 0: all")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a machine that others use too"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    vlm = vledit.load(options.model, dtype=options.dtype).vlm
    edits = icons.load_edits("test")
    cases = [edits[i * len(edits) // options.cases].trimmed(options.probes) for i in range(options.cases)]
    warm_up = EditedModel(vlm)
    warm_up.edit(edits[-1].request, "balancedit", transformation="span", rephrase="supplied")  # what all edits share
    warm_up.answer(edits[-1].request.image, edits[-1].request.question)
    now = time.perf_counter if options.clock == "wall" else time.process_time
    clocks = {name: Clock(now) for name in ("plain loop", "ours", "ours, exact only", "ours, kept trunks")}
    verdicts: dict[str, Verdicts] = {name: {} for name in clocks}
    with tempfile.TemporaryDirectory() as folder:
        guard = BaseGuard(vlm)
        kept, none = TrunkCache(vlm, 8.0, Path(folder)), TrunkCache(vlm, 0.0, Path(folder))
        for case in cases:
            ways = {"ours": (kept, True), "ours, exact only": (none, False), "ours, kept trunks": (kept, True)}
            for name, (cache, tokens) in ways.items():
                verdicts[name] |= our_way(vlm, case, clocks[name], guard, cache, tokens)
            verdicts["plain loop"] |= plain_loop(vlm, case, clocks["plain loop"])
    report(clocks, verdicts, len(cases), options.clock, options.dtype, options.json)


def report(
    clocks: dict[str, Clock], verdicts: dict[str, Verdicts], cases: int, clock_name: str, dtype: str, path: Path | None
) -> None:
    """Prints the table, writes the JSON."""
    plain = verdicts["plain loop"]
    count = len(plain)
    slow = {
        "all": clocks["plain loop"].total,
        "scoring": clocks["plain loop"].total - clocks["plain loop"].seconds["edits"],
    }
    rows = {}
    print(f"{cases} cases, {len(VARIANTS)} editors, {count} probes\n")
    columns = ("way", "probes/s, scoring", "times faster", "probes/s, edits included", "times faster")
    columns += ("base s", "edits s", "probes s", "same verdicts")
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for name, clock in clocks.items():
        scoring = clock.total - clock.seconds["edits"]
        agree = sum(verdicts[name][key] == value for key, value in plain.items())
        rows[name] = row = {
            "seconds": clock.seconds,
            "probes_per_second": count / clock.total,
            "probes_per_second_scoring": count / scoring,
            "ratio": slow["all"] / clock.total,
            "ratio_scoring": slow["scoring"] / scoring,
            "same_verdicts": agree,
        }
        parts = " | ".join(f"{clock.seconds[part]:.1f}" for part in ("base", "edits", "probes"))
        print(
            f"| {name} | {row['probes_per_second_scoring']:.1f} | {row['ratio_scoring']:.1f} | {row['probes_per_second']:.1f} "
            f"| {row['ratio']:.1f} | {parts} | {agree}/{count} |"
        )
    if path:
        path.write_text(
            json.dumps({"rows": rows, "cases": cases, "probes": count, "clock": clock_name, **environment()}, indent=1)
        )
    for name, found in verdicts.items():
        for key in [key for key, value in plain.items() if found[key] != value][:8]:
            print(f"\n{name}, other verdict: {' / '.join(map(str, key))}: {found[key]} instead of {plain[key]}")
    about = environment()
    print(f"\n{about['date']}, {about['machine']}, {dtype}, {clock_name} time")


if __name__ == "__main__":
    main()
