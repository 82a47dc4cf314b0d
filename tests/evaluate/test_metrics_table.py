"""What a run's table holds: which records, which metrics, in what order; values worked out on paper."""

from __future__ import annotations

import math

import pytest

from vledit.evaluate.bootstrap import share_interval, wilson
from vledit.evaluate.metrics import (
    METRICS,
    at_alpha,
    by_after,
    by_edit,
    by_record,
    estimated,
    estimates,
    harmonic_mean,
    last,
    metrics_of,
    table,
)

from .small import outcome


def record(variant: str, case: str, right: bool, **more) -> dict:
    return {"variant": variant, "case": case, "edit": None, "outcomes": [outcome(case, "edit", right)], **more}


def test_a_variants_figure_is_of_the_records_after_most_edits():
    records = [
        record("a", "1", True, after=1), record("b", "1", True),
        record("a", "2", False, after=10), record("a", "1", False, after=10), record("a", "1", True, after=2),
    ]  # fmt: skip
    assert [(one["variant"], one["case"], one.get("after")) for one in last(records)] == [
        ("a", "2", 10), ("a", "1", 10), ("b", "1", None)
    ]  # fmt: skip
    assert {after: len(some) for after, some in by_after(records).items()} == {1: 2, 2: 1, 10: 2}
    assert list(by_after(records)) == [1, 2, 10]


def test_retained_stands_in_the_table_of_several_edits_alone():
    assert "retained" not in by_record([record("a", "1", True), record("a", "2", True, after=1)])
    assert "retained" not in by_record([record("a", "1", True, protocol="single")])
    later = by_record([record("a", "1", True), record("a", "2", False, after=2)])
    assert later["retained"] == later["reliability"] == {"1": 1.0, "2": 0.0}
    assert next(iter(later)) == "retained"
    assert "retained" in by_record([record("a", "1", True, protocol="batch")])
    other = {**record("a", "1", True, after=2), "outcomes": [outcome("1", "text", True)]}
    assert "retained" not in by_record([other])


def test_costs_are_means_of_the_edits_that_have_them():
    made = [record("a", str(n), True) for n in range(6)]
    for number, one in enumerate(made[:5]):
        one["edit"] = {"seconds": float(number), "nbytes": None if number else 80}
    found = table(made)
    assert (found["seconds_per_edit"].mean, found["seconds_per_edit"].n) == (2.0, 5)
    assert found["seconds_per_edit"].low < 2.0 < found["seconds_per_edit"].high <= 4.0  # of seconds, not of a share
    assert (found["bytes_per_edit"].mean, found["bytes_per_edit"].n) == (80.0, 1)


def test_hm_is_of_three_means_and_counts_edits_that_have_all_three():
    columns = {
        "text_generality": {str(n): float(n < 15) for n in range(20)},
        "image_generality": {str(n): float(n < 10) for n in range(20)},
        "near_image_preserved": {str(n): 1.0 for n in range(2, 20)},
    }
    found = estimated(columns)
    assert found["HM"].mean == pytest.approx(3 / (1 / 0.75 + 1 / 0.5 + 1))
    assert found["HM"].n == 18
    assert found["HM"].low < found["HM"].mean < found["HM"].high
    assert estimated(columns, seed=0)["HM"] == found["HM"]
    assert estimated(columns, seed=1)["HM"] != found["HM"]
    assert "HM" not in estimated({name: columns[name] for name in list(columns)[:2]})
    assert found["text_generality"] == share_interval_of(columns["text_generality"])


def share_interval_of(column: dict[str, float]):
    import numpy as np

    return share_interval(np.array(list(column.values())))


