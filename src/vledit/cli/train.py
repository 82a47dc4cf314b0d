"""`vledit train-pocket`: trains the embedded model's own weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .output import console
from .settings import parse_value

Steps = Annotated[int | None, typer.Option(help="Steps of this stage.", show_default=False, min=0)]
Batch = Annotated[int | None, typer.Option(help="Pictures in a batch of this stage.", show_default=False, min=1)]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("train-pocket")(train_pocket)


def train_pocket(
    folder: Annotated[
        Path | None, typer.Option(help="Where checkpoints and the log go; a run there is resumed.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same quality.", show_default=False)] = None,
    align_steps: Steps = None,
    align_vision_from: Annotated[
        int | None, typer.Option(help="Step of the first stage from which the vision trunk learns.", show_default=False)
    ] = None,
    align_batch: Batch = None,
    answer_steps: Steps = None,
    answer_batch: Batch = None,
    length: Annotated[int | None, typer.Option(help="Tokens of a packed row.", show_default=False, min=1)] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of LoRA.", show_default=False, min=1)] = None,
    align_rates: Annotated[
        str | None, typer.Option(help="Learning rates of reader, vision.", show_default=False)
    ] = None,
    answer_rates: Annotated[
        str | None, typer.Option(help="Learning rates of LoRA, reader, vision.", show_default=False)
    ] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps of warm-up.", show_default=False, min=0)] = None,
    floor: Annotated[
        float | None, typer.Option(help="Part of the learning rate that is left at the end.", show_default=False)
    ] = None,
    save_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints.", show_default=False, min=1)
    ] = None,
    check_every: Annotated[int | None, typer.Option(help="Steps between checks.", show_default=False, min=1)] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default=False, min=1)] = None,
    compiled: Annotated[
        bool | None, typer.Option("--compiled/--eager", help="Compile the model first.", show_default=False)
    ] = None,
) -> None:
    """Train the embedded model (hours on a laptop); an interrupted run goes on where it was.

    Options that are not given have the defaults of `vledit.pocket.train.TrainConfig`, those of the published weights.
    """
    given = {name: value for name, value in locals().items() if name != "folder" and value is not None}
    from ..pocket import train

    weights = train.main(folder, replace(train.TrainConfig(), **typed(train.TrainConfig, given)))
    console().print(f"weights: {weights}", markup=False, soft_wrap=True)


def typed(config: type, given: dict[str, Any]) -> dict[str, Any]:
    """The options with texts ("1e-3,3e-4") read as the configuration's fields are declared."""
    import typing

    hints = typing.get_type_hints(config)
    return {n: parse_value(n, v, hints[n]) if isinstance(v, str) else v for n, v in given.items()}
