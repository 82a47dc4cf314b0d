"""What the report is made of: sentences, scores, pictures, results files that are none, the command."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.cli.conftest import Cli
from tests.cli.conftest import cli as cli
from tests.report.samples import ALWAYS, PROBES, RADIUS, SCOPED, base_line, head, record, results_file, write
from vledit.data.case import EditCase, EditRequest, Probe
from vledit.errors import InputError, MissingDataError
from vledit.evaluate.outcomes import Outcome
from vledit.report import plots, why
from vledit.report.cases import NO_PICTURE, NOT_HERE, browser
from vledit.report.gallery import EDITED, FAILED, OTHER, Gallery, benchmark_cases, no_cases
from vledit.report.runs import arms_of, read_run
from vledit.report.scores import Reach, cost, reaches, reasons
from vledit.report.svg import Scale, percent_scale


def outcome(family: str, new: bool, same: bool | None, distance: float, **more: object) -> Outcome:
    values = {
        "case": "mine", "editor": "e", "family": family, "cell": "image", "index": 0, "base_new": False, "base_new_token": 0.5,
        "changed_new": new, "changed_same": same, "changed_new_token": 0.67, "changed_same_token": 0.5, "distance": distance,
        "radius": 47.8, "fired": distance <= 47.8, "entry": "mine", "base_answer": "ape", "target": "boar",
    }  # fmt: skip
    return Outcome(**{**values, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "letter", "words"),
    [
        (outcome("generality", True, None, 12.3), "n", "the edit fired (12.3 ≤ 47.8) and the answer is the new one"),
        (outcome("generality", True, None, 61.2), "m", "key outside the radius: 61.2 > 47.8"),
        (outcome("generality", False, None, 12.3), "w", "fired (12.3 ≤ 47.8) but did not give the new answer; 67 %"),
        (outcome("generality", False, None, 60.0, base_new=True), "a", "answered with the new answer by the base itself"),
        (outcome("generality", False, None, 12.3, entry="theirs"), "e", "the entry of another edit fired (theirs; 12.3 ≤ 47.8)"),
        (outcome("generality", True, None, 60.0, entry="theirs"), "x", "nearest to the entry of another edit (theirs)"),
        (outcome("locality", True, False, 12.3), "l", "locality broken: the edit fired (12.3 ≤ 47.8) and gave its new answer"),
        (outcome("locality", False, False, 12.3), "c", "changed the answer to another than its new one"),
        (outcome("locality", False, False, 12.3, entry="theirs"), "k", "locality broken: the entry of another edit fired"),
        (outcome("locality", False, True, 12.3), "s", "the answer stayed as it was"),
        (outcome("locality", True, False, 61.2), "o", "outside the radius (61.2 > 47.8): the base answers"),
        (outcome("generality", False, None, math.nan, radius=math.nan, entry="", fired=True), "w", "no scope: it acts on every"),
    ],
)  # fmt: skip
def test_every_probe_is_told_why(one: Outcome, letter: str, words: str):
    assert why.letter(one) == letter
    assert words in why.sentence(one)
    assert (letter in why.PASSED) == (one.same if one.family == "locality" else one.new)


def test_without_an_edit_nothing_is_blamed_on_the_radius():
    nothing = {"radius": math.nan, "entry": "", "fired": False}
    assert why.letter(outcome("generality", False, None, math.nan, **nothing), edited=False) == "f"
    assert why.letter(outcome("locality", False, True, math.nan, **nothing), edited=False) == "b"


def test_alone_an_entry_is_the_edits_own_whatever_its_name():
    assert why.letter(outcome("generality", False, None, 12.3, entry="renamed"), alone=True) == "w"


def test_answers_that_were_not_generated_are_not_invented():
    assert why.after(outcome("locality", False, False, 12.3), "c") == "(neither the new answer nor the base’s)"
    assert why.after(outcome("generality", False, None, 12.3), "w") == "(not the new answer)"
    assert why.after(outcome("generality", False, None, 12.3, answer="a pig"), "w") == "a pig"
    assert why.after(outcome("generality", True, None, 12.3), "n") == "boar"
    assert why.after(outcome("generality", True, None, 12.3, target=""), "n") == "(the new answer)"
    assert why.after(outcome("locality", False, True, 60.0), "o") == "ape"


def test_a_data_sets_answer_is_not_the_edited_models(tmp_path: Path):
    """A base line's probe has an `answer` too: the one that the data set holds for right."""
    arms = arms_of([read_run(results_file(tmp_path / "r.jsonl", cases=1))])
    assert {outcome.answer for outcome in arms[0].outcomes} == {""}
    changed = next(o for o in arms[0].outcomes if why.letter(o) == "c")
    assert why.after(changed, "c") == "(neither the new answer nor the base’s)"


