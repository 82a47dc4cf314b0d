"""What a training log says: seconds a step, and how a figure went, as the tables of `docs/experiments.md` have it.

    .venv/bin/python benchmarks/training_log.py training_logs/training_in_turn.jsonl --stage answer --value answer --every 334

Prints one Markdown table: the mean of the log's records over every so many steps (each record is the mean of 20 steps).
Of steps that were done twice, because the run was stopped and resumed, the later counts.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean, median
from typing import Any

from vledit.pocket.curves import read_log
from vledit.pocket.train import STAGES


def stage_records(log: Path, stage: str) -> list[dict[str, Any]]:
    """The records with losses of one stage, by step."""
    return [record for record in read_log(log) if record["stage"] == stage and "seconds" in record]


def table(records: list[dict[str, Any]], value: str, every: int) -> list[str]:
    """Markdown: up to which step, and the mean of `value` since the column before.

    Raises: ValueError where no record has that value.
    """
    parts: dict[int, list[float]] = {}
    for record in records:
        if value in record:
            parts.setdefault((record["step"] - 1) // every, []).append(record[value])
    if not parts:
        known = sorted({name for r in records for name, v in r.items() if isinstance(v, float)} - {"time"})
        raise ValueError(f"no record has '{value}'; they have {', '.join(known) or 'nothing'}")
    ends = [min((part + 1) * every, records[-1]["step"]) for part in parts]
    rows = [["up to step", *map(str, ends)], ["---"] * (len(ends) + 1)]
    rows.append([value, *(f"{fmean(found):.2f}" for found in parts.values())])
    return ["| " + " | ".join(row) + " |" for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, help="log.jsonl of a training")
    parser.add_argument("--stage", choices=STAGES, default=STAGES[-1])
    parser.add_argument(
        "--value", default="answer", help="a name in the log's records: answer, right, recognition, ..."
    )
    parser.add_argument("--every", type=int, default=200, help="steps of a column")
    given = parser.parse_args()
    records = stage_records(given.log, given.stage)
    if not records:
        parser.error(f"{given.log} has no record of stage {given.stage}")
    try:
        lines = table(records, given.value, given.every)
    except ValueError as error:
        parser.error(f"--value: {error}")
    seconds = [record["seconds"] for record in records]
    print(f"{given.stage}: {records[-1]['step']} steps, {median(seconds):.2f} s a step (median)\n", *lines, sep="\n")


if __name__ == "__main__":
    main()
