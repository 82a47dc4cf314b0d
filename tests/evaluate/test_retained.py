"""benchmarks/retained.py counts what it says: a fact that is lost is named, a changed answer elsewhere is not kept."""

import importlib.util
from pathlib import Path

import pytest

from vledit.data.case import EditRequest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "retained.py"


@pytest.fixture(scope="module")
def retained():
    spec = importlib.util.spec_from_file_location("retained", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Said:
    """Gives the answers of a table."""

    def __init__(self, table):
        self.table = table

    def answers(self, images, questions):
        return [self.table[question] for question in questions]


def test_what_is_lost_is_named_and_what_changed_elsewhere_counted(retained):
    requests = [EditRequest(None, f"question {i}?", f"answer {i}", id=str(i)) for i in range(20)]
    table = {one.question: one.answer for one in requests} | {"question 7?": "answer 6", "other?": "a", "more?": "b"}
    row = retained.asked_again(Said(table), requests, [(None, "other?"), (None, "more?")], ["a", "before"])
    assert (row["retained"].n, row["retained"].mean) == (20, 0.95)
    assert row["lost"] == [{"question": "question 7?", "answer": "answer 7", "now": "answer 6", "id": "7"}]
    assert row["random_image_preserved"].mean == 0.5
    found = retained.recorded(row["retained"])
    # Wilson, JASA 1927, for 19 of 20, worked out by hand
    assert (found["n"], found["low"], found["high"]) == pytest.approx((20, 0.7639, 0.9911), abs=1e-4)
    assert retained.recorded(row["random_image_preserved"]) == {"n": 2, "share": 0.5, "low": None, "high": None}
