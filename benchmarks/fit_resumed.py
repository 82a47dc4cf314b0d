"""`vledit fit` killed with SIGKILL at random moments and started again: does it end with what the undisturbed run learns?

    .venv/bin/python benchmarks/fit_resumed.py --editors mend,serac --steps 8 --cases 6 --kills 2 --out RUNS

Settings without a time budget, with which a fitting is a function of its settings.  Each kill comes after a random share of the
seconds that the undisturbed run took; the last start is left alone.  Compared: the learnt numbers, byte by byte, and the learning
curve without its seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from safetensors import safe_open

from vledit.editors.training.loop import CHECKPOINT, read_log

WEIGHTS = "weights.safetensors"


def command(options: argparse.Namespace, editor: str, folder: Path) -> list[str]:
    """One start of the fitting."""
    found = [sys.executable, "-m", "vledit", "fit", "--editor", editor, "--out", str(folder), "--dtype", "float32"]
    found += ["--steps", str(options.steps), "--save-every", str(options.save_every)]
    for text in (f"cases={options.cases}", "per_cell=1", "log_every=1", *options.set):
        found += ["--set", text]
    return found


def started(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(words, stdout=log.open("ab"), stderr=subprocess.STDOUT, start_new_session=True)


def step_of(folder: Path) -> int:
    """The step of the checkpoint that is there; 0 without one."""
    if not (folder / CHECKPOINT).exists():
        return 0
    with safe_open(str(folder / CHECKPOINT), "pt") as file:
        return int(json.loads(file.metadata()["about"])["step"])


def curve(folder: Path) -> list[dict[str, float]]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in read_log(folder)]


def tried(options: argparse.Namespace, editor: str) -> dict[str, Any]:
    """The undisturbed run, and the one that is killed."""
    draw = random.Random(f"{options.seed}/{editor}")
    whole, cut = options.out / editor / "whole", options.out / editor / "cut"
    shutil.rmtree(options.out / editor, ignore_errors=True)
    whole.parent.mkdir(parents=True)
    log = whole.parent / "output.txt"
    began = time.monotonic()
    if code := started(command(options, editor, whole), log).wait():
        raise SystemExit(f"{editor}: the undisturbed run ended with {code}; see {log}")
    seconds, kept = time.monotonic() - began, []
    began = time.monotonic()
    for _ in range(options.kills):
        process = started(command(options, editor, cut), log)
        try:
            process.wait(seconds * draw.uniform(0.3, 0.95))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        kept.append(step_of(cut) if not (cut / "manifest.json").exists() else options.steps)
    if code := started(command(options, editor, cut), log).wait():
        raise SystemExit(f"{editor}: the last start ended with {code}; see {log}")
    return {
        "editor": editor,
        "steps": len(curve(whole)),
        "kept": kept,
        "same": (whole / WEIGHTS).read_bytes() == (cut / WEIGHTS).read_bytes(),
        "curve": curve(whole) == curve(cut),
        "seconds": seconds,
        "again": time.monotonic() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--editors", default="mend,serac")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--save-every", type=int, default=2)
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE, a setting of every fitting")
    parser.add_argument("--out", type=Path, default=Path("fit_resumed"))
    options = parser.parse_args()
    print(
        "| editor | steps | steps kept at each kill | same numbers | same curve | seconds, undisturbed | seconds, killed |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    failed = False
    for editor in options.editors.split(","):
        found = tried(options, editor)
        kept = ", ".join(map(str, found["kept"]))
        yes = ["yes" if found[name] else "NO" for name in ("same", "curve")]
        times = f"{found['seconds']:.0f} | {found['again']:.0f}"
        print(f"| `{editor}` | {found['steps']} | {kept} | {yes[0]} | {yes[1]} | {times} |", flush=True)
        failed = failed or "NO" in yes
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