def test_several_scopes_are_named():
    two = outcome(
        "generality", True, None, 0.5, fired=False, readings=(("picture", 0.5, 1.0), ("question", 31.0, 20.0))
    )
    assert why.sentence(two) == "key outside the radius: picture 0.50 ≤ 1.00, question 31.0 > 20.0"


@settings(deadline=None)
@given(st.floats(0, 1e4), st.floats(1e-3, 1e4))
def test_the_numbers_shown_tell_which_is_larger(distance: float, radius: float):
    left, sign, right = why.against(distance, radius).split()
    assert (sign == "≤") == (distance <= radius)
    if abs(distance - radius) > 1e-6 * radius:
        assert (float(left) < float(right)) == (sign == "≤")


def test_close_distances_get_more_decimals():
    assert why.against(47.84, 47.81) == "47.84 > 47.81"
    assert why.against(47.8, 47.8) == "47.8 ≤ 47.8"
    assert why.against(math.inf, 47.8) == "no finite distance; radius 47.8"


def test_counts_by_reason(tmp_path: Path):
    scoped, always = arms_of([read_run(results_file(tmp_path / "r.jsonl"))])
    assert reasons(scoped)["generality", "image"] == {"n": 4, "m": 2, "w": 3}  # case 2's picture lies within
    assert reasons(scoped)["locality", "near_image"] == {"o": 3, "l": 3, "c": 3, "s": 3}
    assert set(reasons(always)["generality", "image"]) == {"n", "w"}


def test_distances_over_radii(tmp_path: Path):
    scoped = arms_of([read_run(results_file(tmp_path / "r.jsonl"))])[0]
    near = next(reach for reach in reaches(scoped) if reach.cell == "near_image")
    assert near.count == 12
    assert near.fires == pytest.approx(0.75)
    assert near.passes == pytest.approx(0.5)
    assert near.quantile(1.0) == pytest.approx(70 / RADIUS)


def test_a_distance_equal_to_the_radius_is_drawn_within():
    svg = str(plots.violin(Reach("locality", "black", 2, 1.0, 0.0, np.array([1.0, 1.0]))))
    assert 'class="in"' in svg
    assert 'class="out"' not in svg
    beyond = str(plots.violin(Reach("locality", "black", 1, 0.0, 1.0, np.array([9.0]))))
    assert 'class="out"' in beyond
    assert "No distances" in str(plots.violin(Reach("locality", "black", 1, 0.0, 1.0, np.array([]))))


def test_cost(tmp_path: Path):
    lines = [base_line("a", PROBES, "q", "boar"), base_line("b", PROBES, "q", "boar")]
    bad = record(SCOPED, "b", PROBES, error="no loss below 0.1")
    arm = arms_of([read_run(write(tmp_path / "r.jsonl", head([SCOPED]), *lines, record(SCOPED, "a", PROBES), bad))])[0]
    found = cost(arm)
    assert (found.edits, found.seconds, found.nbytes) == (1, 0.81, 3_547_402)
    assert found.failed == (("b", "edit", "no loss below 0.1"),)


