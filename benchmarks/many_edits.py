"""Makes many edits from a CSV file, is killed twice on the way, and compares the codebook with that of an undisturbed run.

    python benchmarks/many_edits.py --edits 1000 --out many_edits.json

The table asks for as many edits as given, each about a picture of its own, and has 20 rows that cannot be used. It is given to
`vledit edit --from` twice: once the command runs to its end; the other time it is killed (SIGKILL) after a third and after two
thirds of the edits, and started again each time. The model is a small random one (tests/vlm/models.py), so the figures say
nothing about what a model learns: what is checked is that no edit is lost, doubled or different.

Prints the figures and writes them to a file. Exits with 1 if an unfit row is not named, an edit is missing, or the codebooks
differ.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.vlm.models import build  # noqa: E402

from vledit.codebook import Codebook  # noqa: E402

QUESTION = "What is in the picture?"
ANSWERS = [
    "two cups",
    "a cat",
    "the sea",
    "tea",
    "golden retriever",
    "a red kite",
    "nothing",
    "an old map",
    "Lima",
    "seven",
]
SETTINGS = ["steps=200", "learning_rate=0.05", "margin=1.0", "rephrase=supplied"]


def write_table(folder: Path, edits: int, unfit: int, seed: int) -> list[int]:
    """Pictures and `edits.csv`; returns the lines of the rows that cannot be used."""
    random = np.random.default_rng(seed)
    rows = []
    for n in range(edits):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((48, 48)).save(folder / f"{n}.png")
        rows.append([f"{n}.png", QUESTION, ANSWERS[n % len(ANSWERS)], "What can be seen?", f"edit-{n}", f"row {n}"])
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    faults = [
        ["nowhere.png", QUESTION, "tea", "", "", "no such picture"],
        ["broken.png", QUESTION, "tea", "", "", "a damaged picture"],
        ["0.png", "", "tea", "", "", "no question"],
        ["0.png", QUESTION, "", "", "", "no answer"],
        ["0.png", QUESTION, "word " * 300, "What can be seen?", "", "an answer that is too long"],
        ["0.png", QUESTION, "tea", "a cell too many", "", "x", "y"],
    ]
    places = sorted(random.choice(edits, unfit, replace=False).tolist(), reverse=True)
    for number, place in enumerate(places):
        rows.insert(place, faults[number % len(faults)])
    with (folder / "edits.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["image", "question", "answer", "rephrases", "id", "note"], *rows])
    return [line for line, row in enumerate(rows, start=2) if row in faults]


def command(folder: Path, codebook: str, *more: str) -> list[str]:
    settings = [part for one in SETTINGS for part in ("--set", one)]
    where = [
        "--from",
        str(folder / "edits.csv"),
        "--codebook",
        str(folder / codebook),
        "--model",
        str(folder / "model"),
    ]
    return [sys.executable, "-m", "vledit", "edit", *where, *settings, "--skip-unfit", "--json", *more]


def run(folder: Path, codebook: str, kill_at: int | None = None) -> dict[str, Any]:
    """One run of the command; where `kill_at` edits are in the codebook it is killed.  Returns its report, or {}."""
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    more = ["--report", str(folder / f"{codebook}.json")]
    log = (folder / "log.txt").open("a")
    process = subprocess.Popen(
        command(folder, codebook, *more), env=surroundings, stdout=subprocess.DEVNULL, stderr=log
    )
    while process.poll() is None:
        if kill_at is not None and held(folder / codebook) >= kill_at:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return {}
        time.sleep(0.1)
    if kill_at is not None or process.returncode:
        tail = (folder / "log.txt").read_text()[-2000:]
        raise SystemExit(f"the run ended with {process.returncode}; it was to be killed at {kill_at}.\n{tail}")
    return json.loads((folder / f"{codebook}.json").read_text())


def held(path: Path) -> int:
    """How many entries are in the file, at little cost."""
    if not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute("SELECT count(*) FROM entries").fetchone()[0]


def content(path: Path) -> list[Any]:
    """All that the entries are, but for the time at which they were made."""
    with Codebook.open(path, readonly=True) as book:
        return [
            [e.id, e.question, e.answer, e.image_key, e.status, e.retired_by, e.site, dict(e.notes)]
            + [(s.name, s.key.tobytes(), s.radius, s.anchors) for s in e.scopes]
            + [(name, tensor.numpy().tobytes()) for name, tensor in e.transformation.tensors().items()]
            for e in book.entries()
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--unfit", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", default="pocket", help="of the small random model")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vlm = build(given.family)
        vlm.model.save_pretrained(folder / "model")
        vlm.processor.save_pretrained(folder / "model")
        lines = write_table(folder, given.edits, given.unfit, given.seed)
        began = time.perf_counter()
        whole = run(folder, "whole.vledit")
        seconds = time.perf_counter() - began
        print(f"undisturbed: {whole['made']} edits in {seconds:.0f} s", flush=True)
        kept = []
        for part in (1, 2):
            run(folder, "killed.vledit", kill_at=given.edits * part // 3)
            kept.append(held(folder / "killed.vledit"))
            print(f"killed after {kept[-1]} edits", flush=True)
        last = run(folder, "killed.vledit")
        found = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
            "edits": given.edits,
            "unfit_rows": given.unfit,
            "unfit_rows_named": sorted({one["line"] for one in whole["unfit"]}) == lines,
            "made": whole["made"],
            "failed": whole["failed"],
            "right_at_the_check": sum(row["right"] is True for row in whole["rows"]),
            "seconds_undisturbed": round(seconds, 1),
            "edits_in_the_file_after_each_kill": kept,
            "there_at_the_last_start": last["there"],
            "same_codebook": content(folder / "whole.vledit") == content(folder / "killed.vledit"),
            "codebook_bytes": (folder / "whole.vledit").stat().st_size,
        }
    print(json.dumps(found, indent=2))
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    right = found["same_codebook"] and found["unfit_rows_named"] and last["there"] >= kept[-1]
    return 0 if right and found["made"] == given.edits else 1


if __name__ == "__main__":
    sys.exit(main())