def test_hm_at_both_edges_lies_between_the_hms_of_its_parts_ends():
    cells = ("text", "image", "near_image")
    none = [outcome(str(i), cell, False, same=False) for i in range(20) for cell in cells]
    found = estimates(none)["HM"]
    assert (found.mean, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(wilson(0.0, 20)[1])
    assert harmonic_mean([0.5, 0.25]) == pytest.approx(1 / 3)
    assert harmonic_mean([0.5, 0.0]) == 0.0


def test_exact_metrics_of_all_cells_come_before_those_by_token_and_the_ten_likeliest():
    kinds = [2 * ("_token" in metric.name) + ("top10" in metric.name) for metric in METRICS]
    assert kinds == sorted(kinds)
    assert {0, 1, 2} == set(kinds)
    assert METRICS[0].name == "reliability"


def test_each_score_is_what_its_name_says():
    one = outcome(
        "c", "near_image", True, same=False,
        changed_new_token=0.25, changed_same_token=0.75, changed_top10=0.5,
    )  # fmt: skip
    found = {name: estimate.mean for name, estimate in estimates([one]).items()}
    assert found == {
        "near_image_preserved": 0.0, "near_image_not_edited_answer": 0.0, "near_image_preserved_token": 0.75,
        "near_image_not_edited_answer_token": 0.75, "near_image_top10": 0.5,
    }  # fmt: skip
    edit = outcome("c", "edit", False, changed_new_token=0.25)
    assert {name: one.mean for name, one in estimates([edit]).items()} == {
        "reliability": 0.0, "reliability_token": 0.25
    }  # fmt: skip
    hop = outcome("c", "one_hop", True, family="portability", changed_new_token=math.nan)
    found = {name: one.mean for name, one in estimates([hop, edit]).items()}
    assert found["portability"] == 1.0
    assert "portability_token" not in found
    assert "portability" not in estimates([edit])


def test_metrics_are_those_of_the_cells_that_are_there_standard_ones_first():
    names = [
        metric.name for metric in metrics_of([("locality", "odd"), ("generality", "text"), ("reliability", "edit")])
    ]
    standard = ["reliability", "reliability_seen", "reliability_held_out", "text_generality"]
    assert names[:6] == [*standard, "reliability_token", "text_generality_token"]
    assert [name for name in names[6:] if not name.startswith("odd_")] == []
    assert [m.name for m in metrics_of([("portability", "hop")])][-2:] == ["portability", "portability_token"]


def test_the_seed_is_zero_unless_another_is_given():
    cells = (("text", 2), ("image", 3), ("near_image", 5))
    outcomes = [outcome(str(i), cell, bool(i % step), same=bool(i % step)) for i in range(30) for cell, step in cells]
    records = [{"case": str(i), "edit": None, "outcomes": [o for o in outcomes if o.case == str(i)]} for i in range(30)]
    assert estimates(outcomes)["HM"] == estimates(outcomes, seed=0)["HM"] != estimates(outcomes, seed=1)["HM"]
    assert table(records)["HM"] == table(records, seed=0)["HM"] != table(records, seed=1)["HM"]


def test_a_case_counts_with_the_mean_of_its_probes_and_a_part_with_those_that_have_its_tag():
    probes = [
        outcome("1", "image", right, tags={"seen": seen}, changed_new_token=0.25)
        for right, seen in ((True, "yes"), (False, "no"), (True, "no"))
    ]
    found = by_edit(probes)
    assert found["image_generality"] == {"1": 2 / 3}
    assert found["image_generality_seen"] == {"1": 1.0}
    assert found["image_generality_held_out"] == {"1": 0.5}


def test_the_classes_stand_beside_their_cells_unless_metrics_are_named():
    probes = [outcome("1", cell, False, same) for cell, same in (("T3I1", True), ("T1I3", False))]
    found = by_edit(probes)
    assert found["devqa_RI_preserved"] == {"1": 0.5}
    assert not [name for name in by_edit(probes, metrics_of({("locality", "T3I1"): None})) if name.startswith("devqa")]


def test_another_alpha_puts_the_radius_between_both_anchors():
    (moved,) = at_alpha([outcome("1", "image", True, distance=3.5)], {"1": (2.0, 6.0)}, 0.75)
    assert (moved.radius, moved.fired) == (3.0, False)
    (moved,) = at_alpha([outcome("1", "image", True, distance=3.5)], {"1": (2.0, 6.0)}, 0.5)
    assert (moved.radius, moved.fired) == (4.0, True)
