"""Everything in docs/results_paper_scope.md, from one command; an interrupted run goes on where it was.

    .venv/bin/python benchmarks/icons_results.py [--runs runs] [--edits 500] [--sequential 200] [--long 1000] [--only single]

Chooses α of the paper's scope on 40 edits of the validation split for each transformation (and says what fives of them would
have chosen), scores BalancEdit (full, span; its own scope and the paper's) and the plain fine-tune of the same site, at its own
rate and at the paper's 1e-2, on edits of the test split: one at a time, of drawings that training saw and of drawings by other
hands, without and with supplied rephrases; in sequence; many facts about one picture; the same words about other subjects.
Draws the α curve, and times edits and probes against the plain ways (edit_speed.py, probe_speed.py).
The test split is scored once, with what was chosen on validation. Each part (`PARTS`) is a results file in the folder of the
runs; a part that is finished is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icons_page import LONG_PROBES, PROBES, SPEED, report

import vledit
from vledit.cli.leaderboard import bar
from vledit.cli.wanted import Wanted, benchmark_cases, sample
from vledit.data.benchmarks import spread
from vledit.data.icons.sequence import in_sequence
from vledit.evaluate.alpha import choose
from vledit.evaluate.manifest import Variant
from vledit.evaluate.metrics import by_variant
from vledit.evaluate.plan import Plan
from vledit.evaluate.results import read_results
from vledit.evaluate.runner import run
from vledit.evaluate.trunk_cache import TrunkCache

ROOT = Path(__file__).parent.parent
ALPHA_PROBES = 10
"""Most probes of each cell that are scored where α is chosen."""
AT = (1, 10, 50, 200, 1000)
"""After which numbers of edits in sequence is scored."""
KINDS = ("full", "span")
"""Transformations of BalancEdit."""
PARTS = ("single", "supplied", "held-out", "sequential", "long", "facts", "text")


def variants(alphas: dict[str, float]) -> list[Variant]:
    """BalancEdit as it is by default and with the paper's scope, each with both transformations, and the plain fine-tune."""
    ours = [Variant(kind, "balancedit", {"transformation": kind}) for kind in KINDS]
    papers = [
        Variant(f"{kind}-paper", "balancedit", {"transformation": kind, "scope": "paper", "alpha": alphas[kind]})
        for kind in KINDS
    ]
    return [*ours, *papers, Variant("ft", "ft", {}), Variant("ft-1e-2", "ft", {"learning_rate": 1e-2})]


@dataclass(frozen=True)
class Part:
    """One results file: which edits, how they are scored, and by how many of the `variants` (0: all)."""

    benchmark: str
    cases: Sequence[Any]
    plan: Plan
    methods: int = 0
    rephrases: str = "none"


def points(most: int) -> tuple[int, ...]:
    return tuple(sorted({*(n for n in AT if n < most), most}))


def parts(options: argparse.Namespace) -> dict[str, Part]:
    """Name → part; cases are made when the benchmark is read, so that a part that is not wanted costs little."""

    def cases(benchmark: str, limit: int, probes: int = PROBES, **more: Any) -> list[Any]:
        return benchmark_cases(Wanted(benchmark, "test", limit, probes, **more))

    def first(benchmark: str, most: int) -> list[Any]:
        """The first edits in their own order, of all that there are."""
        found = cases(benchmark, 0, 0)[:most]
        return [case.trimmed(PROBES) for case in in_sequence(found)]

    def long() -> list[Any]:
        """Edits with a picture, then without one; no fact is edited twice, as those of held-out drawings would."""
        found = [*cases("icons", 0, 0), *cases("icons-text", 0, 0)]
        return [case.trimmed(LONG_PROBES) for case in in_sequence(spread(found, min(options.long, len(found))))]

    def part(name: str) -> Part:
        if name == "single":
            return Part("icons", cases("icons", options.edits), Plan(texts=50))
        if name == "supplied":
            return Part(
                "icons", cases("icons", options.supplied, rephrases="supplied"), Plan(tokens=False), 4, "supplied"
            )
        if name == "held-out":
            return Part("icons-held-out", cases("icons-held-out", options.held_out), Plan(tokens=False))
        if name == "sequential":
            found = cases("icons", options.sequential, sequence=True)
            return Part("icons", found, Plan("sequential", at=points(len(found))))
        if name == "long":
            found = long()
            return Part("icons", found, Plan("sequential", at=points(len(found)), tokens=False))
        found = first({"facts": "icons-facts", "text": "icons-text"}[name], options.sequential)
        return Part(f"icons-{name}", found, Plan("sequential", at=points(len(found)), tokens=False))

    return {name: part(name) for name in options.only or PARTS}