def test_scales_have_round_ticks():
    assert Scale(0, 1, 0, 100).ticks() == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert Scale(0.8, 1.0, 0, 100).ticks(4) == [0.8, 0.85, 0.9, 0.95, 1.0]
    assert percent_scale([0.43, 0.99], 0, 1).low == pytest.approx(0.4)
    assert percent_scale([1.0], 0, 1).low == 0.8
    assert percent_scale([math.nan], 0, 1).low == 0.0


# ---- pictures -------------------------------------------------------------------------------------------------------


def picture(value: int) -> Image.Image:
    rng = np.random.default_rng(value)
    return Image.fromarray(rng.integers(0, 255, (96, 96, 3), dtype=np.uint8))


def test_pictures_keep_to_the_budget_and_the_most_wanted_come_first():
    every = Gallery(10_000_000)
    places = [every.want(picture(i), (OTHER, FAILED, EDITED)[i]) for i in range(3)]
    assert every.want(picture(0), OTHER) == places[0]  # the same pixels once
    full = every.uris()
    assert all(uri.startswith("data:image/webp;base64,") for uri in full)
    tight = Gallery(len(full[2]))
    for i in range(3):
        tight.want(picture(i), (OTHER, FAILED, EDITED)[i])
    kept = tight.uris()
    assert [bool(uri) for uri in kept] == [False, False, True]
    assert Gallery(0).uris() == []


def test_a_broken_picture_leaves_an_empty_frame(tmp_path: Path):
    class Gone:
        key = "gone"

        def open(self) -> Image.Image:
            raise MissingDataError("it is gone")

    gallery = Gallery(10_000_000)
    gallery.want(Gone(), EDITED)
    gallery.want(picture(1), OTHER)
    assert [bool(uri) for uri in gallery.uris()] == [False, True]


def edit_case(question: str = "What animal is it?") -> EditCase:
    near = tuple(Probe(picture(10 + i), "What is this?") for i in range(4))
    return EditCase(
        EditRequest(picture(0), question, "boar", id="case/0"),
        {
            "text": (Probe(picture(0), "What does this show?"),),
            "image": tuple(Probe(picture(1 + i), "What is this?") for i in range(3)),
        },
        {"near_image": near, "text": (Probe(None, "Name a colour."),), "black": (Probe(picture(9), "What is this?"),)},
    )


def test_cases_get_their_pictures_from_the_data_set(tmp_path: Path):
    arms = arms_of([read_run(results_file(tmp_path / "r.jsonl", cases=2))])
    data, remarks, counts = browser(arms, lambda run: {"case/0": edit_case()}, 10, 10_000_000)
    assert remarks == []
    assert counts == {"cases": 2, "shown": 2, "wanted": 9, "pictures": 9}
    first, second = data["cases"]
    cells = [data["cells"][row[0]][1] for row in first["probes"]]
    shown = dict(zip(cells, [row[5] for row in first["probes"]], strict=True))
    assert shown["edit"] == first["picture"] >= 0
    assert [row[5] for row, cell in zip(first["probes"], cells, strict=True) if cell == "text"] == [
        first["picture"],
        NO_PICTURE,
    ]
    assert second["picture"] == NOT_HERE


def test_another_builds_cases_are_not_shown_with_wrong_pictures(tmp_path: Path):
    arms = arms_of([read_run(results_file(tmp_path / "r.jsonl", cases=1))])
    other = edit_case("Who lives here?")
    data, remarks, _ = browser(arms, lambda run: {"case/0": other}, 10, 10_000_000)
    assert data["pictures"] == []
    assert "not those of the data set" in remarks[0]
    assert data["cases"][0]["question"] == "What animal is it?"


def test_data_that_is_not_there_is_told(tmp_path: Path):
    arms = arms_of([read_run(results_file(tmp_path / "r.jsonl", cases=1))])
    _, remarks, _ = browser(arms, benchmark_cases, 10, 1000)
    assert "No pictures of sample" in remarks[0]


def test_cases_are_spread_evenly(tmp_path: Path):
    arms = arms_of([read_run(results_file(tmp_path / "r.jsonl", cases=6))])
    data, _, counts = browser(arms, no_cases, 3, 0)
    assert [case["id"] for case in data["cases"]] == ["case/0", "case/2", "case/4"]
    assert (counts["cases"], counts["shown"]) == (6, 3)
    assert browser(arms, no_cases, 0, 0)[0]["cases"] == []


