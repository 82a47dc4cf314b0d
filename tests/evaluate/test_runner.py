"""Runs: resumed without redoing or losing a case, going on past what fails, refusing another configuration."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from vledit.data.case import Probe
from vledit.editors.fitting_together import train_together
from vledit.editors.ft import FineTune
from vledit.errors import InputError, MissingDataError
from vledit.evaluate.manifest import Variant, manifest
from vledit.evaluate.metrics import by_after, last, table
from vledit.evaluate.outcomes import Outcome
from vledit.evaluate.plan import keys, tasks
from vledit.evaluate.results import Results, read_results
from vledit.evaluate.runner import Plan, run
from vledit.evaluate.trunk_cache import TrunkCache

from .small import BALANCED, FINE_TUNE, VARIANTS, case, content

CASES = [case(i) for i in range(3)]


def head_of(vlm, cases=CASES, variants=VARIANTS, plan=Plan(), **more):
    return manifest(vlm, "test", cases, variants, **plan.settings(len(cases)), **more)


def test_a_run_says_what_it_was(vlm, tmp_path):
    path = tmp_path / "r.jsonl"
    seen = []
    end = run(vlm, CASES, VARIANTS, path, progress=seen.append, benchmark="test", split="all")
    head, records = read_results(path)
    assert head["manifest"]["benchmark"] == "test"
    assert head["end"] == end
    assert (end["records"], end["failed"], end["unchanged"]) == (6, 0, True)
    assert head["manifest"]["weights"] == end["weights"]
    assert sorted(seen) == sorted(r["case"] for r in records)
    assert all(r["edit"]["seconds"] > 0 and r["edit"]["nbytes"] > 0 for r in records)
    assert {r["question"] for r in records} == {CASES[0].request.question}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for one in CASES:  # base answers come before any edit of the case
        kinds = [
            "base" if "base" in line else "record" for line in lines if one.id in (line.get("base"), line.get("case"))
        ]
        assert kinds == ["base", "record", "record"]


@pytest.mark.parametrize("plan", [Plan(), Plan("sequential"), Plan("batch", batch_size=3)])
def test_edits_are_begun_together_in_every_protocol(vlm, tmp_path, monkeypatch, plan):
    sizes = []

    def counted(vlm, trunk, site, config, tail):
        sizes.append(len(trunk))
        return train_together(vlm, trunk, site, config, tail)

    monkeypatch.setattr("vledit.editors.balancedit.train_together", counted)
    end = run(vlm, CASES, [BALANCED], tmp_path / "r.jsonl", plan)
    assert (end["records"], end["failed"], sizes) == (3, 0, [3])


def test_what_is_read_is_what_was_scored(vlm, tmp_path):
    from vledit.evaluate.asking import prepare
    from vledit.evaluate.protocols import single

    run(vlm, CASES[:1], [BALANCED], tmp_path / "r.jsonl")
    (record,) = read_results(tmp_path / "r.jsonl")[1]
    scored = single(vlm, prepare(vlm, CASES[0]), BALANCED)
    written = [replace(o, image=None) for o in record["outcomes"]]
    assert repr(written) == repr([replace(o, image=None) for o in scored.outcomes])
    assert record["outcomes"][0].image is not None


def test_runs_resume_without_redoing(vlm, tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    run(vlm, CASES, VARIANTS, path)
    whole = content(path)
    lines = path.read_bytes().splitlines(keepends=True)
    made = []
    edit = FineTune.edit

    def noted(self, vlm, request, *args, **kwargs):
        made.append(request.id)
        return edit(self, vlm, request, *args, **kwargs)

    monkeypatch.setattr(FineTune, "edit", noted)
    cache = TrunkCache(vlm, 1.0, tmp_path / "trunks")
    for kept in range(1, len(lines)):  # killed between lines, within one, and just before its end
        part = (b"", lines[kept][: len(lines[kept]) // 2], lines[kept][:-1])[kept % 3]
        path.write_bytes(b"".join(lines[:kept]) + part)
        there = {r["case"] for r in read_results(path)[1] if r["variant"] == "ft"}
        made.clear()
        run(vlm, CASES, VARIANTS, path, cache=cache)
        assert content(path) == whole
        assert set(made) == {one.id for one in CASES} - there


def test_a_finished_run_is_left_as_it_is(vlm, tmp_path):
    path = tmp_path / "r.jsonl"
    run(vlm, CASES, VARIANTS, path)
    before = path.read_bytes()
    run(vlm, CASES, VARIANTS, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("cases", {"cases": CASES[:2]}),
        ("variants", {"variants": [BALANCED]}),
        ("variants", {"variants": [BALANCED, replace(FINE_TUNE, settings={"steps": 7})]}),
        ("protocol", {"plan": Plan("batch")}),
        ("tokens", {"plan": Plan(tokens=False)}),
        ("split", {"split": "test"}),
    ],
)
def test_another_configuration_is_refused_and_named(vlm, tmp_path, field, change):
    path = tmp_path / "r.jsonl"
    Results(path, head_of(vlm)).close()
    before = path.read_bytes()
    with pytest.raises(InputError, match=rf"another configuration: .*{field} \(now"):
        Results(path, head_of(vlm, **change))
    assert path.read_bytes() == before
    Results(path, head_of(vlm)).close()


def test_another_question_is_another_configuration(vlm):
    other = replace(CASES[0], locality={"text": (Probe(None, "Something else?"),)})
    hashes = [head_of(vlm, cases=[one, *CASES[1:]])["manifest"]["cases_hash"] for one in (CASES[0], other)]
    assert hashes[0] != hashes[1]


def test_what_is_no_results_file_is_left_alone(vlm, tmp_path):
    path = tmp_path / "notes.txt"
    for text in ("dear diary\n", '{"a": 1}\n', "[1]\n"):
        path.write_text(text)
        with pytest.raises(InputError):
            Results(path, head_of(vlm))
        with pytest.raises(InputError):
            read_results(path)
        assert path.read_text() == text
    with pytest.raises(MissingDataError):
        read_results(tmp_path / "none.jsonl")


# --- what fails -------------------------------------------------------------------------------------------------------


def failing(monkeypatch, error, when="case-1"):
    edit = FineTune.edit

    def maybe(self, vlm, request, *args, **kwargs):
        if request.id == when:
            raise error
        return edit(self, vlm, request, *args, **kwargs)

    monkeypatch.setattr(FineTune, "edit", maybe)


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA went away"), ZeroDivisionError("division by zero"), KeyError("x")]
)
@pytest.mark.parametrize(
    "plan", [Plan(), Plan("sequential"), Plan("batch", batch_size=2)], ids=lambda plan: plan.protocol
)
def test_any_error_in_an_edit_is_recorded_and_the_run_goes_on(vlm, tmp_path, monkeypatch, error, plan):
    failing(monkeypatch, error)
    end = run(vlm, CASES, VARIANTS, tmp_path / "r.jsonl", plan)
    assert (end["records"], end["failed"]) == (6, 1)
    (record,) = (r for r in read_results(tmp_path / "r.jsonl")[1] if r["error"])
    assert (record["variant"], record["case"], record["stage"]) == ("ft", "case-1", "edit")
    assert record["error_type"] == type(error).__name__
    assert str(error) in record["error"]
    assert "test_runner.py:" in record["error"]  # where it was raised
    assert len(record["outcomes"]) == len(CASES[1].locality["near_image"]) + 6
    if plan.protocol == "single":
        assert all(o.same for o in record["outcomes"] if o.family == "locality")
        assert not record["outcomes"][0].new  # it counts against the editor


def test_a_case_that_cannot_be_prepared_is_recorded(vlm, tmp_path):
    broken = replace(CASES[1], locality={"text": (Probe(tmp_path / "missing.png", "What is it?"),)})
    end = run(vlm, [CASES[0], broken, CASES[2]], VARIANTS, tmp_path / "r.jsonl")
    assert (end["records"], end["failed"]) == (6, 2)
    records = [r for r in read_results(tmp_path / "r.jsonl")[1] if r["error"]]
    assert {(r["stage"], r["error_type"], r["case"]) for r in records} == {("prepare", "PictureError", "case-1")}
    assert all(r["outcomes"] == [] and "missing.png" in r["error"] for r in records)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError("no memory")])
def test_an_interrupt_ends_the_run_and_it_can_go_on(vlm, tmp_path, monkeypatch, error):
    path = tmp_path / "r.jsonl"
    with monkeypatch.context() as patch:
        failing(patch, error)
        with pytest.raises(type(error)):
            run(vlm, CASES, VARIANTS, path)
    assert len(read_results(path)[1]) == 3
    assert read_results(path)[0]["end"] is None
    run(vlm, CASES, VARIANTS, path)
    run(vlm, CASES, VARIANTS, tmp_path / "whole.jsonl")
    assert content(path) == content(tmp_path / "whole.jsonl")
    assert len(read_results(path)[0]["resumed"]) == 1


def test_what_failed_can_be_run_again(vlm, tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    with monkeypatch.context() as patch:
        failing(patch, RuntimeError("a bad moment"))
        run(vlm, CASES, VARIANTS, path)
    head = read_results(path)[0]
    with Results(path, {"manifest": head["manifest"], "environment": {}}, retry=True) as results:
        end = run(vlm, CASES, VARIANTS, results)
    assert end["failed"] == 0
    run(vlm, CASES, VARIANTS, tmp_path / "whole.jsonl")
    assert content(path) == content(tmp_path / "whole.jsonl")


def test_unknown_settings_are_refused_before_any_case(vlm, tmp_path):
    with pytest.raises(InputError, match="Did you mean 'alpha'"):
        run(vlm, CASES, [Variant("b", "balancedit", {"alhpa": 1})], tmp_path / "r.jsonl")
    with pytest.raises(InputError, match="there twice"):
        run(vlm, [CASES[0], CASES[0]], VARIANTS, tmp_path / "r2.jsonl")


# --- protocols --------------------------------------------------------------------------------------------------------


def test_sequential_scores_after_each_number_of_edits(vlm, tmp_path, monkeypatch):
    # edits that are trained with others beside them are the same only up to rounding: tests/editors/test_together.py
    monkeypatch.setattr("vledit.evaluate.runner.EDITS", 1)
    path = tmp_path / "s.jsonl"
    run(vlm, CASES, VARIANTS, path, Plan("sequential", at=(1, 2, 3)))
    records = read_results(path)[1]
    points = by_after(records)
    assert {n: len(some) for n, some in points.items()} == {1: 2, 2: 4, 3: 6}
    assert {r["after"] for r in last(records)} == {3}
    for number in (1, 2, 3):  # the curve's points are what a run of that length gives
        alone = tmp_path / f"{number}.jsonl"
        run(vlm, CASES[:number], VARIANTS, alone, Plan("sequential"))
        assert content(alone)["records"].items() <= content(path)["records"].items()
    newest = {r["case"]: r["outcomes"][0].new for r in points[3] if r["variant"] == "ft"}
    assert newest["case-2"]


def test_a_sequence_of_which_some_edits_are_scored_gives_what_the_whole_one_gives_for_them(vlm, tmp_path):
    run(vlm, CASES, VARIANTS, tmp_path / "all.jsonl", Plan("sequential", at=(1, 3)))
    run(vlm, CASES, VARIANTS, tmp_path / "some.jsonl", Plan("sequential", at=(1, 3), scored=1))
    every, some = (content(tmp_path / f"{name}.jsonl")["records"] for name in ("all", "some"))
    assert {(case, after) for _, case, after in some} == {(CASES[0].id, 1), (CASES[1].id, 3)}
    assert some.items() <= every.items()
    bases = [json.loads(line) for line in (tmp_path / "some.jsonl").read_text().splitlines()]
    assert [line["base"] for line in bases if "base" in line] == [CASES[0].id, CASES[1].id]  # nobody else is asked


def test_the_scored_edits_are_spread_over_the_sequence():
    assert Plan("sequential", scored=4).places(8) == (1, 3, 5, 7)
    assert Plan("sequential", scored=3).places(200) == (33, 100, 166)
    assert Plan("sequential", scored=9).places(2) == Plan("sequential").places(2) == (0, 1)


def test_sequential_equals_asking_the_model_that_holds_all_edits(vlm, tmp_path):
    from vledit.editors.edited_model import EditedModel
    from vledit.evaluate.case_trunks import MAX_NEW_TOKENS

    run(vlm, CASES, VARIANTS, tmp_path / "s.jsonl", Plan("sequential"))
    records = {(r["variant"], r["case"]): r for r in read_results(tmp_path / "s.jsonl")[1]}
    for variant in VARIANTS:
        model = EditedModel(vlm)
        for one in CASES:
            model.edit(one.request, variant.editor, **variant.settings)
        for one in CASES:
            found = records[variant.name, one.id]["outcomes"][1:]
            for (family, _, _, probe), seen in zip(one.probes(), found, strict=True):
                text = model.answer(probe.image, probe.question, MAX_NEW_TOKENS).text
                assert seen.new == (text == seen.target)
                if family == "locality":
                    assert seen.same == (text == seen.base_answer)


def test_a_batch_begins_with_the_base(vlm, tmp_path):
    run(vlm, CASES, VARIANTS, tmp_path / "b.jsonl", Plan("batch", batch_size=2))
    found = content(tmp_path / "b.jsonl")["records"]
    assert len(found) == 6
    for some, name in ((CASES[:2], "first"), (CASES[2:], "second")):
        run(vlm, some, VARIANTS, tmp_path / f"{name}.jsonl", Plan("sequential"))
        alone = content(tmp_path / f"{name}.jsonl")["records"]
        for variant in VARIANTS:
            for one in some:
                assert found[variant.name, one.id, 2] == alone[variant.name, one.id, len(some)]


def test_an_interrupted_sequence_is_made_again_and_says_where_it_differs(vlm, tmp_path):
    path = tmp_path / "s.jsonl"
    plan = Plan("sequential", at=(1, 3))
    run(vlm, CASES, [FINE_TUNE], path, plan)
    whole = content(path)
    lines = path.read_text().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if '"variant"' in line)
    path.write_text("".join(lines[: first + 2]))
    run(vlm, CASES, [FINE_TUNE], path, plan)
    assert content(path) == whole
    assert '"note"' not in path.read_text()
    record = json.loads(lines[first])
    record["edit"]["digest"] = "0" * 16
    path.write_text("".join([*lines[:first], json.dumps(record) + "\n"]))
    run(vlm, CASES, [FINE_TUNE], path, plan)
    assert path.read_text().count('"note"') == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"protocol": "sequental"}, "Did you mean 'sequential'"),
        ({"at": (1, 2)}, "sequential protocol"),
        ({"protocol": "sequential", "at": (2, 1)}, "ascending"),
        ({"protocol": "batch", "batch_size": 0}, "batch-size"),
        ({"texts": -1}, "texts"),
        ({"protocol": "sequential", "scored": -1}, "score: -1"),
        ({"scored": 5}, "sequential protocol"),
    ],
)
def test_unfit_plans(settings, words):
    with pytest.raises(InputError, match=words):
        Plan(**settings)


def test_a_curve_longer_than_the_cases_is_refused():
    with pytest.raises(InputError, match="200 edits asked for"):
        Plan("sequential", at=(1, 200)).points(50)


def test_tasks_are_what_is_left(vlm, tmp_path):
    with Results(tmp_path / "r.jsonl", head_of(vlm)) as results:
        assert [t.cases for t in tasks(Plan(), CASES, VARIANTS, results)] == [(0,), (1,), (2,)]
        results.done |= set(keys(Plan(), CASES, "ft")) | {("balancedit", "case-1", 1)}
        assert [(t.cases, t.variants) for t in tasks(Plan(), CASES, VARIANTS, results)] == [
            ((0,), ("balancedit",)),
            ((2,), ("balancedit",)),
        ]
        spread = tasks(Plan("sequential"), CASES, VARIANTS, results)
        assert [(t.cases, t.variants) for t in spread] == [((0, 1, 2), ("balancedit",)), ((0, 1, 2), ("ft",))]


def test_files_of_the_first_schema_are_still_read(tmp_path):
    """A line as version 1 wrote it: outcomes whole, no base lines."""
    outcome = {
        "case": "a", "editor": "full", "family": "locality", "cell": "text", "index": 0, "base_new": False,
        "base_new_token": None, "changed_new": False, "changed_same": True, "changed_new_token": None, "changed_same_token": 1.0,
        "distance": 3.5, "radius": 2.0, "fired": False, "entry": "a", "base_answer": "Lima", "tags": {"hand": "noto"},
    }  # fmt: skip
    about = {"variant": "full", "case": "a", "error": "", "seconds": 1.0}
    record = {**about, "edit": {"seconds": 1.0, "nbytes": 3}, "outcomes": [outcome]}
    path = tmp_path / "old.jsonl"
    path.write_text(json.dumps({"manifest": {"schema": 1}, "environment": {}}) + "\n" + json.dumps(record) + "\n")
    head, (read,) = read_results(path)
    assert head["end"] is None
    assert (read["after"], read["stage"]) == (1, "")
    (found,) = read["outcomes"]
    assert isinstance(found, Outcome)
    assert (found.same, found.distance, found.base_answer, found.tags) == (True, 3.5, "Lima", {"hand": "noto"})


def test_without_token_scores_no_share_is_taken_of_the_probes_that_changed_alone(vlm, tmp_path):
    """The new answer is then forced only where a locality probe changed; the mean of these would say little of all."""
    run(vlm, CASES[:1], [FINE_TUNE], tmp_path / "r.jsonl", Plan(tokens=False))
    (record,) = read_results(tmp_path / "r.jsonl")[1]
    kept = [one for one in record["outcomes"] if one.family == "locality"]
    assert any(not one.changed_same for one in kept)
    assert all(math.isnan(one.changed_new_token) for one in kept)
    found = table([record])
    assert not any(name.endswith("not_edited_answer_token") for name in found)
    assert "near_image_not_edited_answer" in found
