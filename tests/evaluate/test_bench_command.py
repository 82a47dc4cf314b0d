"""`vledit bench` and `vledit compare` as a user types them, on a tiny model and a few made-up cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.vlm.models import tiny
from vledit.cli import bench, choose_alpha, session
from vledit.cli import wanted as wanted_edits
from vledit.cli.app import build
from vledit.cli.leaderboard import SHOWN, leaderboard
from vledit.cli.variants import parse_variants
from vledit.cli.wanted import Wanted
from vledit.cli.wanted import asked as as_wanted
from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError
from vledit.evaluate.bootstrap import Estimate
from vledit.evaluate.metrics import COSTS, estimates
from vledit.evaluate.prepared import PreparedCase
from vledit.evaluate.results import read_results

from .small import case, outcome

QUICK = "steps=200,learning_rate=0.05,margin=1.0"
SUPPLIED = ("--rephrases", "supplied")  # tiny models make none that is fit
EDITORS = f"balancedit:{QUICK},rephrase=supplied,alpha=0.3;ft:{QUICK}"
FIRST, SECOND = EDITORS.split(";")


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Ran]:
    """`vledit` in an empty folder, with its caches there, on the tiny pocket and three cases."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr(session, "load_model", lambda name, device, dtype, **_: EditedModel(tiny("pocket")))
    made = [case(i) for i in range(3)]
    for command in (bench, choose_alpha, wanted_edits):
        monkeypatch.setattr(command, "benchmark_cases", lambda wanted: [as_wanted(c, wanted) for c in made])

    def run(*arguments: object) -> Ran:
        result = CliRunner().invoke(build(), [str(argument) for argument in arguments])
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


def test_bench_prints_a_leaderboard_and_keeps_the_trunks(cli, tmp_path):
    ran = cli("bench", *SUPPLIED, "--editors", EDITORS, "--texts", 1)
    assert ran.code == 0, ran.err
    assert "near_image_preserved" in ran.out
    assert "0 hits, 3 misses" in ran.err
    head, records = read_results(Path("results.jsonl"))
    assert len(records) == 6
    assert head["end"]["failed"] == 0
    again = cli("bench", *SUPPLIED, "--editors", EDITORS, "--protocol", "sequential", "--at", "1,3", "--out", "s.jsonl")
    assert again.code == 0, again.err
    assert "After the first N edits" in again.out
    assert "0 misses" in again.err


def test_json_and_resume(cli):
    first = cli("bench", *SUPPLIED, "--editors", EDITORS, "--json").json
    assert set(first["variants"]) == {FIRST, SECOND}
    assert first["variants"][FIRST]["reliability"]["n"] == 3
    assert first["run"]["records"] == 6
    assert cli("bench", *SUPPLIED, "--editors", EDITORS, "--json").json["variants"] == first["variants"]
    other = cli("bench", *SUPPLIED, "--editors", SECOND)
    assert other.code == 2
    assert "variants (now" in other.err


def test_probes_of_a_cell_can_be_limited(cli):
    assert cli("bench", *SUPPLIED, "--editors", SECOND, "--probes", 1, "--batch-tokens", 64).code == 0
    head, _ = read_results(Path("results.jsonl"))
    places = [(probe["family"], probe["cell"], probe["index"]) for probe in head["bases"]["case-0"]["probes"]]
    assert len(places) == len({place[:2] for place in places}) == 6
    assert all(index == 0 for _, _, index in places)
    assert "cases_hash (now" in cli("bench", *SUPPLIED, "--editors", SECOND).err  # more is asked now: another run


def test_the_gate_decides_the_exit_code(cli):
    Path("gate.yaml").write_text("reliability: 0.9\nfailed_edits: {mean_at_most: 0}\n")
    assert cli("bench", *SUPPLIED, "--editors", FIRST, "--gate", "gate.yaml").code == 0
    Path("gate.yaml").write_text("reliability: {low: 1.01}\n")
    broken = cli("bench", *SUPPLIED, "--editors", FIRST, "--gate", "gate.yaml", "--json")
    assert broken.code == 8
    assert "reliability (lower end)" in broken.err
    Path("gate.yaml").write_text("relability: 0.9\n")
    typo = cli("bench", *SUPPLIED, "--editors", FIRST, "--gate", "gate.yaml")
    assert typo.code == 2
    assert "Did you mean 'reliability'" in typo.err


