"""Fits every editor that learns something before its first edit, all at once, each in a process of its own with a time budget.

    .venv/bin/python benchmarks/fit_all.py run --minutes 18                        here, on the training split of icons
    .venv/bin/python benchmarks/fit_all.py pack PACK --cases 300                   what a machine needs that has no data
    python benchmarks/fit_all.py run --pack PACK --device cuda --minutes 3 --out fits --tar      there
    .venv/bin/python benchmarks/fit_all.py ship fits                               back here: into the package, and the curves

A pack holds the training edits as a file of cases with their pictures, and the sentence vectors of every text that a fitting asks
for, so that the other machine needs no sentence encoder.  A run that is started again goes on; an editor that did not end in its
time is ended, and has its last checkpoint.  Options of each fitting are in `SETTINGS`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

from packed import use, write_cases, write_texts

ROOT = Path(__file__).parent.parent
MINUTES = 18.0
SETTINGS: dict[str, dict[str, Any]] = {
    "serac": {"steps": 2000, "batch": 4, "cases": 300},
    "lte": {"steps": 2000, "batch": 4, "cases": 300},
    "recipe": {"steps": 4000, "batch": 6, "cases": 300, "contrast_steps": 8},
    "liveedit": {"steps": 4000, "batch": 6, "cases": 300, "width": 192, "routing_steps": 4},
    "mend": {"steps": 1500, "cases": 150},
    "mend_adv": {"steps": 1500, "cases": 150},
    "hice": {"cases": 150},
}
"""Editor → settings of its fitting; the time budget ends those that have more steps than time."""
CURVED = tuple(name for name in SETTINGS if name != "hice")
"""Editors with a learning curve; the gate of hice is solved for in closed form."""
WORDINGS = 4
"""Questions of a cell that a pack keeps where they are about the edit's own picture: `recipe` reads more of them than one."""
LARGEST = 8_000_000
GRACE = 60.0
"""Seconds beyond its budget after which a fitting is ended: its last step and writing are not in it."""


# --- a pack -------------------------------------------------------------------------------------------------------------


