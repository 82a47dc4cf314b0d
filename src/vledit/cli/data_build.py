"""`vledit data build`: the embedded data set, and editing benchmarks out of one's own data."""

from __future__ import annotations

from typing import Annotated

import typer

from . import data_build_okedit
from .output import Json

Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        help="demo (the little that the demo needs), full, or names of domains and icon sets (may be repeated).",
    ),
]


def register(group: typer.Typer) -> None:
    """Adds the group to `vledit data`."""
    own = typer.Typer(
        invoke_without_command=True, help="Build the data set `icons`, or a benchmark from your own data."
    )
    own.callback()(_default)
    own.command("icons")(icons)
    own.command("okedit")(data_build_okedit.okedit)
    group.add_typer(own, name="build")


def _default(ctx: typer.Context, only: Only = None, json: Json = False) -> None:
    """Build a data set; without a name, icons."""
    if ctx.invoked_subcommand is None:
        icons(only, json)


def icons(only: Only = None, json: Json = False) -> None:
    """Build the data set `icons` in the cache. Parts that exist are not built again."""
    from ..data import icons as data
    from .data import show_built

    wanted = [one for one in only or [] if one != "full"]
    show_built(data.build(wanted or None, progress=not json), json)
