"""Teaches a model many facts in a row and asks all of them again: how many are retained, and what became of other pictures?

    .venv/bin/python benchmarks/retained.py --benchmarks icons icons-held-out --at 1 10 50 200 1000

The facts are the edits of the benchmarks' test splits, one after the other in this order, with the editor's default settings.
After each number of edits all requests made so far are asked again, answers generated, and so are `--unrelated` questions about
random pictures for which no edit was made, whose answers the unedited model gave before. It is the sequential protocol of
`vledit bench` without its other cells, so that a thousand edits take minutes.

Prints shares with Wilson 95 % intervals, names what was lost, and writes all to a file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from vledit.cli.benchmark_files import BenchmarkFiles
from vledit.cli.session import open_model
from vledit.data.case import Probe
from vledit.evaluate.bootstrap import Estimate, share_interval


def facts(names: list[str], split: str, most: int) -> tuple[list, list[Probe]]:
    """(requests, one unrelated probe of each), what asks for an edited fact left out."""
    cases = [case for name in names for case in BenchmarkFiles.of(name).cases(split, 0, sequence=True)]
    cases = cases[:most] if most else cases
    edited = {case.tags.get("fact") for case in cases}
    probes = [probe for case in cases for probe in case.locality.get("random_image", ())[:1]]
    return [case.request for case in cases], [probe for probe in probes if probe.tags.get("fact") not in edited]


def answered(model, asked: list[tuple], rows: int = 8) -> list[str]:
    """The answers to (picture, question) pairs."""
    found: list[str] = []
    for start in range(0, len(asked), rows):
        images, questions = zip(*asked[start : start + rows], strict=True)
        found += [str(one) for one in model.answers(images, questions)]
    return found


def share(right: list[bool]) -> Estimate:
    """How many of how many, with an interval unless they are few."""
    return share_interval(np.array(right, dtype=float))


def recorded(found: Estimate | None) -> dict | None:
    """As it stands in the file."""
    if found is None:
        return None
    ends = {"low": found.low, "high": found.high} if found.has_interval else {"low": None, "high": None}
    return {"n": found.n, "share": found.mean, **ends}


def asked_again(model, requests: list, others: list[tuple], before: list[str]) -> dict:
    """What is retained of `requests`, what is lost, and how many of the other questions keep the answers `before`."""
    told = answered(model, [(one.image, one.question) for one in requests])
    kept = [now == then for now, then in zip(answered(model, others), before, strict=True)]
    lost = [
        {"question": one.question, "answer": one.answer, "now": text, "id": one.id}
        for one, text in zip(requests, told, strict=True)
        if text != one.answer
    ]
    right = [text == one.answer for one, text in zip(requests, told, strict=True)]
    return {"retained": share(right), "random_image_preserved": share(kept) if kept else None, "lost": lost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", nargs="+", default=["icons", "icons-held-out"])
    parser.add_argument("--split", default="test")
    parser.add_argument("--at", type=int, nargs="+", default=[1, 10, 50, 200, 1000], help="score after so many edits")
    parser.add_argument("--editor", default="balancedit")
    parser.add_argument("--unrelated", type=int, default=100, help="questions about random pictures")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, default=Path("retained.json"))
    options = parser.parse_args()
    requests, probes = facts(options.benchmarks, options.split, max(options.at))
    points = sorted({min(one, len(requests)) for one in options.at})
    model = open_model(options.model, options.device, options.dtype)
    step = max(len(probes) // options.unrelated, 1) if options.unrelated else len(probes) + 1
    others = [(probe.image, probe.question) for probe in probes[::step]][: options.unrelated]
    before = answered(model, others)
    rows, done, began = [], 0, time.process_time()
    for point in points:
        model.edit(requests[done:point], options.editor, check=False)
        done = point
        spent = time.process_time() - began
        row = {"edits": done, "active": len(model.codebook.active()), "cpu_seconds": round(spent, 1)}
        row |= asked_again(model, requests[:done], others, before)
        shares = {name: row[name] for name in ("retained", "random_image_preserved")}
        rows.append(row | {name: recorded(one) for name, one in shares.items()})
        text = ", ".join(f"{name} {one}" for name, one in shares.items() if one is not None)
        print(f"{done} edits, {row['active']} active: {text}", flush=True)
        for one in row["lost"][:5]:
            print(f"  lost: {one['question']} → {one['answer']}; now {one['now']}", flush=True)
        about = {
            "benchmarks": options.benchmarks,
            "split": options.split,
            "editor": options.editor,
            "model": options.model,
        }
        about |= {"device": options.device, "dtype": options.dtype, "date": datetime.now(UTC).isoformat()}
        about |= {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "points": rows}
        options.out.write_text(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
