"""`vledit codebook …`: what is in a codebook file, and taking edits out and back in.  Needs no model."""

from __future__ import annotations

from contextlib import AbstractContextManager, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ..errors import InputError
from ..report.records import entry_record, row_record
from .codebook_join import diff, merge
from .output import Json, busy, console, emit, emit_long, number, size, steps
from .session import existing

if TYPE_CHECKING:
    from ..codebook import Codebook, Entry
    from ..codebook.store import Store

File = Annotated[Path, typer.Argument(help="The codebook file.")]
Id = Annotated[str, typer.Argument(help="Id of the edit; `vledit codebook list` shows it.")]
LISTED = 1_000
"""Entries that a table shows unless more are asked for."""
STYLES = {"active": "green", "retired": "yellow", "removed": "dim"}


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(no_args_is_help=True, help="Inspect a codebook file, remove edits and restore them.")
    for command in (list_, show, remove, restore, purge, export, history, verify, merge, diff):
        group.command(command.__name__.rstrip("_"))(command)
    app.add_typer(group, name="codebook")


def _open(file: Path, readonly: bool = True) -> Codebook:
    from ..codebook import Codebook

    return Codebook.open(existing(file, "codebook"), readonly=readonly)


def _stored(file: Path) -> AbstractContextManager[Store]:
    """The file itself, of which only what is asked for is read."""
    from ..codebook.store import Store

    return closing(Store(existing(file, "codebook"), readonly=True))


def list_(
    file: File,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "-n",
            min=0,
            help=f"List only so many, the newest; 0 for all. [default: {LISTED:,}; with --json all]",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the edits, oldest first."""
    wanted = (None if json else LISTED) if limit is None else limit or None
    with _stored(file) as store, busy("reading entries …"):
        if json:
            head = {"model": store.model_name, "fingerprint": store.fingerprint}
            emit_long(head, "entries", map(row_record, store.rows(wanted)))
            return
        counts, rows = store.statuses(), [*map(row_record, store.rows(wanted))]
    of = sum(counts.values())
    table = Table(title=f"{escape(str(file))}: {counts['active']} active of {of}, for {escape(store.model_name)}")
    for name in ("id", "status", "question", "answer"):
        table.add_column(name, overflow="fold")
    for name in ("radius", "bytes"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["id"],
            f"[{STYLES[row['status']]}]{row['status']}[/]",
            escape(row["question"]),
            escape(row["answer"]),
            number(row["scopes"][0]["radius"]),
            size(row["bytes"]),
        )
    console().print(table)
    if len(rows) < of:
        console().print(f"the newest {len(rows):,} of {of:,} entries; --limit 0 lists all", markup=False, style="dim")


def show(file: File, id: Id, json: Json = False) -> None:
    """Show one edit: its scope, what the radius was measured with, and its history."""
    with _stored(file) as store:
        _, entry = store.get(id)
        events = [event._asdict() for event in store.events(id)]
    if json:
        emit({**entry_record(entry), "history": events})
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts(entry).items():
        table.add_row(name, escape(value))
    for event in events:
        table.add_row(event["action"], escape(f"{event['time'][:19]}  {event['detail']}"))
    console().print(table)


def facts(entry: Entry) -> dict[str, str]:
    """An entry for people, name → text; empty things are left out."""
    rows = {
        "id": entry.id,
        "status": entry.status + (f" by {entry.retired_by}" if entry.retired_by else ""),
        "question": entry.question,
        "answer": entry.answer,
        "site": entry.site,
        **({"key read at": entry.key_site} if entry.key_site != entry.site else {}),
        "transformation": f"{entry.transformation.kind}, {size(entry.transformation.nbytes)}",
        "started from": entry.parent or "the base",
    }
    for scope in entry.scopes:
        prefix = f"{scope.name}: " if len(entry.scopes) > 1 else ""
        rows[prefix + "radius"] = f"{number(scope.radius)} ({scope.distance}, {scope.key_tokens} of {scope.width})"
        if scope.anchors is not None:
            anchors = scope.anchors
            rows[prefix + "alpha"] = number(scope.alpha)
            rows[prefix + "d_pos"] = (
                f"{number(anchors.d_positive)}  {anchors.positive_source}: {anchors.positive_question!r}"
            )
            if anchors.d_negative is not None:
                rows[prefix + "d_neg"] = f"{number(anchors.d_negative)}  {anchors.negative}"
    rows |= {name: str(value) for name, value in entry.notes.items() if value not in (None, [], "")}
    return rows


def remove(file: File, id: Id, json: Json = False) -> None:
    """Remove an edit. The edit that it had replaced, if any, becomes active again."""
    with _open(file, readonly=False) as book:
        with busy("removing …"):  # a large file without its index gets it now
            entry = book.remove(id)
        _changed(entry, "removed", json)


def restore(file: File, id: Id, json: Json = False) -> None:
    """Restore a removed or replaced edit exactly as it was."""
    with _open(file, readonly=False) as book:
        with busy("restoring …"):
            entry = book.restore(id)
        _changed(entry, "restored", json)


def purge(
    file: File,
    id: Id,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm; a deleted edit cannot be restored.")] = False,
    json: Json = False,
) -> None:
    """Delete an edit for good, including its picture and texts."""
    with _open(file, readonly=False) as book:
        entry = book.get(id)
        if not yes:
            raise InputError(f"'{id}' ({entry.title()}) would be deleted for good; say --yes, or use `remove`.")
        with busy("deleting …"):
            book.purge(id)
        _changed(entry, "purged", json)


def _changed(entry: Entry, action: str, json: bool) -> None:
    if json:
        emit({"action": action, **entry_record(entry)})
    else:
        console().print(f"{action} '{entry.id}': {entry.title()}", markup=False, soft_wrap=True)


def export(
    file: File,
    out: Annotated[Path, typer.Argument(help="The JSON file to write.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="Include keys, weight changes and pictures.")] = False,
    json: Json = False,
) -> None:
    """Write the codebook as readable JSON."""
    with _open(file) as book:
        with steps() as step:
            book.export(out, tensors=tensors, progress=partial(step, "writing entries"))
        count = len(book.entries())
    if json:
        emit({"path": out, "entries": count})
    else:
        console().print(f"wrote {count} entries to {out}", markup=False, soft_wrap=True)


def history(file: File, json: Json = False) -> None:
    """Show the history of the codebook, oldest first."""
    with _stored(file) as store, busy("reading the history …"):
        events = store.events()
    if json:
        emit([event._asdict() for event in events])
        return
    table = Table("time (UTC)", "action", "entry", "detail")
    for event in events:
        table.add_row(event.time[:19].replace("T", " "), event.action, escape(event.entry), escape(event.detail))
    console().print(table)


def verify(file: File, json: Json = False) -> None:
    """Check every byte of the file."""
    with _open(file) as book, steps() as step:
        count = book.verify(partial(step, "checking entries"))
    if json:
        emit({"path": file, "entries": count, "sound": True})
    else:
        console().print(f"{file} is sound: {count} entries", markup=False, soft_wrap=True)
