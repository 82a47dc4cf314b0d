"""`vledit codebook merge` and `vledit codebook diff`: two codebook files, joined or compared fact by fact."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import Json, busy, console, emit, steps
from .session import existing

if TYPE_CHECKING:
    from ..codebook import Entry
    from ..codebook.joining import Difference, Joined

First = Annotated[Path, typer.Argument(help="The first codebook file.")]
Second = Annotated[Path, typer.Argument(help="The second codebook file.")]


def merge(
    first: First,
    second: Second,
    out: Annotated[Path, typer.Option("--out", "-o", help="The codebook file to write.")],
    prefer: Annotated[
        str | None,
        typer.Option(
            help="Which answer to keep in a conflict: first, second or newest. Without it, conflicts stop the merge."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file at --out.")] = False,
    json: Json = False,
) -> None:
    """Merge two codebooks of the same model. Conflicts are listed, and nothing is written until you choose with --prefer."""
    from ..codebook import Codebook
    from ..codebook.joining import hidden
    from ..codebook.joining import merge as merged

    mine, theirs = existing(first, "first"), existing(second, "second")
    with steps() as step:
        made = merged(mine, theirs, out, prefer, overwrite=overwrite, progress=partial(step, "writing entries"))
        with Codebook.open(out, readonly=True) as book:
            active, equal_keys = len(book), hidden(book, made.added, partial(step, "comparing keys"))
    if json:
        emit({"out": out, "active": active, **_record(made), "equal_keys": [list(pair) for pair in equal_keys]})
        return
    say = console()
    say.print(
        f"{out}: {len(made.entries)} entries, {active} active ({len(made.added)} from {second}, {len(made.shared)} in both)",
        markup=False,
        soft_wrap=True,
    )
    _list(
        f"conflicts, decided for the {prefer}:",
        [
            f"{one.first.question!r}: {one.first.answer!r} or {one.second.answer!r} → "
            f"{(one.first if one.kept == 'first' else one.second).answer!r}"
            for one in made.conflicts
        ],
    )
    _list("entries that give the same answer in both; the first is kept:", [f"'{a}' and '{b}'" for a, b in made.same])
    _list("entries of the second with a new id:", [f"'{old}' is now '{new}'" for old, new in made.renamed.items()])
    _list(
        "entries with another status in each codebook; the later change counts:",
        [f"'{id}' is {status}" for id, status in made.statuses.items()],
    )
    _list(
        "entries that answer the request of another one, because their keys are equal:",
        [f"'{new}' instead of '{old}'" for new, old in equal_keys],
    )


def diff(
    first: First,
    second: Second,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with code 1 if the codebooks differ.")] = False,
    json: Json = False,
) -> None:
    """Show how two codebooks differ, fact by fact."""
    from ..codebook import Codebook
    from ..codebook.joining import differences

    with (
        Codebook.open(existing(first, "first"), readonly=True) as mine,
        Codebook.open(existing(second, "second"), readonly=True) as theirs,
        busy("comparing entries …"),
    ):
        found = differences(mine, theirs)
        models = (mine.model_name, theirs.model_name) if mine.fingerprint != theirs.fingerprint else None
    if json:
        emit({"models": models, **_difference_record(found)})
    else:
        _show_difference(found, models, first, second)
    if exit_code and found:
        raise typer.Exit(1)


def _record(made: Joined) -> dict[str, Any]:
    return {
        "entries": len(made.entries),
        "added": made.added,
        "shared": made.shared,
        "conflicts": [
            {"question": one.first.question, "first": _brief(one.first), "second": _brief(one.second), "kept": one.kept}
            for one in made.conflicts
        ],
        "same": [list(pair) for pair in made.same],
        "renamed": made.renamed,
        "statuses": made.statuses,
    }


def _brief(entry: Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in ("id", "question", "answer", "image_key", "status", "created")}


def _difference_record(found: Difference) -> dict[str, Any]:
    pairs = lambda some: [{"first": _brief(a), "second": _brief(b)} for a, b in some]  # noqa: E731
    return {
        "only_first": [*map(_brief, found.only_first)],
        "only_second": [*map(_brief, found.only_second)],
        "changed": pairs(found.changed),
        "remade": pairs(found.remade),
        "statuses": pairs(found.statuses),
        "equal": found.equal,
    }


def _show_difference(found: Difference, models: tuple[str, str] | None, first: Path, second: Path) -> None:
    if models is not None:
        console().print(f"The codebooks are of different models: {models[0]} and {models[1]}.", markup=False)
    _list(f"only in {first}:", [f"'{entry.id}' {entry.title()}" for entry in found.only_first])
    _list(f"only in {second}:", [f"'{entry.id}' {entry.title()}" for entry in found.only_second])
    _list(
        "the same fact, another answer:",
        [f"{a.question!r}: {a.answer!r} ('{a.id}') → {b.answer!r} ('{b.id}')" for a, b in found.changed],
    )
    _list(
        "the same fact and answer, edited separately:",
        [f"{a.title()} ('{a.id}' and '{b.id}')" for a, b in found.remade],
    )
    _list("another status:", [f"'{a.id}' {a.title()}: {a.status} → {b.status}" for a, b in found.statuses])
    console().print(f"{found.equal} active entries are the same in both", markup=False)


def _list(title: str, lines: list[str]) -> None:
    if not lines:
        return
    console().print(f"{len(lines)} {title}", style="yellow", markup=False, soft_wrap=True)
    for line in lines:
        console().print(f"  {line}", markup=False, soft_wrap=True)
