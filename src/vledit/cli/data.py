"""`vledit data …`: the embedded data set: build it, list it, its card and its contact sheet."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ..errors import MissingDataError, UnknownNameError
from .output import Json, busy, console, emit

ICONS = "icons"
ABOUT = "things, flags and brands, each drawn by many hands; built from npm packages"
Name = Annotated[str, typer.Argument(help="Name of a data set; see `vledit data list`.")]


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(no_args_is_help=True, help="Build the embedded data set and look at it.")
    for command in (build, list_, card, sheet):
        group.command(command.__name__.rstrip("_"))(command)
    app.add_typer(group, name="data")


def _known(name: str) -> None:
    if name != ICONS:
        raise UnknownNameError("data set", name, [ICONS])


def build(
    name: Name = ICONS,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="demo (little, for the demo), full, or domains and icon sets (may be repeated)."),
    ] = None,
    json: Json = False,
) -> None:
    """Build a data set in the cache; what is there already is not built again."""
    _known(name)
    from ..data import icons

    wanted = [one for one in only or [] if one != "full"]
    data = icons.build(wanted or None, progress=not json)
    record = _record(data)
    if json:
        emit(record)
        return
    console().print(
        f"{name} {data.version}: {record['concepts']} concepts, {record['drawings']} drawings, in {data.root}",
        markup=False,
        soft_wrap=True,
    )


def _record(data: Any) -> dict[str, Any]:
    domains = Counter(concept.domain for concept in data.concepts.values())
    return {
        "name": ICONS,
        "about": ABOUT,
        "built": True,
        "version": data.version,
        "path": data.root,
        "concepts": len(data.concepts),
        "drawings": len(data.drawings),
        "domains": dict(domains),
    }


def list_(json: Json = False) -> None:
    """List the data sets, and whether they are built."""
    from ..data import icons

    try:
        record = _record(icons.load())
    except MissingDataError:
        record = {"name": ICONS, "about": ABOUT, "built": False}
    if json:
        emit([record])
        return
    table = Table("name", "what it holds", "state")
    state = "not built: vledit data build icons"
    if record["built"]:
        state = f"{record['concepts']} concepts, {record['drawings']} drawings, {record['version']}"
    table.add_row(ICONS, ABOUT, escape(state))
    console().print(table)


def card(name: Name = ICONS) -> None:
    """Print the data card: counts, splits, licences."""
    _known(name)
    from ..data import icons
    from ..data.icons.card import data_card

    console().print(data_card(icons.load()), markup=False, soft_wrap=True)


def sheet(
    name: Name,
    out: Annotated[Path, typer.Argument(help="The PNG file to write.")],
) -> None:
    """Write a contact sheet of the drawings."""
    _known(name)
    from ..data import icons
    from ..data.icons.sheet import write_contact_sheet

    with busy("drawing …"):
        write_contact_sheet(out, icons.load())
    console().print(f"wrote {out}", markup=False, soft_wrap=True)
