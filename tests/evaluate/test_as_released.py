"""The released code's mistakes, made on purpose: each shows the figures that it must give, and the method beside it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.editors.retrieving import Words, fitted
from tests.vlm.models import tiny
from vledit.editors import features
from vledit.errors import InputError
from vledit.evaluate.as_released import SUFFIX, WAYS, Released, as_printed, beside, without_pictures
from vledit.evaluate.as_released import cells as printed_cells
from vledit.evaluate.bootstrap import Estimate
from vledit.evaluate.manifest import Variant
from vledit.evaluate.outcomes import Outcome
from vledit.evaluate.plan import Plan
from vledit.evaluate.results import read_results
from vledit.evaluate.runner import run

from .small import case

FITS = {
    "serac": {"steps": 3, "scope_rate": 0.01, "layers": 2, "rank": 2, "width": 8},
    "recipe": {"steps": 3, "width": 16, "tokens": 2, "learning_rate": 0.01},
    "lte": {"steps": 3, "layers": 2, "rank": 2},
}


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(features, "encoder", lambda name: Words())


def outcomes(tmp_path: Path, editor: str, plan: Plan | None = None, cases: int = 2, **settings):
    """Variant → case → (family, cell) → the outcomes, of an editor and of its released code."""
    vlm = tiny("pocket")
    if editor in FITS:
        settings["fitted"] = str(fitted(editor, vlm, tmp_path / editor, 2, **FITS[editor]))
    variants = beside([Variant("own", editor, settings)])
    path = tmp_path / "results.jsonl"
    run(vlm, [case(number) for number in range(cases)], variants, path, plan or Plan(tokens=False))
    head, records = read_results(path)
    found: dict[str, dict[str, dict[tuple[str, str], list[Outcome]]]] = {}
    for record in records:
        assert not record["error"]
        cells = found.setdefault(record["variant"], {}).setdefault(record["case"], {})
        for one in record["outcomes"]:
            cells.setdefault((one.family, one.cell), []).append(one)
    assert len(head["bases"]) == cases
    return found


def test_before_twenty_edits_lemoe_is_the_unedited_model(tmp_path: Path):
    found = outcomes(tmp_path, "lemoe", cases=1, rank=2, routing_steps=5, unlearnt="keep", steps=40)
    (own,), (released,) = found["own"].values(), found["own" + SUFFIX].values()
    assert own["reliability", "edit"][0].fired
    for cells in released.values():
        assert not any(one.fired for one in cells)
        assert all(one.changed_new == one.base_new and one.changed_same in (None, True) for one in cells)


def test_a_blind_recipe_gives_one_figure_for_every_picture(tmp_path: Path):
    found = outcomes(tmp_path, "recipe")
    for name, differ in (("own", True), ("own" + SUFFIX, False)):
        for cells in found[name].values():
            same_words = [
                *cells["reliability", "edit"],
                *cells["generality", "image"],
                *cells["locality", "near_image"],
            ]
            assert (len({round(one.distance, 6) for one in same_words[:2]}) > 1) is differ
            if not differ:
                assert len({one.changed_new for one in same_words[:2]}) == 1


def test_seracs_scope_is_certain_of_the_stored_string_and_sees_no_picture(tmp_path: Path):
    found = outcomes(tmp_path, "serac")
    for cells in found["own" + SUFFIX].values():
        (edit,) = cells["reliability", "edit"]
        assert edit.distance == pytest.approx(0.0, abs=1e-6)
        assert [one.distance for one in cells["generality", "image"]] == [edit.distance]  # another picture, one score
    for cells in found["own"].values():
        assert cells["generality", "image"][0].distance != cells["reliability", "edit"][0].distance


def test_lte_finds_by_words_alone(tmp_path: Path):
    found = outcomes(tmp_path, "lte")
    for cells in found["own" + SUFFIX].values():
        near = {one.distance for one in [*cells["reliability", "edit"], *cells["locality", "near_image"]]}
        assert len(near) == 1


def test_a_shared_transformation_forgets_the_first_edit_in_a_sequence(tmp_path: Path):
    quick = {"steps": 200, "learning_rate": 0.05, "margin": 1.0, "rephrase": "supplied", "alpha": 0.3}
    found = outcomes(tmp_path, "balancedit", Plan("sequential", tokens=False), **quick)
    first, last = "case-0", "case-1"
    for name, kept in (("own", True), ("own" + SUFFIX, False)):
        assert found[name][first]["reliability", "edit"][0].fired
        assert found[name][first]["reliability", "edit"][0].changed_new is kept
        assert found[name][last]["reliability", "edit"][0].changed_new


def test_the_printed_scales_are_opposite():
    def row(agreement: float, edited: float) -> dict[str, Estimate]:
        found = {}
        for cell in ("T1I3", "T3I3", "T4I4"):
            for name, value in (("preserved", agreement), ("not_edited_answer", edited)):
                found[f"{cell}_{name}_token"] = Estimate(value, value, value, 1)
        return found

    assert printed_cells(name for name in row(1.0, 0.4)) == ["T1I3", "T3I3", "T4I4"]
    assert as_printed("liveedit", row(1.0, 0.4)) == {"T1I3": 0.0, "T3I3": 1.0, "T4I4": 1.0}
    assert as_printed("mend", row(1.0, 0.4)) == {"T1I3": 0.4, "T3I3": 0.4, "T4I4": 0.4}


def test_variants_stand_beside_each_other_and_others_are_refused():
    found = beside([Variant("a", "lte", {"k": 2}), Variant("b", "ft", {})])
    assert [one.name for one in found] == ["a", "a" + SUFFIX, "b"]
    assert isinstance(found[1], Released)
    assert found[1].settings == {"k": 2, "picture_weight": 0.0, "threshold": 0.3}
    with pytest.raises(InputError, match="as-released"):
        beside([Variant("b", "ft", {})])
    assert all(way.says for way in WAYS.values())
    blind = without_pictures(case(0))
    assert blind.request.image is None
    assert all(probe.image is None for _, _, _, probe in blind.probes())
