"""`vledit models` and `vledit editors`: what there is."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from .output import Json, console, emit
from .settings import described


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("models")(models)
    app.command("editors")(editors)


def models(json: Json = False) -> None:
    """List the models that can be edited; any local folder or Hugging Face id of the same families works too."""
    from ..vlm import registry

    rows = [{"name": "pocket", "family": "pocket", "source": "embedded, assembled at first use"}]
    for family in registry.family_names():
        for short, hub in registry.family(family).checkpoints.items():
            rows.append({"name": short, "family": family, "source": f"Hugging Face: {hub}"})
    if json:
        emit(rows)
        return
    table = Table("name", "family", "where it comes from")
    for row in rows:
        table.add_row(*map(escape, row.values()))
    console().print(table)


def editors(
    name: Annotated[str | None, typer.Argument(help="A method, to see its settings.")] = None, json: Json = False
) -> None:
    """List the editing methods, or the settings of one (for `vledit edit --set name=value`)."""
    from ..editors import registry

    if name is None:
        known = registry.known()
        if json:
            emit([{"name": name, "about": about} for name, about in known.items()])
            return
        table = Table("name", "what it does")
        for editor, about in known.items():
            table.add_row(escape(editor), escape(about))
        console().print(table)
        return
    method = registry.editor_class(name)
    settings = described(method.Config)
    if json:
        emit({"name": name, "about": registry.known().get(name, ""), "settings": settings})
        return
    table = Table("setting", "type", "default", "what it does", title=f"{name}: {registry.known().get(name, '')}")
    for setting in settings:
        default = setting["default"]
        shown = "none" if default is None else "''" if default == "" else str(default)
        table.add_row(setting["name"], setting["type"], escape(shown), escape(setting["help"]))
    console().print(table)
