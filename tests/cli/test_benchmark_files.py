"""Benchmarks that are read from files, on the command line: what there is, what a file is, and what stands against it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.miniature_benchmarks import MULTI_HOP, RECORD, draw, pictures_of, write_json
from vledit.cli.benchmark_files import BenchmarkFiles
from vledit.errors import InputError, MissingDataError

from .conftest import Cli


@pytest.fixture
def vlkeb(tmp_path: Path) -> list[str]:
    """Options for a file of one record, with its pictures."""
    path = write_json(tmp_path / "eval_multihop.json", [MULTI_HOP])
    draw(tmp_path / "VLKEB_images", *pictures_of(MULTI_HOP))
    return ["--annotations", str(path), "--images", str(tmp_path)]


def test_the_list_says_where_files_are_to_be_had(cli: Cli):
    shown = {row["name"]: row for row in cli("data", "list", "--json").json}
    assert next(iter(shown)) == "icons"
    assert {"evqa", "eic", "vlkeb", "okedit", "comprehendedit"} <= set(shown)
    assert all(
        "https://" in row["where"] for name, row in shown.items() if not name.startswith("icons") and name != "cases"
    )
    assert "neighbours" in shown["comprehendedit"]["more"]
    printed = cli("data", "list").out
    assert all(name in printed for name in shown)
    assert "…" not in printed  # an address that is cut short leads nowhere


def test_a_check_tells_file_cells_and_counts(cli: Cli, vlkeb: list[str]):
    ran = cli("data", "check", "vlkeb", *vlkeb, "--open-pictures")
    assert ran.code == 0, ran.err
    assert "not a file that we know" in ran.out
    assert "1 records, 1 cases" in ran.out
    assert "portability/2-hop" in ran.out
    told = cli("data", "check", "vlkeb", *vlkeb, "--json").json
    assert told["probes"]["portability/2-hop"] == 2
    assert (told["records"], told["cases"], told["missing"], told["bad"]) == (1, 1, [], [])
    assert told["fingerprint"]["counts"]["portability 4-hop"] == 1


def test_a_check_lists_all_that_is_missing(cli: Cli, tmp_path: Path):
    records = [{**RECORD, "image": f"val2014/{n}.jpg"} for n in range(30)]
    path = write_json(tmp_path / "vqa_eval.json", records)
    ran = cli("data", "check", "evqa", "--annotations", path)
    assert ran.code == MissingDataError.exit_code
    assert all(ran.out.count(f"val2014/{n}.jpg") == 1 for n in range(30))
    assert "missing pictures: 32" in ran.out
    told = cli("data", "check", "evqa", "--annotations", path, "--json")
    assert (told.code, len(told.json["missing"])) == (MissingDataError.exit_code, 32)


def test_a_check_names_unfit_records(cli: Cli, tmp_path: Path):
    path = write_json(tmp_path / "vqa_eval.json", [{**RECORD, "alt": ""}])
    ran = cli("data", "check", "evqa", "--annotations", path)
    assert ran.code == InputError.exit_code
    assert "record 0: field 'alt' is empty" in ran.out


def test_a_check_finds_damaged_pictures(cli: Cli, tmp_path: Path, vlkeb: list[str]):
    (tmp_path / "VLKEB_images" / MULTI_HOP["m_loc"]).write_bytes(b"\xff\xd8 cut short")
    assert cli("data", "check", "vlkeb", *vlkeb).code == 0
    ran = cli("data", "check", "vlkeb", *vlkeb, "--open-pictures")
    assert ran.code == MissingDataError.exit_code
    assert "damaged pictures: 1" in ran.out
    assert Path(MULTI_HOP["m_loc"]).name in ran.out


def test_settings_of_a_benchmark_are_shown_and_near_misses_named(cli: Cli, vlkeb: list[str]):
    assert "Did you mean 'vlkeb'?" in cli("data", "check", "vlkbe", *vlkeb).err
    assert "is not NAME=VALUE" in cli("data", "check", "vlkeb", *vlkeb, "--with", "neighbours").err
    assert "unknown file or setting of vlkeb" in cli("data", "check", "vlkeb", *vlkeb, "--with", "a=b").err
    assert "no annotation file is given" in cli("data", "check", "vlkeb").err


def test_cases_come_with_a_word_on_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write_json(tmp_path / "vqa_eval.json", [RECORD, {**RECORD, "image": "val2014/gone.jpg"}, {}])
    draw(tmp_path, *pictures_of(RECORD))
    with pytest.raises(InputError, match="--skip-bad"):
        BenchmarkFiles.of("evqa", path).cases()
    with pytest.raises(MissingDataError, match="--skip-missing"):
        BenchmarkFiles.of("evqa", path, skip_bad=True).cases()
    capsys.readouterr()
    (case,) = BenchmarkFiles.of("evqa", path, [tmp_path], skip_bad=True, skip_missing=True).cases()
    assert case.id == "evqa/00000"
    said = capsys.readouterr().err
    assert "1 of 3 records are invalid and left out" in said
    assert "1 of 3 records are left out: their own picture is missing" in said


def test_a_limit_is_taken_from_what_is_there(tmp_path: Path):
    path = write_json(tmp_path / "vqa_eval.json", [RECORD] * 4)
    draw(tmp_path, *pictures_of(RECORD))
    assert [case.id for case in BenchmarkFiles.of("evqa", path).cases(limit=2)] == ["evqa/00000", "evqa/00002"]


def test_a_split_to_choose_on_is_named_with_its_benchmark_and_is_never_the_one_that_is_scored():
    files, split = BenchmarkFiles.named("icons-text:validation", "--text")
    assert (files, split) == (BenchmarkFiles("icons-text"), "validation")
    for text, message in (
        ("icons", "--choose: 'icons' given; write BENCHMARK:SPLIT"),
        ("icons:", "--choose: 'icons:'"),
    ):
        with pytest.raises(InputError, match=message):
            BenchmarkFiles.named(text, "--choose")
    with pytest.raises(InputError, match="--choose: 'test' is the split that is scored"):
        BenchmarkFiles.named("icons:test", "--choose")
