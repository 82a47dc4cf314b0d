"""Scoring: equal to asking the edited model probe by probe; metrics are pure; files resume and refuse other settings."""

import json
import math

import pytest

from tests.vlm.models import QUESTIONS, picture
from vledit.data.case import EditCase, EditRequest, Probe
from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError
from vledit.evaluate import alpha, metrics
from vledit.evaluate.outcomes import Outcome
from vledit.evaluate.prepared import prepare
from vledit.evaluate.protocols import single
from vledit.evaluate.runner import Results, Variant, manifest, read_results, run_sequential, run_single

SETTINGS = "steps=200,learning_rate=0.05,margin=1.0,rephrase=supplied,alpha=0.3"
VARIANTS = [Variant.parse(f"balancedit:{SETTINGS}"), Variant.parse("ft:steps=200,learning_rate=0.05,margin=1.0")]


def case(number: int = 0) -> EditCase:
    request = EditRequest(
        picture(number), QUESTIONS[0], ("two cups", "the fox")[number % 2], ("What can be seen?",), f"case-{number}"
    )
    return EditCase(
        request,
        {
            "text": (Probe(request.image, "What can be seen?"), Probe(request.image, QUESTIONS[1])),
            "image": (Probe(picture(number + 20), QUESTIONS[0]),),
        },
        {
            "near_image": tuple(Probe(picture(number + 40 + i), QUESTIONS[0], "a cat") for i in range(3)),
            "text": (Probe(None, QUESTIONS[2]),),
        },
    )


def test_scores_equal_asking_the_edited_model(vlm):
    """The verified pass and stored routing against the slow way: edit, ask every probe with greedy decoding, undo."""
    one = case()
    base = {}
    model = EditedModel(vlm)
    for family, cell, index, probe in one.probes():
        base[family, cell, index] = model.answer(probe.image, probe.question, max_new_tokens=16).text
    edit = model.edit(one.request, **dict(VARIANTS[0].settings))
    from vledit.editors.registry import editor

    scored = single(vlm, prepare(vlm, one, vlm.default_site), editor("balancedit", **VARIANTS[0].settings), "b")
    found = {(o.family, o.cell, o.index): o for o in scored.outcomes}
    assert found["reliability", "edit", 0].new
    for family, cell, index, probe in one.probes():
        answer = model.answer(probe.image, probe.question, max_new_tokens=16)
        outcome = found[family, cell, index]
        if family == "locality":
            assert outcome.base_answer == base[family, cell, index]
        assert outcome.new == (answer.text == one.request.answer)
        assert outcome.fired == answer.decision.fired
        assert outcome.distance == pytest.approx(answer.decision.distance, rel=1e-4)
        # an answer that is cut off or empty has no end to be verified; it can only be refused, never wrongly accepted
        if family == "locality" and outcome.same:
            assert answer.text == base[family, cell, index]
        if family == "locality" and answer.text and len(vlm.tokenizer(answer.text)["input_ids"]) < 12:
            assert outcome.same == (answer.text == base[family, cell, index])
    assert edit.report.trained


def test_runs_resume_without_redoing_and_refuse_other_settings(vlm, tmp_path):
    cases = [case(i) for i in range(3)]
    path = tmp_path / "r.jsonl"
    head = manifest(vlm, "test", cases, VARIANTS, protocol="single")
    run_single(vlm, cases, VARIANTS, Results(path, head))
    whole = read_results(path)[1]
    assert len(whole) == 6
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][: len(lines[3]) // 2])  # killed in mid-line
    asked = []
    run_single(vlm, cases, VARIANTS, Results(path, head), asked.append)
    again = read_results(path)[1]

    def key(records):
        return sorted(
            json.dumps([r["variant"], r["case"], [(o.new, o.changed_same, o.fired) for o in r["outcomes"]]])
            for r in records
        )

    assert key(again) == key(whole)
    with pytest.raises(InputError, match="another configuration"):
        Results(path, manifest(vlm, "test", cases[:2], VARIANTS, protocol="single"))


def test_sequential_scores_after_all_edits(vlm, tmp_path):
    cases = [case(i) for i in range(3)]
    results = Results(tmp_path / "s.jsonl", manifest(vlm, "test", cases, VARIANTS, protocol="sequential"))
    run_sequential(vlm, cases, VARIANTS, results)
    records = read_results(tmp_path / "s.jsonl")[1]
    assert len(records) == 6
    for record in records:
        if record["variant"].startswith("balancedit"):
            edit = next(o for o in record["outcomes"] if o.family == "reliability")
            assert edit.fired


def outcome(
    case: str, cell: str, new: bool, same: bool = True, distance: float = 1.0, fired: bool = True, **more
) -> Outcome:
    family = "generality" if cell in ("text", "image") else "locality"
    values = {
        "case": case, "editor": "e", "family": family, "cell": cell, "index": 0, "base_new": False, "base_new_token": 0.0,
        "changed_new": new, "changed_same": same, "changed_new_token": float(new), "changed_same_token": float(same),
        "distance": distance, "radius": 2.0, "fired": fired,
    }  # fmt: skip
    return Outcome(**{**values, **more})


def test_metrics_by_hand():
    outcomes = [
        outcome("a", "text", True),
        outcome("a", "image", True),
        outcome("a", "image", False, index=1),
        outcome("a", "near_image", True, same=False),
        outcome("a", "near_image", False, same=True, index=1),
        outcome("b", "text", True),
        outcome("b", "image", True),
        outcome("b", "near_image", True, same=False, fired=False),
    ]
    found = metrics.estimates(outcomes)
    assert found["text_generality"].mean == 1
    assert found["image_generality"].mean == pytest.approx((0.5 + 1) / 2)
    assert found["near_image_preserved"].mean == pytest.approx((0.5 + 1) / 2)
    assert found["near_image_not_edited_answer"].mean == pytest.approx((0.5 + 1) / 2)
    assert found["HM"].mean == pytest.approx(3 / (1 / 1 + 1 / 0.75 + 1 / 0.75))
    assert found["HM"].low <= found["HM"].mean <= found["HM"].high


def test_alpha_moves_the_radius_as_equation_10_says():
    outcomes = [outcome("a", "image", True, distance=d, index=i) for i, d in enumerate((1.0, 3.0, 5.0))]
    for value, fired in ((0.0, 3), (0.5, 2), (1.0, 1)):
        moved = metrics.at_alpha(outcomes, {"a": (1.0, 5.0)}, value)
        assert sum(o.fired for o in moved) == fired


def test_alpha_is_chosen_by_harmonic_mean():
    outcomes = [
        outcome("a", "text", True, distance=0.5),
        outcome("a", "image", True, distance=2.0),
        outcome("a", "near_image", True, same=False, distance=4.0),
    ]
    records = [{"case": "a", "edit": {"d_positive": 1.0, "d_negative": 5.0}, "outcomes": outcomes}]
    best, by_alpha = alpha.choose(records)
    assert 2.0 <= best * 1.0 + (1 - best) * 5.0 < 4.0
    assert by_alpha[0.0] == 0.0
    assert by_alpha[best] == 1.0
    with pytest.raises(InputError):
        alpha.curve([{"case": "a", "edit": None, "outcomes": outcomes}])


def test_no_interval_is_narrower_than_its_resampling_allows():
    outcomes = [outcome(str(i), "text", i % 2 == 0) for i in range(40)]
    found = metrics.estimates(outcomes)["text_generality"]
    assert found.mean == 0.5
    assert 0.3 < found.low < 0.45 < 0.55 < found.high < 0.7
    assert not math.isnan(found.low)
