"""Every editor on every protocol of `icons`, fitted first where it has a part to fit; as many processes as the machine bears.

    .venv/bin/python benchmarks/leaderboard.py --runs runs/leaderboard --jobs 2
    .venv/bin/python benchmarks/leaderboard.py --runs runs/leaderboard --jobs 16 --device cuda --seconds 400 --fit-minutes 3

    python benchmarks/leaderboard.py --pack PACK --no-fits --jobs 16 --device cuda    on a machine without data: see packed.py

Each fit and each (protocol, editor) is one process of `vledit fit` or `vledit bench` with a log and a results file of its own, so
a run that ends at `--seconds`, or is killed, goes on with the same command where each file stopped; what is finished is not run
again.
Protocols, each on the test split, no rephrases supplied:

    single      one edit at a time, with De-VQA's 16 cells
    sequential  1, 10, 50, 200 edits in sequence, the cell "retained" among the rest
    text        200 facts without a picture in the same words, in sequence
    facts       several facts about one picture, in sequence

`vledit report RUNS/single/*.jsonl --out page.html` makes the page of them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fit_all import SETTINGS as FITTED

EDITORS: Mapping[str, str] = {
    "balancedit": "balancedit",
    "balancedit-span": "balancedit:transformation=span",
    "balancedit-paper": "balancedit:scope=paper",
    "ft": "ft",
    "ft-1e-2": "ft:learning_rate=0.01",
    "ft_v": "ft_v",
    "mend": "mend",
    "mend_adv": "mend_adv",
    "serac": "serac",
    "t_patcher": "t_patcher",
    "grace": "grace",
    "ike": "ike",
    "lte": "lte",
    "recipe": "recipe",
    "lemoe": "lemoe",
    "liveedit": "liveedit",
    "hice": "hice",
    "ft-adv": "ft:adversarial=all",
    "balancedit-adv": "balancedit:adversarial=all",
}
"""Name in the tables → what `vledit bench --editors` is given."""


@dataclass(frozen=True)
class Job:
    """One process: its name (also of its log), the arguments of `vledit`, the names of the jobs that come first."""

    name: str
    arguments: tuple[str, ...]
    after: tuple[str, ...] = ()
    seconds: float = 0.0


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    """All there is to do, the most wanted first."""
    common = ("--device", options.device, "--dtype", options.dtype)
    others = f",companions={options.pack / 'companions.csv'}" if options.pack else ""
    batch = () if options.device == "cpu" else ("--batch-tokens", "8192")
    chosen = {name: spec for name, spec in EDITORS.items() if name in (options.only or EDITORS)}
    for name in chosen:
        if name in FITTED and not options.no_fits:
            seconds = options.fit_minutes * 60
            yield Job(f"fit-{name}", ("fit", "--editor", name, *common), seconds=seconds)
    for protocol in options.protocols:
        for name, spec in chosen.items():
            out = options.runs / protocol / f"{name}.jsonl"
            if _finished(out):
                continue
            spec += others if "adversarial" in spec else ""
            after = (f"fit-{name}",) if name in FITTED and not options.no_fits else ()
            yield Job(
                f"{protocol}-{name}",
                (
                    "bench",
                    "--editors",
                    f"{name}={spec}",
                    *_protocol(protocol, options),
                    *common,
                    *batch,
                    "--out",
                    str(out),
                ),
                after,
            )


def _protocol(name: str, options: argparse.Namespace) -> tuple[str, ...]:
    at = lambda most: ",".join(str(n) for n in (*(n for n in (1, 10, 50, 200, 1000) if n < most), most))  # noqa: E731
    probes = ("--probes", str(options.probes), "--texts", "0")
    sequence = ("--protocol", "sequential", "--exact-only")
    benchmark = {"text": "icons-text", "facts": "icons-facts"}.get(name, "icons")
    data: tuple[str, ...] = ("--benchmark", benchmark)
    if options.pack:
        file = {"single": "single", "sequential": "sequence"}.get(name, name)
        data = ("--benchmark", "cases", "--annotations", str(options.pack / f"{file}.jsonl"))
    if name == "single":
        return (*data, "--limit", str(options.edits), *(() if options.pack else ("--devqa",)), *probes)
    return (*data, "--limit", str(options.sequence), *sequence, "--at", at(options.sequence), *probes)


def _finished(path: Path) -> bool:
    if not path.exists():
        return False
    lines = path.read_bytes().splitlines()
    return bool(lines) and b'"end"' in lines[-1][:8]


def run(todo: list[Job], options: argparse.Namespace) -> dict[str, dict]:
    """Runs the jobs, `options.jobs` at a time; name → how it ended. At `options.seconds` all are asked to stop."""
    began = time.monotonic()
    until = began + options.seconds if options.seconds else float("inf")
    logs = options.runs / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    running: dict[str, tuple[subprocess.Popen, float, Job]] = {}
    ended: dict[str, dict] = {}
    names = {job.name for job in todo}
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    packed = (str(Path(__file__).parent / "packed.py"), "use", str(options.pack))
    program = packed if options.pack else ("-c", "from vledit.cli import main; main()")
    while todo or running:
        now = time.monotonic()
        for name, (process, since, job) in list(running.items()):
            if process.poll() is not None:
                ended[name] = {"code": process.returncode, "seconds": round(now - since, 1)}
                print(f"{now - began:6.0f} s  {name}: exit {process.returncode} after {now - since:.0f} s", flush=True)
                del running[name]
            elif job.seconds and now - since > job.seconds + 60:
                process.send_signal(signal.SIGKILL)  # a fit stops at its budget by itself; this one does not
        if now > until:
            for process, _, _ in running.values():
                process.send_signal(signal.SIGTERM)
            time.sleep(2)
            for name, (process, since, _) in running.items():
                process.kill()
                ended[name] = {"code": None, "seconds": round(now - since, 1)}
            break
        ready = [job for job in todo if all(name not in names or name in ended for name in job.after)]
        if ready and len(running) < options.jobs:
            job = ready[0]
            todo.remove(job)
            with open(logs / f"{job.name}.log", "ab") as log:
                process = subprocess.Popen(
                    [sys.executable, *program, *job.arguments],
                    stdout=log,
                    stderr=log,
                    env=environment,
                )
            running[job.name] = process, now, job
            continue
        time.sleep(0.2)
    for job in todo:
        ended[job.name] = {"code": None, "seconds": 0.0}
    return ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/leaderboard"))
    parser.add_argument("--only", action="append", choices=tuple(EDITORS), help="these editors alone; may be repeated")
    parser.add_argument("--protocols", nargs="+", default=["single", "sequential", "text", "facts"])
    parser.add_argument("--edits", type=int, default=300, help="edits of the single protocol")
    parser.add_argument("--sequence", type=int, default=200, help="edits of each sequence")
    parser.add_argument("--probes", type=int, default=4, help="most probes of each cell")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument("--seconds", type=float, default=0, help="stop all after this time; 0: run to the end")
    parser.add_argument("--fit-minutes", type=float, default=20, help="most that one fit may take")
    parser.add_argument("--no-fits", action="store_true", help="use what is fitted already")
    parser.add_argument(
        "--pack", type=Path, help="edits and vectors of benchmarks/packed.py, in place of the benchmarks"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    ended = run(list(jobs(options)), options)
    (options.runs / "jobs.json").write_text(json.dumps(ended, indent=1))


if __name__ == "__main__":
    main()
