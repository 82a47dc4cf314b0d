"""`vledit reproduce`: every recipe's commands are ones that there are, and one runs on a tiny model and file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.data.miniature_benchmarks import RECORD, draw, pictures_of, write_json
from tests.vlm.models import tiny
from vledit.cli import reproduce as command
from vledit.cli import session
from vledit.cli.app import build
from vledit.editors.edited_model import EditedModel
from vledit.errors import UnknownNameError
from vledit.evaluate.recipes import BLIP2, RECIPES, Given, recipe


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr(session, "load_model", lambda name, device, dtype, **_: EditedModel(tiny("pocket")))
    return lambda *words: CliRunner().invoke(build(), [str(word) for word in words])


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """An E-VQA file of three records, and its pictures."""
    records = [{**RECORD, "src": f"How many {word} are in the picture?"} for word in ("balls", "cups", "cats")]
    return write_json(tmp_path / "vqa_eval.json", records), draw(tmp_path / "pictures", *pictures_of(RECORD))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("family", ["blip2", "pocket"])
def test_every_command_of_every_recipe_is_one_that_there_is(name: str, family: str, tmp_path: Path):
    """Parsed down to the last option, and every editor's settings checked; nothing is run."""
    from vledit.cli.variants import parse_variants

    chosen = RECIPES[name]
    given = Given("m", family, tmp_path, chosen.benchmarks[0], tmp_path / "a.json", tmp_path / "t.json", (tmp_path,))
    commands = chosen.commands(given)
    assert commands
    group = typer.main.get_command(build())
    for words in commands:
        found, left = group.commands[words[0]], words[1:]
        while hasattr(found, "commands"):
            found, left = found.commands[left[0]], left[1:]
        parsed = found.make_context(words[0], list(left))
        if parsed.params.get("editors"):
            assert parse_variants(parsed.params["editors"])
    fitted = {words[words.index("--editor") + 1] for words in commands if words[0] == "fit"}
    assert fitted <= {"mend", "mend_adv", "ike", "serac", "hice", "lte", "recipe", "liveedit"}


def test_the_authors_settings_are_taken_where_there_are_any():
    given = Given(BLIP2, "blip2", Path("o"), "evqa")
    assert given.editor("ft_v") == "ft_v:settings=published"
    assert given.editor("balancedit") == "balancedit:settings=published"
    assert Given("m", "pocket", Path("o"), "evqa").editor("balancedit") == "balancedit:scope=paper"
    assert given.editor("mend") == "mend:fitted=o/mend"
    assert Given(BLIP2, "blip2", Path("o"), "evqa", own_settings=True).editor("ft_v") == "ft_v"
    with pytest.raises(UnknownNameError, match="balancedit-table3"):
        recipe("balancedit-tabel3")


def test_a_plan_says_what_it_takes_and_runs_nothing(cli):
    ran = cli("reproduce", "balancedit-table3", "--plan", "--json")
    assert ran.exit_code == 0, ran.output
    plan = json.loads(ran.stdout)
    assert plan["model"] == BLIP2
    assert plan["edits"] == 2093
    assert plan["memory"] > 14e9  # 3.7 billion parameters in float32
    assert "22" in plan["time"] or "34" in plan["time"]
    assert any("--editor mend" in one for one in plan["commands"])
    assert cli("reproduce", "balancedit-table3", "--plan").exit_code == 0
    assert len(json.loads(cli("reproduce", "--list", "--json").stdout)) == len(RECIPES)
    missing = cli("reproduce", "balancedit-table3")
    assert missing.exit_code == 2
    assert "vqa_eval.json" in missing.output


def test_a_table_runs_on_a_tiny_model_and_a_file_of_the_published_layout(cli, files, monkeypatch):
    monkeypatch.setattr(command, "_family", lambda model: "pocket")
    annotations, pictures = files
    given = ("--model", "pocket", "--annotations", annotations, "--images", pictures, "--limit", 2)
    ran = cli("reproduce", "balancedit-table6", *given, "--json")
    assert ran.exit_code == 0, ran.output
    folder = Path("reproduce/balancedit-table6")
    assert json.loads(ran.stdout)["recipe"] == "balancedit-table6"
    assert (folder / "balancedit-table6.png").exists()
    assert (folder / "balancedit-table6.csv").read_text().count("\n") == 3
