"""The list of models: aliases in one row, what is proven from the contract suite's own file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from vledit import catalogue
from vledit.errors import MissingDataError
from vledit.vlm import registry
from vledit.vlm.published import Published


def test_every_family_and_every_checkpoint_once():
    rows = catalogue.models()
    assert rows[0].name == "pocket"
    assert {row.family for row in rows} == set(registry.family_names())
    assert max(Counter(row.source for row in rows if row.name).values()) == 1
    names = [name for row in rows for name in (row.name, *row.aliases) if name]
    assert set(registry.checkpoints()) <= set(names)
    assert len(names) == len(set(names))


def test_aliases_share_a_row():
    (row,) = [row for row in catalogue.models() if row.name == "blip2-opt-2.7b"]
    assert row.aliases == ("blip2",)


def test_what_is_converted_says_how(monkeypatch):
    one = Published("Nobody/Model-4", 7_800_000_000, 4096, 11008, 32, 32001, 32, names=("model-4",), convert="minigpt4")
    other = replace(registry.family("minigpt4"), published=(one,))
    rows = catalogue._of_family(other, {})
    assert [(row.name, row.parameters) for row in rows] == [("model-4", 7_800_000_000)]
    assert "vledit convert minigpt4" in rows[0].source


def test_what_is_proven_comes_from_the_file(tmp_path):
    file = tmp_path / "proven.json"
    assert {row.contract for row in catalogue.models(file)} == {"not run"}
    file.write_text(json.dumps({"blip2": {"contract": "passed", "date": "2026-11-22", "transformers": "5.23.0"}}))
    rows = catalogue.models(file)
    assert {(r.contract, r.date, r.transformers) for r in rows if r.family == "blip2"} == {
        ("passed", "2026-11-22", "5.23.0")
    }
    assert {row.contract for row in rows if row.family != "blip2"} == {"not run"}


@pytest.mark.parametrize("content", ["{", "[1]", '{"blip2": 3}'])
def test_a_damaged_file_is_an_error(tmp_path, content):
    (tmp_path / "proven.json").write_text(content)
    with pytest.raises(MissingDataError, match="damaged"):
        catalogue.models(tmp_path / "proven.json")
