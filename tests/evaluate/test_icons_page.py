"""The results page: a table that is asked for and has no data is an error, never left out."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from vledit.errors import InputError
from vledit.evaluate.metrics import METRICS, estimates

from .small import outcome

PAGE = Path(__file__).parents[2] / "benchmarks" / "icons_page.py"


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("icons_page", PAGE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_row_without_data_is_an_error(page):
    column = estimates([outcome(str(i), "text", True) for i in range(6)])
    assert page.table({"full": column}, ["text_generality"])[-1].startswith("| text_generality | 100.0 [")
    with pytest.raises(InputError, match="no data for no_image_preserved"):
        page.table({"full": column}, ["text_generality", "no_image_preserved"])


def test_a_tag_that_no_probe_has_is_an_error(page):
    records = [{"outcomes": [outcome(str(i), "image", i % 2 == 0, tags={"seen": "yes"}) for i in range(6)]}]
    assert page.by_tag(records, "seen", "generality", "image")["yes"]["image_generality"].n == 6
    with pytest.raises(InputError, match="has the tag 'split'"):
        page.by_tag(records, "split", "generality", "image")


def test_a_curve_without_data_is_an_error(page):
    records = [
        {
            "variant": "full",
            "case": str(i),
            "after": 6,
            "protocol": "sequential",
            "outcomes": [outcome(str(i), "edit", True)],
        }
        for i in range(6)
    ]
    lines = page.sequence_section("Six", records, ["reliability"], ["retained"])
    assert any(line.startswith("| BalancEdit, full | 100.0 [") for line in lines)
    with pytest.raises(InputError, match="no data for HM"):
        page.sequence_section("Six", records, ["reliability"], ["HM"])


def test_every_cell_of_the_data_set_has_a_row(page):
    """`no_image` once was scored and shown nowhere."""
    cells = {metric.cell for metric in METRICS if metric.name in page.ROWS}
    assert {"near_image", "text", "random_image", "other_question", "same_answer", "black", "no_image"} <= cells
