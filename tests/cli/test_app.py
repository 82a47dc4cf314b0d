"""What holds for all commands: start-up, exit codes, JSON, near misses."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vledit import __version__
from vledit.cli import app as application
from vledit.cli import session
from vledit.cli.output import number, plain, size
from vledit.cli.overview import COMMANDS, Lazily
from vledit.cli.settings import parse_settings, parse_value
from vledit.errors import InputError, MissingDataError, UnknownNameError
from vledit.report.text import against, share

from .conftest import Cli

HEAVY = ("torch", "transformers", "matplotlib")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_importing_the_package_loads_nothing_heavy():
    code = f"import sys, vledit; print([m for m in {(*HEAVY, 'numpy', 'PIL', 'rich')} if m in sys.modules])"
    assert python(code).strip() == "[]"


def test_importing_the_package_takes_less_than_importing_numpy():
    timed = (
        "import time; a = time.perf_counter(); import vledit; b = time.perf_counter(); import numpy;"
        "c = time.perf_counter(); print((b - a) / (c - b))"
    )
    assert min(float(python(timed)) for _ in range(3)) < 1


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from vledit.cli.app import build; from typer.testing import CliRunner;"
        "assert CliRunner().invoke(build(), ['--help']).exit_code == 0;"
        f"print([m for m in {(*HEAVY, 'numpy', 'PIL')} if m in sys.modules])"
    )
    assert python(code).strip() == "[]"


def test_help_costs_little_more_than_the_library_that_writes_it():
    """In CPU time of processes, the least of three, so that other work on the machine does not count."""
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
    code += "spent = resource.getrusage(resource.RUSAGE_CHILDREN); print(spent.ru_utime + spent.ru_stime)"

    def seconds(*arguments: str) -> float:
        command = [sys.executable, "-c", code, sys.executable, *arguments]
        ran = (subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(3))
        return min(float(one.stdout) for one in ran)

    writing = "import typer; app = typer.Typer(); app.command()(lambda: None); app(['--help'])"
    assert seconds("-m", "vledit", "--help") < 2.5 * seconds("-c", writing)


def test_help_loads_no_command_and_a_command_only_its_own_module():
    code = (
        "import sys; from vledit.cli.app import build; from typer.testing import CliRunner;"
        "print(CliRunner().invoke(build(), {}).exit_code, [m for m in sys.modules if m.startswith('vledit.cli.')])"
    )
    shown = python(code.format(["--help"]))
    assert shown.startswith("0 ")
    assert "vledit.cli.edit" not in shown
    used = python(code.format(["codebook", "--help"]))
    assert "vledit.cli.codebook" in used
    assert "vledit.cli.bench" not in used


def test_the_overview_names_every_command_and_its_module():
    folder = Path(application.__file__).parent
    modules = {path.stem for path in folder.glob("*.py") if "def register(" in path.read_text()} - {"data_build"}
    assert {one.module for one in COMMANDS.values()} == modules
    commands = Lazily()
    assert [commands[name].name for name in COMMANDS] == list(COMMANDS)


def test_python_m_runs_the_command_line():
    done = subprocess.run([sys.executable, "-m", "vledit", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"vledit {__version__}\n"


@pytest.mark.parametrize(
    ("words", "wanted", "unwanted"),
    [
        ("vledit co", {"codebook", "compare", "convert"}, {"ask"}),
        ("vledit codebook di", {"diff"}, {"merge"}),
        ("vledit ask --im", {"--image", "--images"}, {"--json"}),
    ],
)
def test_the_shell_completes_commands_and_options(words: str, wanted: set[str], unwanted: set[str]):
    count = len(words.split()) - 1
    surroundings = {**os.environ, "_VLEDIT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    done = subprocess.run(
        [sys.executable, "-m", "vledit"], capture_output=True, text=True, env=surroundings, check=False
    )
    assert wanted <= set(done.stdout.split()), done.stderr
    assert not unwanted & set(done.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_that_completes_is_written_for_each_shell(shell: str):
    surroundings = {**os.environ, "_VLEDIT_COMPLETE": f"source_{shell}"}
    done = subprocess.run(
        [sys.executable, "-m", "vledit"], capture_output=True, text=True, env=surroundings, check=False
    )
    assert f"_VLEDIT_COMPLETE=complete_{shell}" in done.stdout, done.stderr


def test_version(cli: Cli):
    assert cli("--version").out == f"vledit {__version__}\n"


def test_every_group_registers_and_has_help(cli: Cli):
    shown = cli("--help").out
    for name in ("demo", "ask", "edit", "codebook", "data", "bench", "choose-alpha", "model-card", "models", "editors"):
        assert name in shown
        assert cli(name, "--help").code == 0


def test_a_mistyped_command_suggests_the_near_miss(cli: Cli):
    ran = cli("aks")
    assert ran.code == 2
    assert "Did you mean 'ask'" in ran.err


def test_a_card_of_weights_that_are_not_there(cli: Cli):
    ran = cli("model-card", "--weights", "nowhere.safetensors")
    assert ran.code == MissingDataError.exit_code
    assert "nowhere.safetensors" in ran.err


def test_a_card_against_one_that_is_not_there_is_not_measured(cli: Cli):
    ran = cli("model-card", "--against", "nowhere.json")
    assert ran.code == InputError.exit_code
    assert "'nowhere.json' cannot be read" in ran.err


def test_models_and_editors_as_json(cli: Cli):
    assert "pocket" in {row["name"] for row in cli("models", "--json").json}
    assert {"balancedit", "ft"} <= {row["name"] for row in cli("editors", "--json").json}
    settings = {row["name"]: row for row in cli("editors", "balancedit", "--json").json["settings"]}
    assert settings["alpha"]["type"] == "a number or none"
    assert settings["alpha"]["help"]
    assert cli("editors", "balancdit").code == 2
    for table in (("models",), ("editors",), ("editors", "balancedit")):
        assert cli(*table).code == 0


@pytest.fixture
def broken(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    def fail(*_: object):
        raise RuntimeError("wires crossed")

    monkeypatch.setattr(session, "load_model", fail)
    return cli


def test_a_bug_is_one_line_and_points_to_debug(broken: Cli):
    ran = broken("ask", "what?", "--json")
    assert ran.code == application.UNEXPECTED
    assert "RuntimeError: wires crossed" in ran.err
    assert "--debug" in ran.err
    assert ran.json["kind"] == "RuntimeError"


def test_debug_lets_the_traceback_through(broken: Cli):
    result = CliRunner().invoke(application.build(), ["--debug", "ask", "what?"])
    assert isinstance(result.exception, RuntimeError)


def test_control_c_exits_130(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object):
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "load_model", interrupt)
    assert cli("ask", "what?").code == 130


def test_unknown_data_set(cli: Cli):
    assert "Did you mean 'icons'?" in cli("data", "build", "icon").err


def test_data_list_before_anything_is_built(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("VLEDIT_CACHE", str(tmp_path / "cache"))
    assert cli("data", "list", "--json").json[0]["built"] is False
    assert "not built" in cli("data", "list").out
    assert cli("data", "card", "icons").code == 5


def test_train_pocket_has_an_option_for_every_setting(cli: Cli):
    from vledit.pocket.train import TrainConfig

    shown = cli("train-pocket", "--help").out
    for field in fields(TrainConfig):
        assert f"--{field.name.replace('_', '-')}" in shown


def test_train_pocket_hands_its_options_on(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from vledit.pocket import train

    seen: dict[str, object] = {}

    def stub(folder: Path | None, config: train.TrainConfig) -> Path:
        seen.update(folder=folder, config=config)
        return tmp_path / "w.safetensors"

    monkeypatch.setattr(train, "main", stub)
    ran = cli("train-pocket", "--folder", tmp_path, "--seed", 3, "--align-rates", "1e-3, 2e-4", "--compiled", "no")
    assert ran.code == 0, ran.err
    assert seen["config"] == train.TrainConfig(seed=3, align_rates=(1e-3, 2e-4), compiled=False)
    assert cli("train-pocket", "--align-rates", "1e-3").code == 2


def test_settings_are_read_as_their_type():
    assert parse_value("a", "none", float | None) is None
    assert parse_value("a", "0.5", float | None) == 0.5
    assert parse_value("a", "off", bool) is False
    assert parse_value("a", "1, 2", tuple[int, float]) == (1, 2.0)
    with pytest.raises(InputError, match="a: a whole number is expected"):
        parse_value("a", "0.5", int)
    from vledit.editors.balancedit import BalancEditConfig

    found = parse_settings(BalancEditConfig, ["alpha=0.3", "key-tokens=visual", "steps=7"])
    assert found == {"alpha": 0.3, "key_tokens": "visual", "steps": 7}
    with pytest.raises(UnknownNameError, match="Did you mean 'steps'"):
        parse_settings(BalancEditConfig, ["step=3"])


def test_numbers_for_people_and_for_json():
    assert (number(None), number(float("inf")), number(1.23456)) == ("–", "∞", "1.235")
    assert (against(3e-5, 41.3), against(4.23, 41.3), against(0.1234, 0.35)) == ("0", "4.2", "0.123")
    assert (share(0.5), share(1.0021)) == ("0.50", "1.00210")
    assert [size(n) for n in (12, 3_500_000, 2_000)] == ["12 B", "3.5 MB", "2 kB"]
    assert plain({"a": float("inf"), "b": (1, Path("x"))}) == {"a": None, "b": [1, "x"]}
