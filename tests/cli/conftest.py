"""A command line whose model is a stand-in: what is tested is what a user sees, types and gets back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.demo.standins import StandIn, StandInData
from vledit.cli import demo, session
from vledit.cli.app import build


@dataclass
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Ran]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cli]:
    """Runs `vledit` with arguments, in an empty folder, on the stand-in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "load_model", lambda name, device, dtype: StandIn())
    monkeypatch.setattr(demo, "load_data", lambda progress: StandInData())
    app = build()

    def run(*arguments: object) -> Ran:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def apple(tmp_path: Path) -> Path:
    """Apple's mark as the stand-in knows it."""
    data = StandInData()
    path = tmp_path / "apple.png"
    data.composite(data.drawings_of("brands/apple")[0], 0, "clean", 64).save(path)
    return path
