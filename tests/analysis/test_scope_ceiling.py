"""The ceiling of a scope: constructed keys with known figures, and keys of a tiny model that depend on nothing but their row."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from tests.evaluate.small import case
from tests.vlm.models import tiny
from vledit.analysis import scope_ceiling
from vledit.analysis.scope_ceiling import EditKeys, ceiling, read_keys, whitening
from vledit.cli.analyze_scope import _layers, table
from vledit.errors import InputError

CELLS = ["edit", "image", "image", "text", "near_image", "near_image", "other_question"]


def probes_of(one):
    """In the order of the rows."""
    cells = [one.generality.get(cell, ()) for cell in scope_ceiling.INSIDE]
    cells += [one.locality.get({"text_locality": "text"}.get(cell, cell), ()) for cell in scope_ceiling.OUTSIDE]
    return [probe for cell in cells for probe in cell[:5]]


def edit(*places: float, id: str = "one") -> EditKeys:
    """An edit whose rows lie at these places on a line; the first image is by a seen hand."""
    keys = np.array(places, dtype=np.float32)[:, None] * np.array([[1.0, 0.0]], dtype=np.float32)
    return EditKeys(id, CELLS, ["yes", "yes", "no", "", "", "", ""], {"key": keys})


def test_a_key_that_separates_reaches_everything():
    found = ceiling([edit(0, 1, -2, 1, 5, 6, -7)], "key")
    assert found.hm == found.oracle == 1.0
    assert 2 <= found.threshold < 5
    assert found.auc["image/near_image"] == found.auc["text/other_question"] == 1.0


def test_what_the_base_answers_alike_is_counted_by_itself():
    one = edit(0, 1, 9, 1, 2, 6, -7)
    one.alike = ["yes", "yes", "no", "", "yes", "no", ""]
    found = ceiling([one], "key")
    inside = found.threshold >= 2
    assert found.one["image, recognised"] == 1.0
    assert found.one["near_image, same answer"] == (0.0 if inside else 1.0)
    assert found.hm == pytest.approx(scope_ceiling.harmonic({c: v for c, v in found.one.items() if "," not in c}))


def test_a_key_that_no_edit_has_is_refused():
    none = edit(0, 1, 2, 1, 5, 6, 7)
    none.keys["key"][:] = np.nan
    with pytest.raises(InputError, match="none of these edits has 'key'"):
        ceiling([none], "key")


def test_one_threshold_and_the_oracle_are_what_counting_gives():
    # the second edit is ten times as wide: each has a perfect radius of its own, no threshold serves both
    edits = [edit(0, 1, 2, 1, 5, 6, 7), edit(0, 10, 20, 10, 50, 60, 70, id="two")]
    found = ceiling(edits, "key")
    assert found.oracle == 1.0
    # at 10 ≤ t < 20: image 3 of 4, text 2 of 2, near 2 of 4, other question 1 of 2; at 2 ≤ t < 5: image 2 of 4, text 1 of 2
    shares = {t: counted(edits, t) for t in (1, 2, 10, 20)}
    assert found.hm == pytest.approx(max(scope_ceiling.harmonic(s) for s in shares.values()))
    assert {cell: found.one[cell] for cell in shares[2]} == counted(edits, found.threshold)


def counted(edits, threshold):
    right = {}
    for one in edits:
        for cell, place in zip(one.cells[1:], one.keys["key"][1:, 0], strict=True):
            right.setdefault(cell, []).append((abs(place) <= threshold) == (cell in ("image", "text")))
    return {cell: sum(values) / len(values) for cell, values in right.items()}


def test_a_key_that_is_nearer_to_what_is_outside_has_no_area():
    found = ceiling([edit(0, 5, 5, 1, 2, 2, 5)], "key")
    assert found.auc["image/near_image"] == 0.0
    assert found.auc["image/other_question"] == 0.5  # equally far


def test_whitening_takes_out_what_varies_within_facts():
    draw = np.random.default_rng(0)
    key = draw.normal(size=(1, 3)).astype(np.float32)
    away = (draw.normal(size=(4000, 3)) * [10.0, 1.0, 0.1]).astype(np.float32)
    one = EditKeys("one", ["edit"] + ["image"] * 4000, [""] * 4001, {"key": np.concatenate([key, key + away])})
    moved = (one.keys["key"][1:].astype(float) - one.keys["key"][0]) @ whitening([one], "key", ridge=1e-9)
    covariance = moved.T @ moved / len(moved)
    assert covariance == pytest.approx(covariance[0, 0] * np.eye(3), abs=1e-3 * covariance[0, 0])


def test_keys_do_not_depend_on_what_they_are_read_with(monkeypatch):
    vlm = tiny("pocket")
    site = vlm.resolve_site(vlm.default_site)
    together = read_keys(vlm, case(), site, (1,), answers=True)
    base = [answer.casefold() for answer in vlm.answer([case().request.image], [case().request.question])]
    for row, (cell, probe) in enumerate(zip(together.cells, [None, *probes_of(case())], strict=False)):
        if cell in ("image", "near_image") and probe is not None:
            said = vlm.answer([probe.image], [probe.question])[0].casefold()
            assert together.alike[row] == ("yes" if said == base[0] else "no")
    monkeypatch.setattr(scope_ceiling, "ROWS", 1)
    alone = read_keys(vlm, case(), site, (1,))
    assert together.cells == [
        "edit",
        "image",
        "text",
        "text",
        "near_image",
        "near_image",
        "near_image",
        "text_locality",
    ]
    assert set(together.keys) >= {"site last", "site mean", "hidden 1", "picture", "question alone"}
    for name, keys in together.keys.items():
        np.testing.assert_allclose(keys, alone.keys[name], rtol=1e-4, atol=1e-5)
    assert np.isnan(together.keys["picture"][-1]).all()  # asked without a picture
    assert together.distances("site last")[0] == 0


def test_the_table_has_a_line_for_each_key_and_layers_are_checked():
    made = table({"good": ceiling([edit(0, 1, 2, 1, 5, 6, 7)], "key")}, "title")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(made)
    assert "good" in console.export_text()
    assert _layers("", 30) == [15, 19, 23, 27, 29]
    assert _layers("3, 1", 4) == [1, 3]
    for text, message in (("4", "no layer 4"), ("a", "not like")):
        with pytest.raises(InputError, match=message):
            _layers(text, 4)
