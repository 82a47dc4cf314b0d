"""Benchmarks by name: lazy, open to other packages, and helpful about near misses."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from vledit.data import benchmarks
from vledit.data.benchmarks import Benchmark
from vledit.data.case import EditCase, EditRequest
from vledit.data.fingerprint import Fingerprint
from vledit.data.reading import Files, Reading
from vledit.errors import InputError, UnknownNameError

from .miniature_benchmarks import ENTITY, draw, pictures_of, write_json

CASES = tuple(EditCase(EditRequest(None, f"question {n}?", "an answer", (), f"mine/{n}"), {}, {}) for n in range(7))
MINE = Benchmark(
    "mine", "made up", "nowhere", lambda files: Reading("mine", Fingerprint("0" * 64, {}), 7, CASES), from_files=False
)


def test_every_benchmark_is_described():
    for name in benchmarks.names():
        one = benchmarks.benchmark(name)
        assert one.name == name
        assert one.about
        assert one.where


def test_a_near_miss_is_suggested():
    with pytest.raises(UnknownNameError, match="Did you mean 'vlkeb'"):
        benchmarks.benchmark("vklebs")


def test_other_packages_add_theirs(monkeypatch: pytest.MonkeyPatch):
    point = EntryPoint("mine", f"{__name__}:MINE", benchmarks.GROUP)
    monkeypatch.setattr(benchmarks, "entry_points", lambda group: [point] if group == benchmarks.GROUP else [])
    assert "mine" in benchmarks.names()
    assert [case.id for case in benchmarks.load("mine", Files())] == [case.id for case in CASES]
    with pytest.raises(InputError, match="takes no --annotations"):
        benchmarks.load("mine", Files(Path("x.json")))
    with pytest.raises(UnknownNameError, match="unknown split 'dev'"):
        benchmarks.load("mine", Files(split="dev"))


def test_files_that_are_not_given_are_asked_for(tmp_path: Path):
    with pytest.raises(InputError, match="no annotation file is given"):
        benchmarks.load("evqa", Files())
    path = write_json(tmp_path / "a.json", [ENTITY])
    with pytest.raises(InputError, match="there is no folder"):
        benchmarks.load("vlkeb", Files(path, (tmp_path / "absent",)))


def test_pictures_are_looked_up_beside_the_annotations_unless_told(tmp_path: Path):
    path = write_json(tmp_path / "eval.json", [ENTITY])
    draw(tmp_path / "VLKEB_images", *pictures_of(ENTITY))
    (case,) = benchmarks.load("vlkeb", Files(path))
    assert case.request.image == tmp_path / "VLKEB_images" / ENTITY["image"]


def test_a_limit_is_spread_evenly():
    assert benchmarks.spread(list(range(10)), 3) == [0, 3, 6]
    assert benchmarks.spread([1, 2], 0) == benchmarks.spread([1, 2], 9) == [1, 2]
    with pytest.raises(InputError, match="limit"):
        benchmarks.spread([1], -1)


def test_a_reader_that_loses_a_record_is_caught():
    with pytest.raises(ValueError, match="8 records were read, 7 are accounted for"):
        Reading("mine", Fingerprint("", {}), 8, CASES)


def test_one_benchmark_loads_neither_the_others_nor_anything_heavy():
    code = (
        "import sys; from vledit.data import benchmarks; benchmarks.benchmark('vlkeb');"
        "heavy = ('torch', 'transformers', 'numpy', 'PIL', 'vledit.data.evqa', 'vledit.data.okedit');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
