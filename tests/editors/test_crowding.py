"""How a radius narrows with the number of edits, on keys whose distances are known in law."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vledit.editors.crowding import crowd, foreign
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
