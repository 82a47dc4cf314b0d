"""`--adapter` on the commands that open a model: it reaches the loading, and a mistake in it is told in words."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from tests.evaluate.small import case
from vledit.cli import demo, session
from vledit.cli.app import build
from vledit.cli.benchmark_files import BenchmarkFiles

COMMANDS = {
    "ask": ["ask", "what?"],
    "edit": ["edit", "-q", "what?", "-a", "tea"],
    "fit": ["fit", "--editor", "mend"],
    "fit-scope": ["fit-scope"],
    "demo": ["demo"],
    "serve": ["serve"],
}


class Reached(Exception):
    """The loading was asked for."""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_adapter_reaches_the_loading(name, monkeypatch, tmp_path):
    seen = {}

    def load(model, device, dtype, **options):
        seen.update(options, model=model)
        raise Reached

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "load_model", load)
    monkeypatch.setattr(demo, "load_data", lambda progress: None)
    monkeypatch.setattr(BenchmarkFiles, "cases", lambda _self, *_: [case(0)])
    found = CliRunner().invoke(build(), ["--debug", *COMMANDS[name], "--model", "some/base", "--adapter", "my/adapter"])
    assert isinstance(found.exception, Reached), found.output
    assert seen == {"model": "some/base", "adapter": "my/adapter"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_is_not_there_is_told(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "load_data", lambda progress: None)
    monkeypatch.setattr(BenchmarkFiles, "cases", lambda _self, *_: [case(0)])
    found = CliRunner().invoke(build(), [*COMMANDS[name], "--adapter", "./nowhere"])
    assert found.exit_code == 5
    assert "adapter: there is no folder './nowhere'" in found.output
