"""All figures about speed that this machine can give, each against a plain reference in the same run.

    make bench                                   everything (about half an hour on two cores)
    make bench QUICK=1                           smaller sizes, fewer rounds: at most 8 minutes on two cores
    .venv/bin/python benchmarks/bench.py --only answers,books --entries 1,1000
    .venv/bin/python benchmarks/bench.py --device cuda

Prints one line a figure (name, value with the range of the rounds' middle half, goal, met or missed), writes them as JSON
and draws cost against size.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from pathlib import Path

import torch
from figures import answers, books, drawing, edits, scoring
from figures.measuring import Bench

import vledit

TOPICS = ("answers", "batch", "scopes", "edits", "first", "books", "scoring")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default=",".join(TOPICS), help=f"topics, with commas: {', '.join(TOPICS)}")
    parser.add_argument("--entries", default="", help="sizes of codebooks that answers are measured with")
    parser.add_argument(
        "--large", type=int, default=0, help="entries of the largest codebook file, e.g. 1000000 (14 GB on disk)"
    )
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="", help="default: cpu, on a GPU wall")
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    parser.add_argument("--draw", type=Path, help="where the plot goes (.svg or .png)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    topics = options.only.split(",")
    if unknown := [name for name in topics if name not in TOPICS]:
        parser.error(f"--only: '{unknown[0]}' is unknown; known: {', '.join(TOPICS)}")
    began = time.time()
    vlm = vledit.load("pocket", device=options.device).vlm
    clock = options.clock or ("cpu" if options.device == "cpu" else "wall")
    rounds = options.rounds or (5 if options.quick else 15)
    bench = Bench(vlm, rounds, options.quick, clock, lambda figure: print(figure.line(), flush=True))
    sizes = [int(one) for one in options.entries.split(",")] if options.entries else None
    if "answers" in topics:
        answers.measure(bench, sizes or ([1, 10_000] if options.quick else [1, 1_000, 10_000, 100_000]))
    if "batch" in topics:
        answers.batch(bench)
    if "scopes" in topics:
        answers.scopes(bench)
    if "edits" in topics:
        edits.measure(bench)
    if "first" in topics:
        edits.first_span(bench)
    if "books" in topics:
        books.measure(bench, options.large)
    if "scoring" in topics:
        scoring.measure(bench)
    judged = [figure for figure in bench.found if figure.goal is not None]
    met = sum(figure.verdict == "met" for figure in judged)
    spent = f"{time.time() - began:.0f} s by the clock, {time.process_time():.0f} s of CPU"
    print(f"\n{met} of {len(judged)} goals met; {spent}; figures in {clock} time, {options.threads} thread(s)")
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {options.device}",
        "threads": options.threads,
        "clock": clock,
        "rounds": rounds,
        "torch": torch.__version__,
    }
    figures = [dataclasses.asdict(figure) | {"verdict": figure.verdict} for figure in bench.found]
    options.out.write_text(json.dumps({"about": about, "figures": figures}, indent=1) + "\n")
    print(f"{options.out} written")
    if options.draw:
        drawing.draw(bench.found, options.draw)
        print(f"{options.draw} written")


if __name__ == "__main__":
    main()
