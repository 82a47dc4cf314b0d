"""De-VQA's classes and the blindness score, from outcomes made by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from vledit.data.devqa import ADVERSARIAL, LOCALITY_CELLS
from vledit.evaluate.blindness import blindness
from vledit.evaluate.compare import compare
from vledit.evaluate.gate import judge, read_thresholds
from vledit.evaluate.metrics import by_edit, table
from vledit.evaluate.outcomes import Outcome

from .small import outcome

ASKED = "What is this?"


def edit(case: str = "c", new: bool = True, said: str = "cat") -> Outcome:
    return outcome(case, "edit", new, question=ASKED, image="one", base_answer=said)


def changed(cell: str, new: bool, said: str, case: str = "c", image: str | None = "two", **more: object) -> Outcome:
    """The edited question about another picture; `said`: the base's answer there."""
    return outcome(case, cell, new, question=ASKED, image=image, base_answer=said, **more)


def devqa(case: str, new: set[str] = frozenset(), other: set[str] = frozenset(), cells=LOCALITY_CELLS) -> list[Outcome]:
    """All cells; those in `new` give the new answer, those in `other` one that is neither the new nor the base's."""
    return [outcome(case, cell, cell in new, cell not in new and cell not in other) for cell in cells]


def test_classes_are_means_of_their_cells_in_either_family():
    found = by_edit(devqa("c", {"T1I3", "T1I2"}, {"T2I2", "T1I4"}))
    assert {name: found[f"devqa_{name}_preserved"]["c"] for name in ("RI", "NI", "CI", "image", "text")} == {
        "RI": 1 / 2, "NI": 1 / 2, "CI": 1 / 3, "image": 1.0, "text": 1.0,
    }  # fmt: skip
    assert found["devqa_CI_not_edited_answer"]["c"] == pytest.approx(2 / 3)
    assert found["devqa_NI_not_edited_answer"]["c"] == 1.0
    assert found["devqa_adversarial_preserved"]["c"] == pytest.approx(3 / 7)
    assert found["devqa_mean_preserved"]["c"] == pytest.approx(5 / 9)
    assert found["devqa_mean_not_edited_answer"]["c"] == pytest.approx(7 / 9)


def test_a_case_with_fewer_cells_counts_with_those_it_has_and_one_without_a_score_not_at_all():
    fewer = devqa("few", {"T1I2"}, cells=("T1I2", "T2I2", "T4I4"))
    unscored = [outcome("un", c, False, changed_same_token=math.nan if c == "T1I2" else 1.0) for c in ADVERSARIAL]
    found = by_edit([*fewer, *unscored])
    assert found["devqa_CI_preserved"]["few"] == 0.5
    assert "few" not in found["devqa_RI_preserved"]
    assert set(found["devqa_CI_preserved_token"]) == {"few"}
    assert set(found["devqa_CI_preserved"]) == {"few", "un"}


def test_other_benchmarks_have_no_such_metric():
    assert not [name for name in by_edit([outcome("c", "near_image", False)]) if "devqa" in name]


@pytest.mark.parametrize(
    ("edited", "said", "expected"),
    [
        ((True, True, True), ("dog", "cow", "it"), 1.0),
        ((False, False, False), ("dog", "cow", "it"), 0.0),
        ((True, True, True), ("cat", "Cat ", "cat"), 0.0),
        ((False, False, False), ("cat", "cat", "cat"), -1.0),
        ((True, False, False), ("dog", "cow", "cat"), 0.0),
        ((True, True, False), ("dog", "cow", "cat"), 1 / 3),
    ],
)
def test_blindness_is_what_sticks_beyond_what_stuck_in_the_base(edited, said, expected):
    cells = ("T1I2", "T1I3", "T1I4")
    probes = [
        changed(cell, new, text, image=None if cell == "T1I4" else cell)
        for cell, new, text in zip(cells, edited, said, strict=True)
    ]
    found = blindness([edit(), *probes])
    assert found is not None
    assert found[0] == pytest.approx(expected)
    assert found[0] == pytest.approx(found[1] - found[2])


def test_what_blindness_leaves_out():
    stuck = changed("T1I2", True, "dog")
    assert blindness([edit(new=False), stuck]) is None
    assert blindness([edit(said=""), stuck]) is None
    assert blindness([edit(said=""), stuck], "cat") == (1.0, 1.0, 0.0)
    assert blindness([edit()]) is None
    same_picture = changed("other_question", True, "dog", image="one")
    other_question = outcome("c", "near_image", True, question="Who?", image="two", base_answer="dog")
    says_it_anyway = changed("T1I3", True, "fox", base_new=True)
    assert blindness([edit(), stuck, same_picture, other_question, says_it_anyway]) == (1.0, 1.0, 0.0)


def test_without_devqa_the_benchmarks_own_pictures_count():
    near = [changed("near_image", new, "dog", index=n) for n, new in enumerate((True, False, False, False))]
    assert blindness([edit(), *near]) == (0.25, 0.25, 0.0)
    assert blindness([edit(), *near, changed("T1I2", True, "dog")]) == (1.0, 1.0, 0.0)


def records(name: str, blind: int, count: int = 20) -> list[dict]:
    """`count` edits, of which so many answer without looking."""
    return [
        {
            "variant": name, "case": f"c{n}", "after": 1, "error": "", "edit": None,
            "outcomes": [edit(f"c{n}"), changed("T1I2", n < blind, "dog", f"c{n}")],
        }
        for n in range(count)
    ]  # fmt: skip


def test_table_gate_and_compare_know_blindness(tmp_path: Path):
    blind, seeing = records("blind", 15), records("seeing", 1)
    found = table(blind)["blindness"]
    assert found.mean == 0.75
    assert found.low < 0.75 < found.high
    path = tmp_path / "gate.yaml"
    path.write_text("blindness: {mean_at_most: 0.1}\ndevqa_CI_preserved: 0.2\n")
    verdicts = {(v.variant, v.threshold.metric): v.holds for v in judge(blind + seeing, read_thresholds(path))}
    assert verdicts["blind", "blindness"] is False
    assert verdicts["seeing", "blindness"] is True
    difference = next(d for d in compare(("blind", blind), ("seeing", seeing)).differences if d.metric == "blindness")
    assert difference.difference == pytest.approx(-0.7)
    assert difference.significant
