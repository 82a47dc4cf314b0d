"""What a case costs before its first edit is scored: prompts in trees against a row for every prompt and answer, in one run.

Columns are tokens that go through the first decoder layer, padding included.  Both ways must know the same of the base.

    .venv/bin/python benchmarks/base_cost.py [--cases 4] [--dtype float32] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import vledit
from vledit.data import icons
from vledit.data.case import EditCase
from vledit.evaluate.asking import ask_base
from vledit.evaluate.manifest import environment
from vledit.evaluate.prepared import PreparedCase
from vledit.vlm.base import VLM

WAYS = ("trees", "a row for each")


@contextmanager
def measured(vlm: VLM, found: dict[str, float]) -> Iterator[None]:
    """Adds up in `found`: columns and passes through the first layer, seconds, and of these what speaking took."""

    def count(_: Any, args: tuple[Any, ...]) -> None:
        found["columns"] += args[0].numel() // args[0].shape[-1]
        found["passes"] += 1

    speak = PreparedCase.speak

    def timed(self: PreparedCase, rows: Any) -> dict[int, str]:
        began = time.perf_counter()
        said = speak(self, rows)
        found["speaking"] += time.perf_counter() - began
        found["spoken"] += len(said)
        return said

    handle = vlm.site_module("0.mlp.out").register_forward_pre_hook(count)
    began = time.perf_counter()
    try:
        with mock.patch.object(PreparedCase, "speak", timed):
            yield
    finally:
        handle.remove()
    found["seconds"] += time.perf_counter() - began


def known(vlm: VLM, case: EditCase) -> list[tuple[str | None, bool]]:
    """What is known of the base afterwards: per probe its answer, and whether it gives the target."""
    prepared = PreparedCase.of(vlm, case, vlm.default_site.layer)
    ask_base(prepared)  # without the checks of `prepare`, which refuse a model that has a hook
    return [(one.base_answer, one.base_new) for one in prepared.asked]


def run(vlm: VLM, cases: list[EditCase]) -> tuple[dict[str, dict[str, float]], int, int]:
    """(way → sums, probes, probes of which both ways know the same)."""
    found = {way: dict.fromkeys(("columns", "passes", "seconds", "speaking", "spoken"), 0.0) for way in WAYS}
    probes = same = 0
    for case in cases:
        with measured(vlm, found["trees"]):
            trees = known(vlm, case)
        # nothing is grown, so that everything is run on its own
        with (
            mock.patch.object(PreparedCase, "grow", return_value=None),
            measured(vlm, found["a row for each"]),
        ):
            rows = known(vlm, case)
        probes += len(trees)
        same += sum(one == other for one, other in zip(trees, rows, strict=True))
    return found, probes, same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    vlm = vledit.load(options.model, dtype=options.dtype).vlm
    edits = icons.load_edits("test")
    cases = [edits[i * len(edits) // options.cases] for i in range(options.cases)]
    run(vlm, [edits[-1]])  # what the first pass of a process does once
    found, probes, same = run(vlm, cases)
    count = len(cases)
    print(f"{count} cases, {probes} probes; both ways know the same of {same}\n")
    print(
        "| way | columns per case | passes | seconds | of these generating | answers generated |\n|---|---|---|---|---|---|"
    )
    for way, row in found.items():
        print(
            f"| {way} | {row['columns'] / count:,.0f} | {row['passes'] / count:.0f} | {row['seconds'] / count:.1f} "
            f"| {row['speaking'] / count:.1f} | {row['spoken'] / count:.1f} |"
        )
    about = environment()
    print(f"\n{about['date']}, {about['machine']}, {options.dtype}")
    if options.json:
        options.json.write_text(json.dumps({"ways": found, "cases": count, "probes": probes, **about}, indent=1))


if __name__ == "__main__":
    main()
