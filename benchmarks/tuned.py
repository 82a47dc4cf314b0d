"""Tuned settings beside those that an editor's row of docs/results.md was run with, on the same edits and questions.

    .venv/bin/python benchmarks/tuned.py write PACK RUNS/single/ft.jsonl PACK/tuned40.jsonl --edits 40
    .venv/bin/python benchmarks/packed.py use PACK bench --benchmark cases --annotations PACK/tuned40.jsonl --probes 1 \\
        --exact-only --texts 0 --editors "ft:settings=tuned" --out tuned.jsonl
    .venv/bin/python benchmarks/tuned.py compare tuned.jsonl RUNS/single/ft.jsonl RUNS/single/ft-1e-2.jsonl

`write` takes edits that were scored in a run of `leaderboard.py`, spread evenly, without De-VQA's cells.  `compare` takes the
same edits and the first question of each kind from the runs: nothing of them is run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vledit.data.benchmarks import spread
from vledit.data.devqa import LOCALITY_CELLS
from vledit.evaluate.compare import compare
from vledit.evaluate.metrics import table
from vledit.evaluate.results import read_results

COLUMNS = {
    "reliability": "reliability",
    "text_generality": "rewordings",
    "image_generality": "other drawings",
    "near_image_preserved": "near pictures kept",
    "other_question_preserved": "other question kept",
    "random_image_preserved": "random picture kept",
    "text_preserved": "text kept",
    "HM": "HM",
    "scope_right": "scope right",
}


def write(pack: Path, run: Path, out: Path, edits: int) -> None:
    """Writes the cases whose edits are in the run."""
    scored = {record["case"] for record in read_results(run)[1]}
    cases = [json.loads(line) for line in (pack / "single.jsonl").read_text().splitlines()]
    chosen = spread([case for case in cases if case["id"] in scored], edits)
    for case in chosen:
        case["locality"] = {cell: some for cell, some in case["locality"].items() if cell not in LOCALITY_CELLS}
    out.write_text("".join(json.dumps(case, ensure_ascii=False) + "\n" for case in chosen))
    print(f"{len(chosen)} edits: {out}")


def first_questions(records: Iterable[dict[str, Any]], cases: set[str]) -> list[dict[str, Any]]:
    """The records of these cases with the first question of each kind, De-VQA's cells left out."""
    found = []
    for record in records:
        if record["case"] in cases:
            kinds = {}
            for outcome in record["outcomes"]:
                if outcome.cell not in LOCALITY_CELLS:
                    kinds.setdefault((outcome.family, outcome.cell), outcome)
            found.append({**record, "outcomes": list(kinds.values())})
    return found


def compared(tuned: Path, runs: Sequence[Path]) -> None:
    """Prints a row for each file, and the paired differences."""
    records = read_results(tuned)[1]
    cases = {record["case"] for record in records}
    rows = {"tuned": records, **{run.stem: first_questions(read_results(run)[1], cases) for run in runs}}
    print("| settings | edits | " + " | ".join(COLUMNS.values()) + " |\n" + "|---" * (len(COLUMNS) + 2) + "|")
    for name, some in rows.items():
        estimates = table(some)
        print(f"| {name} | {len(some)} | " + " | ".join(str(estimates.get(column, "–")) for column in COLUMNS) + " |")
    for name in list(rows)[1:]:
        for one in compare((name, rows[name]), ("tuned", records)).differences:
            if one.metric in COLUMNS:
                print(f"tuned less {name}, {COLUMNS[one.metric]}: {100 * one.difference:+.1f} "
                      f"[{100 * one.low:+.1f}, {100 * one.high:+.1f}]{' *' if one.significant else ''}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write")
    for name in ("pack", "run", "out"):
        writing.add_argument(name, type=Path)
    writing.add_argument("--edits", type=int, default=40)
    comparing = commands.add_parser("compare")
    comparing.add_argument("tuned", type=Path)
    comparing.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args()
    if options.command == "write":
        write(options.pack, options.run, options.out, options.edits)
    else:
        compared(options.tuned, options.runs)


if __name__ == "__main__":
    main()
