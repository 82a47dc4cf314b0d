"""De-VQA on the page: heat maps, radar, blindness, from a results file made by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluate.small import outcome
from vledit.data.devqa import CELLS, EDIT
from vledit.report import devqa
from vledit.report.gallery import no_cases
from vledit.report.plots import radar
from vledit.report.results_page import write_results_page
from vledit.report.runs import Arm, Run


@pytest.fixture
def arm(tmp_path: Path) -> Arm:
    """Ten edits; T1I3 gives the new answer in seven of them, T2I4 another answer in two."""
    records = []
    for n in range(10):
        outcomes = [outcome(f"c{n}", "edit", True, question="Who?", image="one", base_answer="cat")]
        for cell in CELLS:
            if cell != EDIT:
                new, other = cell == "T1I3" and n < 7, cell == "T2I4" and n < 2
                asked = {"question": "Who?", "image": cell[2:]} if cell[:2] == "T1" else {}
                outcomes.append(outcome(f"c{n}", cell, new, not (new or other), base_answer="dog", **asked))
        edit = {"seconds": 1.0, "nbytes": 10}
        records.append({"variant": "v", "case": f"c{n}", "after": 1, "order": 1, "error": "", "error_type": "", "stage": "",
                        "edit": edit, "outcomes": outcomes, "question": "Who?", "answer": "fox"})  # fmt: skip
    head = {
        "manifest": {"schema": 2, "benchmark": "b", "protocol": "single", "variants": []},
        "environment": {},
        "bases": {},
    }
    run = Run(tmp_path / "r.jsonl", "0", 0, head, records)
    return Arm(0, run, "v", "v", 0, records, {1: records})


def figures(plot: str) -> dict[str, str]:
    """Cell → the figure that is written in it."""
    found = re.findall(r"<title>(T\dI\d)[^<]*</title>.*?heat-figure[^>]*>([^<]*)<", str(plot), re.DOTALL)
    return dict(found)


def test_the_heat_map_has_every_cell_with_its_own_figure(arm: Arm):
    found = figures(devqa.heat_map(arm, "preserved"))
    assert list(found) == list(CELLS)
    assert (found[EDIT], found["T1I3"], found["T2I4"], found["T4I4"]) == ("100.0", "30.0", "80.0", "100.0")
    other = figures(devqa.heat_map(arm, "not_edited_answer"))
    assert (other["T1I3"], other["T2I4"]) == ("30.0", "100.0")


def test_the_section_says_how_blind_it_is_and_never_mixes_the_families(arm: Arm):
    section = devqa.section([arm], 8)
    assert section is not None
    ((_, estimates, blind),) = section.rows
    named = dict(zip(section.columns, estimates, strict=True))
    assert named["preserved", "RI"].mean == pytest.approx(0.65)
    assert named["preserved", "NI"].mean == pytest.approx(0.9)
    assert named["not_edited_answer", "NI"].mean == 1.0
    assert blind[0] is not None
    assert blind[0].mean == pytest.approx(7 / 30)
    assert [kind for kind, _ in section.radars] == ["preserved", "not_edited_answer"]
    assert radar([arm], "preserved") is None  # there are no cells but De-VQA's


def test_the_page_has_the_section_only_where_it_was_asked(arm: Arm, tmp_path: Path):
    page = write_results_page([arm.run], [arm], [], tmp_path / "r.html", no_cases).read_text(encoding="utf-8")
    assert '<section id="devqa">' in page
    assert page.count('class="heat"') == 2
    plain = [
        {
            **record,
            "outcomes": [replace(o, cell="near_image") if o.family == "locality" else o for o in record["outcomes"]],
        }
        for record in arm.records
    ]
    other = Arm(0, arm.run, "v", "v", 0, plain, {1: plain})
    page = write_results_page([arm.run], [other], [], tmp_path / "p.html", no_cases).read_text(encoding="utf-8")
    assert "devqa" not in page.replace("devqa.jsonl", "")
