"""`vledit data …`: the embedded data set: build it, its card and its contact sheet; benchmarks: list them, check their files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Column, Table

from ..errors import MissingDataError, UnknownNameError
from . import data_build
from .benchmark_files import check
from .output import Json, busy, console, emit, errors
from .session import Device, Dtype, Model, open_model

ICONS = "icons"
ABOUT = "things, flags and brands, each drawn by many hands; built from npm packages"
Name = Annotated[str, typer.Argument(help="Name of a data set; see `vledit data list`.")]


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(no_args_is_help=True, help="Build and inspect data sets and benchmarks.")
    data_build.register(group)
    for command in (list_, card, sheet, edits, check):
        group.command(command.__name__.rstrip("_"))(command)
    app.add_typer(group, name="data")


def _known(name: str) -> None:
    if name != ICONS:
        raise UnknownNameError("data set", name, [ICONS])


def show_built(data: Any, json: bool) -> None:
    """Says what the built data set holds."""
    record = _record(data)
    if json:
        emit(record)
        return
    console().print(
        f"{ICONS} {data.version}: {record['concepts']} concepts, {record['drawings']} drawings, in {data.root}",
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
    """List the data sets: the embedded one, whether it is built, and the benchmarks that are read from files."""
    from ..data import benchmarks, icons

    try:
        record = _record(icons.load())
    except MissingDataError:
        record = {"name": ICONS, "about": ABOUT, "built": False}
    others = [benchmarks.benchmark(name) for name in benchmarks.names() if name != ICONS]
    if json:
        shown = [{"name": b.name, "about": b.about, "where": b.where, "more": dict(b.more)} for b in others]
        emit([record, *shown])
        return
    where = Column("state, or where its files are to be had", overflow="fold")  # an address is not to be cut
    table = Table("name", "contents", where, show_lines=True)
    state = "not built: vledit data build icons"
    if record["built"]:
        state = f"{record['concepts']} concepts, {record['drawings']} drawings, {record['version']}"
    table.add_row(ICONS, ABOUT, escape(state))
    for other in others:
        table.add_row(escape(other.name), escape(other.about), escape(other.where))
    console().print(table)
    console().print(
        "Files that you have: vledit data check NAME --annotations FILE --images FOLDER; then vledit bench with the same.",
        markup=False,
        soft_wrap=True,
    )


def card(name: Name = ICONS, json: Json = False) -> None:
    """Print the data card: counts, splits, licences."""
    _known(name)
    from ..data import icons
    from ..data.icons.card import data_card

    data = icons.load()
    if json:
        emit({**_record(data), "card": data_card(data)})
        return
    console().print(data_card(data), markup=False, soft_wrap=True)


def sheet(
    name: Name,
    out: Annotated[Path, typer.Argument(help="The PNG file to write.")],
    json: Json = False,
) -> None:
    """Write a contact sheet of the drawings."""
    _known(name)
    from ..data import icons
    from ..data.icons.sheet import write_contact_sheet

    with busy("drawing …"):
        write_contact_sheet(out, icons.load())
    if json:
        emit({"sheet": out})
        return
    console().print(f"wrote {out}", markup=False, soft_wrap=True)


def edits(
    name: Name = ICONS,
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    batch: Annotated[int, typer.Option(help="Questions asked at once.")] = 32,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            help="Parts to choose again: ids (drawings that training saw), held_out (drawings by held-out "
            "vendors), text (no picture); may be repeated; default: all.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Choose the edits to score: all candidates whose question the unedited model answers correctly."""
    _known(name)
    from ..data import icons
    from ..data.icons.edit_filter import PARTS

    for unknown in set(only or ()) - set(PARTS):
        raise UnknownNameError("part", unknown, PARTS)

    data = icons.load()
    vlm = open_model(model, device, dtype).vlm

    def answer_many(asked: Sequence[tuple[object, str]]) -> list[str]:
        found: list[str] = []
        with Progress(console=errors) as progress:
            task = progress.add_task("asking the base", total=len(asked))
            for start in range(0, len(asked), batch):
                some = asked[start : start + batch]
                found += vlm.answer([image for image, _ in some], [question for _, question in some], 16)
                progress.advance(task, len(some))
        return found

    parts = cast("list[Any]", [part for part in PARTS if not only or part in only])
    lock = icons.filter_edits(data, f"{vlm.name} {vlm.fingerprint[:12]}", answer_many=answer_many, parts=parts)
    counts = {
        split if part == "ids" else f"{part} {split}": len(ids)
        for part in PARTS
        for split, ids in getattr(lock, part).items()
        if ids
    }
    if json:
        emit({"model": lock.model, "data": lock.data_version, **counts})
        return
    console().print(f"kept {sum(counts.values())} edits: " + ", ".join(f"{n} {s}" for s, n in counts.items()))
