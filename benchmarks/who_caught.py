"""Which edits of a sequence act on unrelated pictures, and what becomes of their answers: read from a results file, no model.

.venv/bin/python benchmarks/who_caught.py runs/icons/sequential.jsonl [--variant full]
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from vledit.evaluate.results import read_results

CELL = "random_image"
COLUMNS = (
    "after",
    "probes",
    "inside some radius",
    "kept their answer",
    "of those inside an entry of their own domain",
    "of those inside another domain's",
)


def domain(case: str) -> str:
    """icons/things/gorilla/name → things."""
    return case.split("/")[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--variant", default="full")
    options = parser.parse_args()
    _, records = read_results(options.results)
    records = [record for record in records if record["variant"] == options.variant]
    afters = sorted({record["after"] for record in records})
    print(f"{options.variant}, {CELL}\n\n| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    for after in afters:
        scored = [record for record in records if record["after"] == after]
        probes = [probe for record in scored for probe in record["outcomes"] if probe.cell == CELL]
        caught = [probe for probe in probes if probe.fired]
        own = [probe for probe in caught if domain(probe.entry) == probe.tags["domain"]]
        other = [probe for probe in caught if domain(probe.entry) != probe.tags["domain"]]
        shares = " | ".join(f"{sum(bool(probe.same) for probe in some)} of {len(some)}" for some in (own, other))
        kept = sum(bool(probe.same) for probe in probes)
        print(f"| {after} | {len(probes)} | {len(caught)} | {kept} | {shares} |")
    longest = Counter(domain(record["case"]) for record in records if record["after"] == afters[-1])
    print(f"\nEdits of the longest sequence by domain, in order: {dict(longest)}")


if __name__ == "__main__":
    main()