def choose_alphas(vlm: Any, path: Path, samples: int = 40) -> dict[str, Any]:
    """α of each transformation by HM on validation edits; kept, so that a resumed run does not choose again.

    Nothing that is scored on test is asked here: neither its concepts nor its wordings nor its held-out hands.

    Also what each five of them alone would choose: the paper takes five (Sec. 4.3).
    """
    if path.exists():
        return json.loads(path.read_text())
    cases = [case.trimmed(ALPHA_PROBES) for case in sample(benchmark_cases(Wanted("icons", "validation")), samples, 0)]
    kinds = [Variant(kind, "balancedit", {"transformation": kind, "scope": "paper"}) for kind in KINDS]
    found = {}
    kept = path.with_suffix(".jsonl")
    with bar() as progress:
        task = progress.add_task("icons validation, α", total=len(cases) * len(kinds))
        run(
            vlm,
            cases,
            kinds,
            kept,
            Plan(tokens=False),
            TrunkCache(vlm),
            lambda _: progress.advance(task),
            benchmark="icons",
        )
    for kind, records in by_variant(read_results(kept)[1]):
        best, by_alpha = choose(records)
        fives = [choose(records[i : i + 5])[0] for i in range(0, samples - 4, 5)]
        found[kind] = {"alpha": best, "HM": by_alpha, "samples": samples, "fives": fives}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1))
    return found


def measure(name: str, runs: Path) -> None:
    """Runs a benchmark of this folder in a process of its own and keeps its table; one that is there is not made again."""
    kept = runs / f"{name}.md"
    if not kept.exists():
        script = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--json", str(runs / f"{name}.json")]
        kept.write_text(subprocess.run(script, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "icons")
    parser.add_argument("--edits", type=int, default=500)
    parser.add_argument(
        "--supplied", type=int, default=100, help="edits that are scored with supplied rephrases as well"
    )
    parser.add_argument("--held-out", type=int, default=200, help="edits of drawings that training never saw")
    parser.add_argument("--sequential", type=int, default=200)
    parser.add_argument("--long", type=int, default=1000, help="edits of the long sequence")
    parser.add_argument(
        "--only", action="append", choices=PARTS, help="run these parts and write no page; may be repeated"
    )
    parser.add_argument(
        "--variant",
        action="append",
        help="with --only: run these variants alone (full, span, full-paper, …); may be repeated",
    )
    parser.add_argument("--alpha-samples", type=int, default=40, help="validation edits that α is chosen on")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, … or auto")
    parser.add_argument("--dtype", default="bfloat16", help="bfloat16 is twice as fast here as float32")
    options = parser.parse_args()
    if options.variant and not options.only:
        parser.error("--variant: the page needs all of them; give --only as well")
    if unknown := {*(options.variant or ())} - {one.name for one in variants(dict.fromkeys(KINDS, 0.5))}:
        parser.error(f"--variant: there is no {', '.join(sorted(unknown))}")
    vlm = vledit.load("pocket", device=options.device, dtype=options.dtype).vlm
    chosen = {}
    if not options.variant or any(name.endswith("-paper") for name in options.variant):
        chosen = choose_alphas(vlm, options.runs / "alpha.json", options.alpha_samples)
    methods = variants({kind: chosen[kind]["alpha"] if chosen else 0.0 for kind in KINDS})
    cache = TrunkCache(vlm)
    for name, part in parts(options).items():
        some = [one for one in methods[: part.methods or None] if one.name in (options.variant or [one.name])]
        if not some:
            print(f"{name}: none of its variants is wanted")
            continue
        made = part.plan.points(len(part.cases))
        each = sum(made) if part.plan.protocol == "sequential" else len(part.cases)
        with bar() as progress:
            task = progress.add_task(f"{part.benchmark} test, {name}", total=each * len(some))
            run(
                vlm,
                part.cases,
                some,
                options.runs / f"{name}.jsonl",
                part.plan,
                cache,
                lambda _, p=progress, t=task: p.advance(t),
                benchmark=part.benchmark,
                split="test",
                rephrases=part.rephrases,
            )
    if not options.only:
        for name in SPEED:
            measure(name, options.runs)
        (ROOT / "docs" / "results_paper_scope.md").write_text(report(options.runs, chosen))


if __name__ == "__main__":
    main()