def test_compare(cli):
    cli("bench", *SUPPLIED, "--editors", EDITORS)
    ran = cli("compare", f"results.jsonl::{FIRST}", f"results.jsonl::{SECOND}", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["common"] == 3
    assert {d["metric"] for d in ran.json["differences"]} >= {
        "HM",
        "reliability",
        "near_image_preserved",
        "bytes_per_edit",
    }
    shown = cli("compare", f"results.jsonl::{FIRST}", f"results.jsonl::{SECOND}")
    assert "3 edits in common" in shown.err
    cli("bench", *SUPPLIED, "--editors", FIRST, "--protocol", "sequential", "--out", "s.jsonl")
    refused = cli("compare", f"results.jsonl::{FIRST}", "s.jsonl")
    assert refused.code == 2
    assert "protocol (single against sequential)" in refused.err
    forced = cli("compare", f"results.jsonl::{FIRST}", "s.jsonl", "--force")
    assert forced.code == 0
    assert "warning" in forced.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--protocol", "sequental"), "Did you mean 'sequential'"),
        (("--protocol", "sequential", "--at", "1,x"), "whole numbers"),
        (("--batch-tokens", 0), "batch-tokens: 0"),
        (("--protocol", "sequential", "--at", "1,50"), "50 edits asked for"),
        (("--engine", "rey"), "Did you mean 'ray'"),
        (("--editors", "balancdit"), "Did you mean 'balancedit'"),
        (("--editors", "ft:stpes=3"), "Did you mean 'steps'"),
        (("--editors", "ft:steps=many"), "whole number"),
        (("--editors", "ft;ft"), "given twice"),
        (("--editors", "a=ft;a=balancedit"), "given twice"),
        (("--editors", "=ft"), "no name"),
        (("--editors", " ; "), "none given"),
        (("--cache-gb", "-1"), "cache-gb"),
    ],
)
def test_mistakes_are_told_with_the_near_miss(cli, arguments, words):
    ran = cli("bench", *arguments)
    assert ran.code == 2
    assert words in ran.err
    assert not Path("results.jsonl").exists()


def test_variants_are_typed_as_the_editor_says():
    (one,) = parse_variants("balancedit:alpha=1,transformation=span,learning_rate=none,steps=7")
    assert one.settings == {"alpha": 1.0, "transformation": "span", "learning_rate": None, "steps": 7}
    assert isinstance(one.settings["alpha"], float)
    with pytest.raises(InputError, match="name=value"):
        parse_variants("ft:7")


def test_variants_are_called_as_they_say():
    narrow, plain, other = parse_variants("narrow = balancedit:alpha=0.9;ft;ft:steps=3")
    assert (narrow.name, narrow.editor, narrow.settings) == ("narrow", "balancedit", {"alpha": 0.9})
    assert (plain.name, plain.editor) == ("ft", "ft")
    assert other.name == "ft:steps=3"


def test_a_leaderboard_of_three_can_be_read_on_a_terminal_of_80_columns():
    estimate = Estimate(0.897, 0.887, 0.906, 500)
    row = dict.fromkeys([*SHOWN, *COSTS], estimate)
    terminal = Console(width=80, record=True)
    terminal.print(leaderboard({"full": row, "span": row, "ft": row}, "icons"))
    text = terminal.export_text()
    assert all(name in text for name in SHOWN)
    assert "…" not in text
    assert text.count("89.7") == 3 * len(SHOWN)


def test_pictures_that_training_never_saw_and_cells_of_ones_own_have_lines_of_their_own():
    asked = [PreparedCase.of(tiny("pocket"), replace(case(n), tags={"seen": ("no", "yes")[n]}), 2) for n in (0, 1)]
    assert [one.asked[0].tags() for one in asked] == [{"seen": "no"}, {"seen": "yes"}]
    outcomes = [
        *(outcome(f"seen {n}", "edit", True, tags={"seen": "yes"}) for n in range(3)),
        *(outcome(f"other {n}", "edit", n > 0, tags={"seen": "no"}) for n in range(2)),
        *(outcome(f"seen {n}", "photograph", n > 0, family="generality") for n in range(3)),
        *(outcome(f"seen {n}", "photograph", False, same=n > 1) for n in range(3)),
    ]
    terminal = Console(width=80, record=True)
    terminal.print(leaderboard({"ft": estimates(outcomes)}, "icons"))
    lines = {line.split()[0]: line.split()[1] for line in terminal.export_text().splitlines() if len(line.split()) > 1}
    assert (lines["reliability_seen"], lines["reliability_held_out"]) == ("100.0", "50.0")
    assert (lines["photograph_generality"], lines["photograph_preserved"]) == ("66.7", "33.3")
    assert "photograph_generality_token" not in lines


def test_alpha_is_chosen_on_validation_and_never_on_test(cli, monkeypatch):
    asked = []

    def cases(wanted):
        asked.append(wanted)
        return [as_wanted(case(i), wanted) for i in range(3)]

    monkeypatch.setattr(choose_alpha, "benchmark_cases", cases)
    cli("choose-alpha", *SUPPLIED, "--samples", 1)
    assert [wanted.split for wanted in asked] == ["validation"]


def test_an_editor_is_given_no_rephrases_unless_they_are_asked_for():
    with_them, without = (as_wanted(case(), Wanted("icons", rephrases=how)) for how in ("supplied", "none"))
    assert with_them.request.rephrases
    assert without.request.rephrases == ()
    assert Wanted("icons").rephrases == "none"
    assert without.generality == with_them.generality
