"""`vledit reproduce`: the commands behind every table of the two papers, to look at (`--plan`) or to run."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..errors import InputError
from .benchmark_files import Annotations, Images, With
from .output import Json, console, emit, errors, size
from .session import Device, Dtype

if TYPE_CHECKING:
    from ..evaluate.recipes import Given, Recipe


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("reproduce")(reproduce)


def reproduce(
    name: Annotated[str, typer.Argument(help="Table of a paper, e.g. balancedit-table3; see --list.")] = "",
    list_: Annotated[bool, typer.Option("--list", help="List all tables and stop.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print checkpoint, files, settings, commands, time and memory; run nothing.")
    ] = False,
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="Checkpoint; by default the first in the paper. See `vledit models`."),
    ] = "",
    benchmark: Annotated[
        str, typer.Option(help="Benchmark; by default the paper's first. `icons` is enough to try a recipe out.")
    ] = "",
    annotations: Annotations = None,
    train: Annotated[
        Path | None, typer.Option(help="Annotations of the training split, for editors that are trained first.")
    ] = None,
    images: Images = None,
    more: With = None,
    limit: Annotated[int, typer.Option(help="Number of edits, spread evenly; 0: all.")] = 0,
    fit_steps: Annotated[
        int, typer.Option(help="Training steps of each editor that is trained first; 0: the editor's own number.")
    ] = 0,
    own_settings: Annotated[
        bool, typer.Option("--own-settings", help="Use VLEdit's settings even if the authors published theirs.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for all output; by default reproduce/NAME.")] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: Json = False,
) -> None:
    """Reproduce a table or figure of the BalancEdit or De-VQA paper. An interrupted run can be continued."""
    from ..evaluate.recipes import Given, recipe

    if list_ or not name:
        _list(json)
        return
    chosen = recipe(name)
    checkpoint = model or (chosen.checkpoints[0] if chosen.checkpoints else "pocket")
    data = benchmark or chosen.benchmarks[0]
    folder = out or Path("reproduce") / name
    given = Given(
        checkpoint,
        _family(checkpoint),
        folder,
        data,
        annotations,
        train,
        tuple(images or ()),
        tuple(more or ()),
        limit,
        dtype,
        device,
        own_settings,
        fit_steps,
    )
    commands = chosen.commands(given)
    if plan:
        _plan(chosen, given, commands, json)
        return
    _check(chosen, given)
    folder.mkdir(parents=True, exist_ok=True)
    with redirect_stdout(sys.stderr) if json else nullcontext():  # the commands' own tables are no part of the record
        taken = [_run(command) for command in commands]
    if json:
        emit({"recipe": name, "out": folder, "commands": [shlex.join(c) for c in commands], "seconds": taken})
        return
    console().print(f"{name}: {len(commands)} commands, {sum(taken):.0f} s; all of it is in {folder}", markup=False)


def _run(command: Sequence[str]) -> float:
    """One command of ours, in this process; its seconds.  Where it fails, it has said why, and the recipe ends with its code."""
    from .app import build

    errors.print(f"$ vledit {shlex.join(command)}", markup=False, highlight=False, soft_wrap=True, style="bold")
    began = time.perf_counter()
    code = typer.main.get_command(build()).main(list(command), standalone_mode=False)
    if isinstance(code, int) and code:
        raise typer.Exit(code)
    return time.perf_counter() - began


def _family(model: str) -> str:
    """The family of a checkpoint, from its name or its config.  Raises: as `vledit.load`."""
    from ..estimate import sizes_of

    return sizes_of(model)[1].name


def _check(chosen: Recipe, given: Given) -> None:
    """Raises: InputError for a file that is missing, before anything is run."""
    from ..data.benchmarks import benchmark
    from ..evaluate.recipes import FILES, FITTED

    if not benchmark(given.benchmark).from_files:
        return
    score, fit, _ = FILES.get(given.benchmark, ("its annotations", "its training annotations", 0))
    if given.annotations is None:
        raise InputError(f"annotations: {given.benchmark} is read from files; give --annotations ({score}).")
    if given.train is None and any(name in FITTED for name in chosen.editors):
        fitted = ", ".join(name for name in chosen.editors if name in FITTED)
        raise InputError(f"train: {fitted} are trained first; give --train ({fit}).")


def _plan(chosen: Recipe, given: Given, commands: Sequence[Sequence[str]], json: bool) -> None:
    from ..estimate import estimate, sizes_of
    from ..evaluate.recipes import FILES

    known, family = sizes_of(given.model)
    files = FILES.get(given.benchmark)
    edits = given.limit or (files[2] if files else 795)
    taken = estimate(known, family, edits=edits, dtype=_wide(given.dtype))
    record = {
        "recipe": chosen.name,
        "about": chosen.about,
        "model": given.model,
        "checkpoints": list(chosen.checkpoints),
        "benchmark": given.benchmark,
        "benchmarks": list(chosen.benchmarks),
        "files": files[0] if files else "come with the package",
        "training_files": files[1] if files else "come with the package",
        "edits": edits,
        "memory": taken.weights + taken.making_full,
        "memory_text": f"{size(taken.weights)} of weights, {size(taken.making_full)} while an edit is trained",
        "time": chosen.time(edits),
        "hardware": chosen.hardware,
        "missing": chosen.missing,
        "commands": [f"vledit {shlex.join(command)}" for command in commands],
    }
    if json:
        emit(record)
        return
    hidden = ("recipe", "about", "commands", "memory")  # the title says the first two
    table = Table(show_header=False, title=f"{chosen.name}: {chosen.about}")
    for name, value in record.items():
        if name not in hidden and value not in ("", []):
            table.add_row(
                name.removesuffix("_text").replace("_", " "),
                ", ".join(value) if isinstance(value, list) else str(value),
            )
    console().print(table)
    for command in record["commands"]:
        console().print(command, markup=False, highlight=False, soft_wrap=True)


def _wide(dtype: str) -> str:
    return {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "auto": "float32"}.get(dtype, dtype)


def _list(json: bool) -> None:
    from ..evaluate.recipes import RECIPES

    if json:
        emit({one.name: {"about": one.about, "checkpoints": list(one.checkpoints)} for one in RECIPES.values()})
        return
    table = Table("name", "contents", "checkpoints", "benchmarks")
    for one in RECIPES.values():
        table.add_row(one.name, one.about, ", ".join(one.checkpoints) or "any", ", ".join(one.benchmarks))
    console().print(table)
