"""`vledit compare` says which differences between two runs are more than chance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .leaderboard import comparison_table
from .output import Json, busy, console, emit, errors


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("compare")(compare)


def compare(
    first: Annotated[str, typer.Argument(help="Results file, or FILE::VARIANT if it holds several variants.")],
    second: Annotated[
        str, typer.Argument(help="Results file to compare with; may be another variant of the same file.")
    ],
    force: Annotated[bool, typer.Option("--force", help="Compare even if models or benchmarks differ.")] = False,
    seed: Annotated[int, typer.Option(help="Random seed of the bootstrap.")] = 0,
    all_metrics: Annotated[bool, typer.Option("--all", help="Also show token-level and top-10 scores.")] = False,
    json: Json = False,
) -> None:
    """Show which differences between two results are significant, by a paired bootstrap over the edits they share."""
    from ..evaluate import compare as comparing
    from ..evaluate.results import read_results

    chosen, manifests = [], []
    for text in (first, second):
        path, _, variant = text.partition("::")
        with busy(f"reading {path} …"):
            head, records = read_results(Path(path))
        manifests.append(head["manifest"])
        chosen.append(comparing.choose(records, variant or None, path))
    if different := comparing.check_comparable(manifests[0], manifests[1]):
        text = f"compare: the runs differ in more than their editors: {'; '.join(different)}."
        if not force:
            raise InputError(f"{text} --force compares them all the same.")
        errors.print(f"warning: {text}", markup=False, highlight=False, soft_wrap=True)
    with busy("comparing …"):
        found = comparing.compare(chosen[0], chosen[1], seed)
    if json:
        emit({**vars(found), "differences": [{**vars(d), "significant": d.significant} for d in found.differences]})
        return
    console().print(comparison_table(found, all_metrics))
    rest = f"; {found.only_first} only in the first, {found.only_second} only in the second"
    errors.print(f"{found.common} edits in common{rest}. *: 0 lies outside the 95 % interval.", markup=False)
