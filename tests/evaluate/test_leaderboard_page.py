"""The results page: a table that is asked for and has no data is an error, never left out; what people wrote stays."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from vledit.errors import InputError
from vledit.evaluate.metrics import METRICS, estimates

from .small import outcome

PAGE = Path(__file__).parents[2] / "benchmarks" / "leaderboard_page.py"


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("leaderboard_page", PAGE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_column_without_data_is_an_error_and_an_editor_without_it_has_a_dash(page):
    both = estimates([outcome(str(i), cell, i < 3) for i in range(6) for cell in ("text", "near_image")])
    one = estimates([outcome(str(i), "text", True) for i in range(6)])
    columns = {"text_generality": "rewordings", "near_image_preserved": "near pictures"}
    lines = page.rows_of({"ft": both, "ike": one}, {"ft": 6, "ike": 5}, columns)
    assert lines[0] == "| editor | edits | rewordings | near pictures |"
    assert lines[2].startswith("| `ft` | 6 | 50.0 [")
    assert lines[3].startswith("| `ike` | 5 | 100.0 [")
    assert lines[3].endswith("| – |")
    with pytest.raises(InputError, match="no data for near_image_preserved"):
        page.rows_of({"ike": one}, {"ike": 6}, columns)


def test_tables_are_put_between_their_marks_and_a_mark_without_a_table_is_an_error(page, tmp_path):
    path = tmp_path / "page.md"
    path.write_text("Before.\n<!-- a -->\nold\n<!-- end -->\nBetween.\n<!-- b-c -->\n<!-- end -->\nAfter.\n")
    page.fill(path, {"a": lambda: ["| x |", "| 1 |"], "b-c": lambda: ["| y |"]})
    assert path.read_text() == (
        "Before.\n<!-- a -->\n| x |\n| 1 |\n<!-- end -->\nBetween.\n<!-- b-c -->\n| y |\n<!-- end -->\nAfter.\n"
    )
    with pytest.raises(InputError, match="there is no table 'b-c'"):
        page.fill(path, {"a": list})


def test_every_cell_of_the_data_set_has_a_column(page):
    """`no_image` once was scored and shown nowhere; the parts of a cell once went with a tag that no probe has."""
    shown = {metric.cell for metric in METRICS if metric.name in page.KEPT}
    assert shown == {"near_image", "text", "random_image", "other_question", "black", "no_image"}
    known = {metric.name for metric in METRICS}
    assert {*page.SUCCESS, *page.KEPT} <= known
    assert {"image_generality_seen", "image_generality_held_out"} <= set(page.SUCCESS)


def test_different_edits_of_an_editor_in_several_files_are_put_together_and_the_first_counts(page, monkeypatch):
    def rows(right: dict[str, bool]) -> list[dict]:
        return [{"variant": "ft", "case": one, "outcomes": [outcome(one, "text", yes)]} for one, yes in right.items()]

    files = {Path("a"): rows({"1": True, "2": True}), Path("b"): rows({"2": False, "3": False})}
    monkeypatch.setattr(page, "records_of", files.__getitem__)
    found, counts, records = page.scores(files)
    assert counts == {"ft": 3}
    assert sorted(row["case"] for row in records["ft"]) == ["1", "2", "3"]
    assert found["ft"]["text_generality"].mean == pytest.approx(2 / 3)


def test_one_metric_after_more_and_more_edits_of_each_editor(page, monkeypatch):
    def rows(editor: str, after: int, right: list[bool]) -> list[dict]:
        named = [(str(i), yes) for i, yes in enumerate(right)]
        return [
            {"variant": editor, "after": after, "case": i, "outcomes": [outcome(i, "text", yes)]} for i, yes in named
        ]

    files = {
        Path("a"): [*rows("mend", 1, [True]), *rows("ft", 1, [True])],
        Path("b"): [*rows("mend", 1, [False]), *rows("mend", 10, [True, False])],
    }
    monkeypatch.setattr(page, "read", files.__getitem__)
    lines = page.growing_of(list(files), "text_generality", (1, 10))
    assert lines[0] == "| editor | after 1 | after 10 |"
    assert lines[2] == "| `ft` | 100.0 (n = 1) | – |"
    assert lines[3] == "| `mend` | 100.0 (n = 1) | 50.0 (n = 2) |"
