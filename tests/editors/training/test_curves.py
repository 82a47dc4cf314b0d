"""Learning curves: what their axes are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vledit.editors.training.curves import draw
from vledit.editors.training.loop import LOG


@pytest.mark.parametrize(
    ("more", "shown", "hidden"),
    [({}, "weighted loss, nats", "ridge"), ({"strength": 0.1}, "strength of the ridge penalty", "weighted loss")],
)
def test_a_fitting_in_closed_form_is_drawn_over_what_it_tried(tmp_path: Path, more, shown: str, hidden: str):
    lines = [{"step": n, "seconds": 1.0, "edit": 0.5 / n, **{k: v * n for k, v in more.items()}} for n in (1, 2, 3)]
    (tmp_path / LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw(tmp_path, tmp_path / "curve.svg", "toy")
    text = (tmp_path / "curve.svg").read_text()
    assert shown in text
    assert hidden not in text
    assert "<!-- edit -->" in text
    assert "<!-- strength -->" not in text
