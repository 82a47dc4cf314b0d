"""Every image-text-to-text type of the installed transformers is what `docs/models_census.md` says of it."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import transformers

ROOT = Path(__file__).resolve().parents[2]
LEAST = 72
"""So many types must have a site."""


@pytest.fixture(scope="module")
def census():
    """benchmarks/census.py as a module."""
    spec = spec_from_file_location("census", ROOT / "benchmarks" / "census.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def told(census):
    return json.loads(census.TWIN.read_text())


def test_every_type_is_as_the_table_says(census, told):
    found = census.census()
    differs = {
        kind: (told["types"].get(kind), one)
        for kind, one in found["types"].items()
        if one != told["types"].get(kind) and not census.needs_a_package(one)
    }
    gone = set(told["types"]) - set(found["types"])
    version = f"transformers {transformers.__version__}, the table {told['transformers']}"
    assert not differs, f"run benchmarks/census.py and read what is new ({version})"
    assert not gone, version


def test_each_has_a_site_or_a_reason(told):
    for kind, one in told["types"].items():
        assert bool(one["sites"]) != bool(one["reason"]), kind
    assert sum(bool(one["sites"]) for one in told["types"].values()) >= LEAST


def test_the_page_says_what_the_table_holds(census, told):
    assert census.PAGE.read_text() == census.page(told, told["date"]), "run benchmarks/census.py"
