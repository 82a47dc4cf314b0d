"""Intervals: honest at the edge and for few edits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vledit.evaluate.bootstrap import FEWEST, share_interval, wilson
from vledit.evaluate.compare import compare
from vledit.evaluate.metrics import estimates

from .small import outcome


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [(1.0, 500, 0.9924, 1.0), (0.0, 10, 0.0, 0.2775), (0.5, 10, 0.2366, 0.7634), (0.9, 50, 0.7864, 0.9565)],
)
def test_wilson_against_published_values(share, n, low, high):
    """Of `binom.test`-like tables (R's `prop.test(correct=FALSE)`)."""
    assert wilson(share, n) == pytest.approx((low, high), abs=1e-4)


def test_no_interval_has_no_width():
    for value in (0.0, 1.0, 0.5):
        found = share_interval(np.full(20, value))
        assert found.mean == value
        assert found.high - found.low > 0.05
        assert found.low <= value <= found.high


def test_few_edits_have_no_interval():
    for n in range(1, FEWEST):
        found = share_interval(np.ones(n))
        assert found.mean == 1
        assert math.isnan(found.low)
        assert str(found) == f"100.0 (n = {n})"
    assert share_interval(np.ones(FEWEST)).low == pytest.approx(wilson(1.0, FEWEST)[0])


def test_what_is_all_or_nothing_is_wilsons_and_what_varies_less_is_narrower():
    one_probe = np.array([1.0] * 80 + [0.0] * 20)
    found = share_interval(one_probe)
    assert (found.low, found.high) == pytest.approx(wilson(0.8, 100), abs=0.002)
    many_probes = np.tile([0.7, 0.8, 0.9, 0.8], 25)
    assert share_interval(many_probes).high - share_interval(many_probes).low < (found.high - found.low) / 3


@pytest.mark.parametrize("chance", [0.5, 0.9, 0.97, 0.995])
def test_intervals_hold_the_true_share_as_often_as_they_say(chance):
    """Six probes of an edit, which go well together or not: some edits are harder than others."""
    draw = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        of_edit = draw.beta(4 * chance, 4 * (1 - chance), 60)
        found = share_interval(draw.binomial(6, of_edit) / 6)
        held += found.low <= chance <= found.high
    assert held / 400 >= 0.9


def test_a_harmonic_mean_at_the_edge_is_as_open_as_its_parts():
    perfect = [
        outcome(str(i), cell, cell != "near_image") for i in range(20) for cell in ("text", "image", "near_image")
    ]
    found = estimates(perfect)["HM"]
    assert found.mean == found.high == 1
    assert found.low == pytest.approx(wilson(1.0, 20)[0])


def test_two_that_never_differ_may_differ_by_as_much_as_so_few_edits_leave_open():
    def records(count):
        return [{"case": str(i), "outcomes": [outcome(str(i), "edit", True)], "after": 1} for i in range(count)]

    found = compare(("a", records(20)), ("b", records(20))).differences[0]
    assert (found.difference, found.p) == (0.0, 1.0)
    assert found.low == pytest.approx(-wilson(0.0, 20)[1])
    assert found.high == pytest.approx(wilson(0.0, 20)[1])
    assert not found.significant
    wrong = [{**one, "outcomes": [outcome(one["case"], "edit", False)]} for one in records(20)]
    worse, better = (
        compare(*pair).differences[0]
        for pair in ((("a", records(20)), ("b", wrong)), (("b", wrong), ("a", records(20))))
    )
    assert (worse.low, worse.high) == (-1.0, pytest.approx(wilson(0.0, 20)[1] - 1))  # two shares differ by 1 at most
    assert (better.low, better.high) == (pytest.approx(1 - wilson(0.0, 20)[1]), 1.0)
    assert better.significant
    few = compare(("a", records(3)), ("b", records(3))).differences[0]
    assert math.isnan(few.low)
    assert not few.significant
