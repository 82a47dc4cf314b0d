"""How a radius narrows with the number of edits, on keys whose distances are known in law."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vledit.editors.crowding import Gathered, crowd, foreign
from vledit.errors import InputError


def test_the_share_of_false_fires_is_kept_at_every_number():
    draw = np.random.default_rng(3)
    away = draw.uniform(0, 1, (400, 500))
    points = crowd(away, math.inf, 0.05)
    assert [count for count, _ in points][-2:] == [500, 5000]
    for count, radius in points[:-1]:  # of n uniform distances the least lies below t with probability 1 - (1 - t)^n
        assert 1 - (1 - radius) ** count == pytest.approx(0.05, abs=0.02)
    radii = [radius for _, radius in points]
    assert radii == sorted(radii, reverse=True)
    at = dict(points)
    assert at[5000] == pytest.approx(at[500] ** 2 / at[50])  # the power law through the last tenfold


def test_no_point_is_wider_than_the_threshold():
    away = np.random.default_rng(4).uniform(0, 1, (200, 300))
    points = crowd(away, 0.01, 0.1)
    assert all(radius <= 0.01 for _, radius in points)
    assert points[0][1] == 0.01
    assert points[1][1] < 0.01


def test_a_request_for_the_very_fact_is_not_foreign():
    keys = np.array([[0.0, 0], [3, 4]], dtype=np.float32)
    requests = np.array([[0.0, 0], [0, 0], [3, 0]], dtype=np.float32)
    away = foreign(requests, ["a", "", "c"], keys, ["a", "b"])
    assert away.tolist() == [[math.inf, 5.0], [0.0, 5.0], [3.0, 4.0]]


def test_too_few_keys_tell_nothing_and_unfit_input_is_refused():
    assert crowd(np.ones((5, 3)), 1.0) == ()
    with pytest.raises(InputError, match="no request"):
        crowd(np.ones((0, 30)), 1.0)
    with pytest.raises(InputError, match="false_fires"):
        crowd(np.ones((5, 30)), 1.0, 0.0)


def test_a_share_of_none_or_all_and_nineteen_keys_are_too_little():
    away = np.random.default_rng(5).uniform(0, 1, (50, 20))
    for share in (0.0, 1.0, -0.1, 1.5):
        with pytest.raises(InputError, match="false_fires"):
            crowd(away, math.inf, share)
    assert crowd(away[:, :19], math.inf) == ()
    assert [count for count, _ in crowd(away, math.inf)] == [1, 2, 3, 10, 20, 200]


def test_the_draws_come_from_the_seed_and_two_of_a_hundred_is_the_default():
    away = np.random.default_rng(6).uniform(0, 1, (50, 40))
    assert crowd(away, math.inf) == crowd(away, math.inf, 0.02, 0)
    assert crowd(away, math.inf) != crowd(away, math.inf, 0.02, 1)


def test_where_every_request_is_as_far_from_every_key_the_radius_lies_just_below():
    points = crowd(np.full((10, 30), 2.0), math.inf)
    below = float(np.nextafter(2.0, 0))
    assert points == tuple((count, below) for count in (1, 3, 10, 30, 300))
    assert crowd(np.full((10, 30), 2.0), 1.5) == ((300, 1.5),)  # nothing narrows: one point says it
    assert crowd(np.zeros((10, 30)), 1.5)[-1] == (300, 0.0)


def test_keys_gathered_one_by_one_are_compared_all_at_once():
    gathered = Gathered()
    assert gathered.away().shape == (0, 0)
    keys = np.array([[0.0, 0], [3, 4]], dtype=np.float32)
    gathered.edit("a", keys[0])
    gathered.edit("b", keys[1])
    assert gathered.away().shape == (0, 2)
    asked = np.array([[0.0, 0], [3, 0], [0, 1]], dtype=np.float32)
    for fact, key in zip(("a", "", "c"), asked, strict=True):
        gathered.request(fact, key)
    assert gathered.away().tolist() == foreign(asked, ["a", "", "c"], keys, ["a", "b"]).tolist()
    assert gathered.away()[1].tolist() == [3.0, 4.0]
    only = gathered.only_edits()
    assert only.away().shape == (0, 2)
    only.edit("c", keys[0])
    assert len(gathered.edits) == 2  # a copy
    requests = Gathered("cosine")
    requests.request("", keys[1])
    assert requests.away().shape == (1, 0)
    requests.edit("x", 2 * keys[1])
    assert requests.away() == pytest.approx(0)
    assert requests.only_edits().kind == "cosine"


def test_the_numbers_and_the_radius_where_all_keys_are_drawn():
    away = np.random.default_rng(7).uniform(0, 1, (100, 4000))
    points = crowd(away, math.inf, 0.05)
    assert [count for count, _ in points] == [1, 3, 10, 30, 100, 300, 400, 1000, 3000, 4000, 40_000]
    sixth = np.sort(away.min(axis=1))[5]  # five of a hundred may lie within: all draws are the same here
    assert dict(points)[4000] == np.nextafter(sixth, 0)
