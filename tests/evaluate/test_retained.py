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
    assert (row["retained"]["n"], row["retained"]["share"]) == (20, 0.95)
    assert row["lost"] == [{"question": "question 7?", "answer": "answer 7", "now": "answer 6", "id": "7"}]
    assert row["random_image_preserved"]["share"] == 0.5
    assert row["retained"]["low"] < 0.95 < row["retained"]["high"]