def pack(folder: Path, count: int, seed: int) -> None:
    """Writes the pack."""
    from vledit.cli.benchmark_files import BenchmarkFiles
    from vledit.data.benchmarks import spread
    from vledit.data.devqa import DevQA, index_of
    from vledit.editors.training.cases import training_case

    folder.mkdir(parents=True, exist_ok=True)
    pool = BenchmarkFiles.of("icons", None, None, None, False, False, False, "").cases("train")
    # with the cells of De-VQA, which only `mend_adv` asks for and chooses by name
    wrapped = DevQA(pool, index_of(pool), seed).wrap_all(spread(list(pool), count if count < len(pool) else 0))
    cases = [with_wordings(training_case(case, 1, seed), training_case(case, WORDINGS, seed)) for case in wrapped]

    found = write_cases(cases, folder / "cases.jsonl")
    texts = write_texts(found, folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(
        f"{len(found)} edits, {len(list((folder / 'pictures').iterdir()))} pictures, {texts} texts: {size / 1e6:.1f} MB"
    )


def with_wordings(case: Any, wide: Any) -> Any:
    """The case with those probes of a wider one, too, that ask about the edit's own picture."""
    from dataclasses import replace

    from vledit.editors.recipe_fit import same_picture

    def more(family: str, cell: str, probes: Any) -> Any:
        own = [one for one in getattr(wide, family)[cell] if same_picture(one.image, case.request.image)]
        asked = {one.question for one in probes}
        return (*probes, *(one for one in own if one.question not in asked))

    cells = {
        family: {cell: more(family, cell, probes) for cell, probes in getattr(case, family).items()}
        for family in ("generality", "locality")
    }
    return replace(case, **cells)


# --- fitting ------------------------------------------------------------------------------------------------------------


def one(options: argparse.Namespace) -> None:
    """Fits one editor in this process; what it takes to begin counts, too."""
    started = time.monotonic()
    import torch

    torch.set_num_threads(options.threads)
    if options.device != "cpu":
        torch.backends.cuda.matmul.allow_tf32 = True
    from vledit.cli.benchmark_files import BenchmarkFiles
    from vledit.cli.session import open_model
    from vledit.editors.training.fitting import Fitting, fitting_class

    if options.pack:
        use(options.pack)
        annotations = options.pack / "cases.jsonl"
        files = BenchmarkFiles.of("cases", annotations, [options.pack], None, False, False, False, "")
        cases = files.cases("train")
    else:
        retriever = "all-MiniLM-L6-v2" if options.editor == "mend_adv" else ""
        files = BenchmarkFiles.of("icons", None, None, None, False, False, False, retriever)
        cases = files.cases("train")
    method = fitting_class(options.editor)
    given = {"half": True, "per_cell": 1, "seed": 0, "save_every": 200, "log_every": 10, **SETTINGS[options.editor]}
    if options.cases:
        given["cases"] = options.cases
    if options.steps:
        given["steps"] = options.steps
    vlm = open_model("pocket", options.device, "float32").vlm
    if options.editor in CURVED:
        given["minutes"] = max(options.minutes - (time.monotonic() - started) / 60, 0.05)
    settings = method.FitConfig.from_settings(given)
    began = time.perf_counter()

    def progress(step: int, steps: int, losses: Any) -> None:
        if step in (1, 2, 5, 10) or step % 50 == 0:
            said = ", ".join(f"{name} {float(value):.3g}" for name, value in losses.items())
            print(f"{options.editor} {step}/{steps} {time.perf_counter() - began:.0f} s: {said}", flush=True)

    fitting = Fitting(vlm, cases, options.out / options.editor, settings, files.about("train"), progress=progress)
    method.fit(fitting)


def run(options: argparse.Namespace) -> None:
    """Fits them all; prints what came of each."""
    options.out.mkdir(parents=True, exist_ok=True)
    names = options.editors.split(",") if options.editors else list(SETTINGS)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{os.environ.get('PYTHONPATH', '')}"}
    environment["OMP_NUM_THREADS"] = str(options.threads)
    began, running = time.monotonic(), {}
    for name in names:
        command = [sys.executable, str(Path(__file__)), "one", "--editor", name, "--device", options.device]
        command += ["--minutes", str(options.minutes), "--out", str(options.out), "--threads", str(options.threads)]
        command += ["--cases", str(options.cases), "--steps", str(options.steps)]
        command += ["--pack", str(options.pack)] if options.pack else []
        log = (options.out / f"{name}.txt").open("w")
        running[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    limit = began + 60 * options.minutes + options.grace
    codes: dict[str, int | None] = {}
    while running:
        time.sleep(1.0)
        for name, process in list(running.items()):
            if process.poll() is None and time.monotonic() > limit:
                process.kill()
                process.wait()
            if process.poll() is not None:
                codes[name] = process.returncode
                del running[name]
                print(f"{name}: {told(options.out, name, process.returncode)}", flush=True)
                if options.tar:
                    with tarfile.open(options.tar / f"{name}.tar", "w") as archive:
                        for path in kept_files(options.out / name):
                            archive.add(path, f"{name}/{path.name}")
                        archive.add(options.out / f"{name}.txt", f"{name}.txt")
    if any(codes.values()):
        raise SystemExit(1)


def kept_files(folder: Path) -> list[Path]:
    names = ("manifest.json", "weights.safetensors", "log.jsonl", "run.json")
    return [folder / name for name in names if (folder / name).exists()]


def told(out: Path, name: str, code: int) -> str:
    """What came of one fitting, in words."""
    manifest = out / name / "manifest.json"
    if not manifest.exists():
        lines = (out / f"{name}.txt").read_text().splitlines() or ["it said nothing"]
        return f"not fitted (exit {code}): {lines[-1]}"
    about, size = json.loads(manifest.read_text()), (out / name / "weights.safetensors").stat().st_size
    written = out / name / "log.jsonl"
    log = written.read_text().splitlines() if written.exists() else []
    said = f"{about['steps']} steps, {about['seconds']} s, {size / 1e6:.1f} MB; {log[-1] if log else ''}"
    return said + (" TOO LARGE to ship" if size > LARGEST else "")


def ship(options: argparse.Namespace) -> None:
    """Copies what was fitted into the package, and draws the curves into docs/images."""
    from vledit.editors.training.curves import draw

    for archive in sorted(options.out.glob("*.tar")):
        with tarfile.open(archive) as found:
            found.extractall(options.out, filter="data")
    for name in options.editors.split(",") if options.editors else SETTINGS:
        folder = options.out / name
        if not (folder / "manifest.json").exists():
            print(f"{name}: not there")
            continue
        manifest = json.loads((folder / "manifest.json").read_text())
        size = (folder / "weights.safetensors").stat().st_size
        if size > LARGEST:
            print(f"{name}: {size / 1e6:.1f} MB, too large to ship")
            continue
        target = ROOT / "src" / "vledit" / "editors" / "fitted" / f"{name}-{manifest['model']['fingerprint'][:16]}"
        target.mkdir(parents=True, exist_ok=True)
        for path in kept_files(folder):
            if path.name != "run.json":
                shutil.copy(path, target / path.name)
        if name in CURVED:
            where = f"{manifest['data'].get('benchmark')}, {manifest['data']['cases']} edits"
            draw(folder, ROOT / "docs" / "images" / f"fit_{name}.svg", f"{name}, {manifest['model']['name']}, {where}")
        print(f"{name}: {target.relative_to(ROOT)}, {size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("folder", type=Path)
    packing.add_argument("--cases", type=int, default=300)
    for name in ("run", "one", "ship"):
        some = commands.add_parser(name)
        some.add_argument("--editors" if name != "one" else "--editor", default="")
        if name == "ship":
            some.add_argument("out", type=Path)
            continue
        some.add_argument("--out", type=Path, default=Path("fits"))
        some.add_argument("--pack", type=Path)
        some.add_argument("--device", default="cpu")
        some.add_argument("--minutes", type=float, default=MINUTES)
        some.add_argument("--cases", type=int, default=0)
        some.add_argument("--steps", type=int, default=0, help="of every fitting, so that they are trained alike")
        some.add_argument("--threads", type=int, default=1)
        some.add_argument("--grace", type=float, default=GRACE)
        some.add_argument("--tar", type=Path)
    options = parser.parse_args()
    if options.command == "pack":
        pack(options.folder, options.cases, 0)
    else:
        {"run": run, "one": one, "ship": ship}[options.command](options)


if __name__ == "__main__":
    main()
