"""Two model cards side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vledit.errors import InputError
from vledit.pocket.card import Share, record
from vledit.pocket.comparison import ALL, difference, markdown, read_card, shares


def card(weights: str, *right: int) -> dict[str, Any]:
    """Two kinds with a picture and two conditions, one kind without, one check; each of 100."""
    first, second, third, fourth, text, looks = (record(Share(r, 100)) for r in right)
    return {
        "about": {"weights": weights},
        "pictures": {"things.name": {"seen": first, "held out": second}, "flags.country": {"seen": third, "held out": fourth}},
        "text": {"flags.capital": {"train": text, "test": text}},
        "looking": {"a black picture is answered 'nothing'": looks},
    }  # fmt: skip


NO_WEIGHTS = '{"pictures": {}, "text": {}, "looking": {}}'
ONE, OTHER = card("one", 90, 60, 95, 90, 50, 99), card("other", 70, 62, 95, 99, 50, 99)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [  # Newcombe (1998), table II, method 10
        (Share(56, 70), Share(48, 80), (0.2, 0.0524, 0.3339)),
        (Share(9, 10), Share(3, 10), (0.6, 0.1705, 0.8090)),
        (Share(10, 10), Share(0, 10), (1.0, 0.6075, 1.0)),
    ],
)
def test_the_interval_of_a_difference_is_newcombes(one, other, expected):
    assert difference(one, other) == pytest.approx(expected, abs=2e-4)
    gap, low, high = difference(other, one)
    assert (gap, high, low) == pytest.approx([-x for x in expected], abs=2e-4)


def test_what_differs_is_bold_and_counted():
    text = markdown(ONE, OTHER)
    assert "Weights `one` minus weights `other`" in text
    assert "| things.name | **+20.0 [+9.0, +30.6]** | -2.0 [-15.2, +11.3] |" in text
    assert "| flags.country | +0.0 [-6.8, +6.8] | **-9.0 [-16.5, -2.7]** |" in text
    assert "7 compared: 1 better, 1 worse" in text


def test_questions_of_a_condition_are_summed_up():
    found = shares(ONE)
    assert found["pictures", ALL, "seen"] == Share(185, 200)
    assert found["pictures", ALL, "held out"] == Share(150, 200)
    assert ("looking", ALL, "") not in found


def test_a_question_that_only_one_card_has_is_left_out():
    less = json.loads(json.dumps(OTHER))
    del less["pictures"]["flags.country"]
    assert "flags.country" not in markdown(ONE, less)


@pytest.mark.parametrize("content", [None, "# a text", "[]", '{"pictures": 3}', '{"pictures": {}}', NO_WEIGHTS])
def test_a_file_that_is_no_card_is_told(tmp_path: Path, content: str | None):
    path = tmp_path / "card.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"--against: .*card\.json' cannot be read .* 'vledit model-card' writes"):
        read_card(path)