def test_older_files_hold_no_questions(tmp_path: Path):
    """Schema 1: no base lines; all that is known of a probe stands in its outcome."""
    line = record(SCOPED, "a", PROBES)
    for stored, probe in zip(line["outcomes"], PROBES, strict=True):
        stored |= {"case": "a", "editor": SCOPED, "family": probe.family, "cell": probe.cell, "index": probe.index}
        stored |= {"base_new": False, "base_new_token": 0.25, "base_answer": probe.base, "tags": {}}
    del line["after"], line["order"], line["stage"], line["error_type"]
    first = head([SCOPED])
    first["manifest"] |= {"schema": 1, "metrics": "1"}
    run = read_run(write(tmp_path / "r.jsonl", first, line))
    assert run.finished is None
    arms = arms_of([run])
    data, _, _ = browser(arms, no_cases, 10, 0)
    assert data["cases"][0]["question"] == ""
    assert {row[5] for row in data["cases"][0]["probes"]} == {NOT_HERE}
    data, _, _ = browser(arms, lambda run: {"a": edit_case()}, 10, 10_000_000)
    assert data["cases"][0]["question"] == "What animal is it?"
    assert data["cases"][0]["picture"] >= 0


# ---- files that are no results, and the command -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\x00\xff\xfe binary\n", "results"),
        (b"# Results\n\n| a | b |\n", "results"),
        (b'{"other": 1}\n', "does not start with a manifest"),
        (b"[1, 2]\n", "does not start with a manifest"),
        (b"17\n", "results"),
        (b'{"manifest": 3}\n{"variant": "a", "case": "b"}\n', "results"),
        (b'{"manifest": {}}\n{"variant": "a", "case": "b", "error": ""}\n', "is not a results file"),
        (b'{"manifest": {}}\n{"variant": "a", "case": "b", "error": "", "outcomes": [{"index": 0}]}\n', "is not a results file"),
    ],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, content: bytes, words: str):
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        read_run(path)
    assert "r.jsonl" in str(error.value)


def test_no_such_file(tmp_path: Path):
    with pytest.raises(MissingDataError, match=r"none\.jsonl"):
        read_run(tmp_path / "none.jsonl")
    with pytest.raises(MissingDataError):
        read_run(tmp_path)


def test_the_command_writes_both(cli: Cli, tmp_path: Path):
    results_file(tmp_path / "r.jsonl", cases=2)
    ran = cli("report", "r.jsonl", "--out", "pages/report.html", "--markdown", "report.md", "--json")
    assert ran.code == 0, ran.err
    assert [arm["label"] for arm in ran.json["arms"]] == [SCOPED, ALWAYS]
    assert ran.json["arms"][0]["metrics"]["reliability"]["mean"] == 1.0
    assert (tmp_path / "pages" / "report.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "report.md").read_text().startswith("# 2 edits of pocket on sample")
    assert cli("report", "r.jsonl").code == 0
    assert (tmp_path / "report.html").exists()


def test_the_commands_errors(cli: Cli, tmp_path: Path):
    assert cli("report", "none.jsonl").code == 5
    (tmp_path / "notes.txt").write_text("hello\n")
    ran = cli("report", "notes.txt", "--json")
    assert ran.code == 2
    assert "notes.txt" in ran.json["error"]
    results_file(tmp_path / "r.jsonl", cases=1)
    assert cli("report", "r.jsonl", "--cases", "-1").code == 2
    assert cli("report", "r.jsonl", "--picture-mb", "1000").code == 2


def test_no_torch_is_needed(tmp_path: Path):
    results_file(tmp_path / "r.jsonl", cases=1)
    code = (
        "import sys; from vledit.cli.app import build; "
        "build()(['report', 'r.jsonl', '--picture-mb', '0'], standalone_mode=False); "
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1].replace("'", '"')) == []
