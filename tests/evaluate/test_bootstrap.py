"""The parts that intervals are made of, against slow references and values worked out on paper."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vledit.evaluate.bootstrap import (
    Estimate,
    draws,
    harmonic,
    interval,
    matrix,
    means,
    resampled,
    share_interval,
    wilson,
)

NAN = math.nan


def test_every_resample_draws_as_many_cases_as_there_are_with_replacement():
    drawn = draws(50, seed=1, resamples=300)
    assert drawn.shape == (300, 50)
    assert (drawn.sum(axis=1) == 50).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(50), abs=0.3)  # every case is drawn once on average
    assert (drawn == 0).mean() == pytest.approx(1 / math.e, abs=0.02)  # and left out by about a third
    assert (drawn == draws(50, seed=1, resamples=300)).all()
    assert (draws(50, resamples=300) == draws(50, seed=0, resamples=300)).all()
    assert (drawn != draws(50, resamples=300)).any()
    assert draws(3).shape == (2000, 3)
    assert (draws(1) == 1).all()
    assert draws(0).shape == (2000, 0)


def test_resampled_means_are_those_of_the_cases_that_were_drawn():
    values = np.array([[1.0, NAN, 0.5, 0.25], [NAN, NAN, NAN, 0.75]])
    drawn = draws(4, seed=3, resamples=60)
    found = resampled(values, drawn)
    for row, column in enumerate(values):
        for number, times in enumerate(drawn):
            held = [value for value in np.repeat(column, times.astype(int)) if not math.isnan(value)]
            expected = sum(held) / len(held) if held else NAN
            assert found[row, number] == pytest.approx(expected, nan_ok=True)
    assert np.isnan(found[1]).any()
    assert means(values) == pytest.approx([1.75 / 3, 0.75])
    assert np.isnan(means(np.array([NAN, NAN])))


def test_a_case_without_such_probes_is_no_number():
    found = matrix([{"a": 1.0}, {"b": 0.0, "a": 0.5}], ["a", "b"])
    assert found[:, 0].tolist() == [1.0, 0.5]
    assert math.isnan(found[0, 1])
    assert found[1, 1] == 0.0
    assert matrix([], ["a"]).shape == (0, 1)


def test_the_harmonic_mean_of_each_column():
    parts = np.array([[0.5, 0.0, NAN, 1.0, 0.0], [0.25, 1.0, 1.0, 1.0, 0.0]])
    assert harmonic(parts) == pytest.approx([1 / 3, 0.0, NAN, 1.0, 0.0], nan_ok=True)


def test_the_interval_of_samples_holds_95_of_100():
    found = interval(0.4, np.linspace(0, 1, 1001), 5)
    assert (found.mean, found.low, found.high, found.n) == (0.4, pytest.approx(0.025), pytest.approx(0.975), 5)
    assert interval(0.4, np.array([0.5, NAN, 0.5]), 9) == Estimate(0.4, 0.5, 0.5, 9)
    for nothing in (interval(0.4, np.linspace(0, 1, 9), 4), interval(0.4, np.array([NAN]), 5)):
        assert nothing.mean == 0.4
        assert math.isnan(nothing.low)
        assert math.isnan(nothing.high)


def test_what_a_plot_draws_and_a_table_prints():
    with_interval, without = Estimate(0.5, 0.25, 0.75, 9), Estimate(0.5, NAN, NAN, 3)
    assert (with_interval.has_interval, without.has_interval) == (True, False)
    assert (with_interval.ends, without.ends) == ((0.25, 0.75), (0.5, 0.5))
    assert (str(with_interval), str(without)) == ("50.0 [25.0, 75.0]", "50.0 (n = 3)")
    assert not Estimate(0.5, NAN, 0.75, 3).has_interval
    assert not Estimate(0.5, 0.25, NAN, 3).has_interval


def test_shares_that_vary_less_count_as_more_edits():
    """On paper: mean 0.8, squared deviations 0.5 in all; (0.5 + 0.16) / 100 is 24.24 times less than 0.16."""
    found = share_interval(np.tile([0.7, 0.8, 0.9, 0.8, NAN], 25))
    assert found.n == 100
    assert (found.low, found.high) == pytest.approx(wilson(0.8, 100 * 0.16 / 0.0066))
    all_or_nothing = share_interval(np.array([1.0] * 80 + [0.0] * 20))
    assert (all_or_nothing.low, all_or_nothing.high) == pytest.approx(wilson(0.8, 100))  # never as fewer
    alike = share_interval(np.full(20, 0.5))
    assert (alike.low, alike.high) == pytest.approx(wilson(0.5, 400))
    none = share_interval(np.array([NAN]))
    assert none.n == 0
    assert math.isnan(none.mean)
    assert not math.isnan(share_interval(np.ones(5)).low)
    assert math.isnan(share_interval(np.ones(4)).low)


def test_wilsons_ends_stay_within_shares():
    for n in range(1, 100):  # in the formula itself rounding leaves some 1e-17
        assert wilson(0.0, n)[0] == 0.0
        assert wilson(1.0, n)[1] == 1.0
    assert wilson(-1e-17, 7)[0] == 0.0
    low, high = wilson(0.5, 1)  # (0.5 ± Z·√(1/4 + Z²/4)/(1 + Z²), on paper
    z = 1.959964
    half = z * math.sqrt(0.25 + z * z / 4) / (1 + z * z)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half))
