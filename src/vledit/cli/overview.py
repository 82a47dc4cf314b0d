"""The commands of `vledit`, each with the module that has it and a line for `vledit --help`; a module is loaded when its command
is used."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any, NamedTuple

import typer


class Overview(NamedTuple):
    """A command before its module is loaded: the module in this package with `register(app: typer.Typer)`, and one line."""

    module: str
    line: str


COMMANDS = {
    "demo": Overview("demo", "Rename a brand's mark and see which answers change."),
    "ask": Overview("ask", "Ask the model a question about a picture, or the questions of a table."),
    "edit": Overview("edit", "Change what the model answers: one fact, or the facts of a table."),
    "codebook": Overview("codebook", "Inspect codebook files, undo edits, merge and compare."),
    "check": Overview("check", "Check edits with a set of questions before you ship them."),
    "serve": Overview("serve", "Serve the model: OpenAI's API, an API for edits, and pages."),
    "token": Overview("token", "Create, list and revoke access tokens of a server."),
    "export": Overview("export", "Export edits for other tools, as a LoRA adapter or a whole model."),
    "models": Overview("catalogue", "List the models that can be edited, or check one."),
    "editors": Overview("catalogue", "List the editors, or the settings of one."),
    "convert": Overview("convert", "Assemble a Hugging Face folder from a model that was published in parts."),
    "data": Overview("data", "Build and inspect the data sets and benchmarks."),
    "fit": Overview("fit", "Train an editor that needs training, for one model."),
    "fit-scope": Overview("fit_scope", "Find how far edits may reach, for BalancEdit's default scope."),
    "bench": Overview("bench", "Measure editors on a benchmark."),
    "choose-alpha": Overview("choose_alpha", "Choose BalancEdit's α for a model."),
    "compare": Overview("compare", "Show which differences between two results are significant."),
    "report": Overview("report", "Write an HTML page of results."),
    "analyze": Overview("analyze", "Analyse where an answer comes from, before and after an edit."),
    "tune": Overview("tune", "Search for the best settings of an editor."),
    "ablate": Overview("ablate", "Run an ablation of the BalancEdit paper; writes a plot and a CSV file."),
    "reproduce": Overview("reproduce", "Reproduce a table or figure of the BalancEdit or De-VQA paper."),
    "train-pocket": Overview("train", "Train `pocket`, the small model that comes with VLEdit."),
    "model-card": Overview("train", "Measure the accuracy of `pocket`."),
}
"""Command → its overview, in the order of `vledit --help`."""


class Lazily(MutableMapping[str, Any]):
    """Command → the command itself, whose module is loaded when it is asked for."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded and name in COMMANDS:
            app = typer.Typer(pretty_exceptions_enable=False)
            app.callback()(lambda: None)  # so that a single command is a group's
            import_module(f".{COMMANDS[name].module}", __package__).register(app)
            self._loaded |= getattr(typer.main.get_command(app), "commands", {})
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in COMMANDS or name in self._loaded

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*COMMANDS, *self._loaded]))

    def __len__(self) -> int:
        return len(list(iter(self)))
