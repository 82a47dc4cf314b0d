"""`vledit ask --from`: the questions of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .output import console, emit, steps

if TYPE_CHECKING:
    from ..editors.ask_many import ManyAnswers
    from ..editors.edited_model import EditedModel

SHOWN = 20


@dataclass(frozen=True)
class AskOptions:
    """What `vledit ask --from` was given."""

    table: Path
    out: Path | None
    images: list[Path]
    base: bool
    skip_unfit: bool
    overwrite: bool


def ask_from(options: AskOptions, load: Callable[[], EditedModel], json: bool) -> None:
    """Asks them; a run that was cut off goes on where it was.

    Raises: InputError for unfit rows without --skip-unfit, or an --out that holds something else.
    """
    if options.out is None and not json:
        raise InputError("--out: give the CSV, TSV or JSONL file that the answers shall be written to, or --json.")
    from ..data.question_rows import question_table

    table = question_table(options.table, options.images)  # before a model is loaded
    if table.unfit and not options.skip_unfit:
        table.need_all_fit("--from")
    edited = load()
    from ..editors.ask_many import ask_many

    with steps() as progress:
        found = ask_many(
            edited,
            options.table,
            options.out,
            images=options.images,
            base=options.base,
            skip_unfit=options.skip_unfit,
            overwrite=options.overwrite,
            progress=progress,
        )
    if json:
        emit({"table": options.table, "out": options.out, "model": edited.vlm.name, **found.record()})
    else:
        _show(found, options)


def _show(found: ManyAnswers, options: AskOptions) -> None:
    out = console()
    record = found.record()
    there = f", {found.there} were there already" if found.there else ""
    out.print(f"{options.out}: {record['asked']} questions answered{there}", markup=False, soft_wrap=True)
    out.print(f"an edit fired for {record['fired']} of {len(found.rows)}", markup=False)
    if record["expected"]:
        out.print(f"{record['right']} of {record['expected']} answers are the expected ones", markup=False)
    if options.base:
        changed = sum(row.answer != row.base for row in found.rows)
        out.print(f"{changed} answers are not those of the model without edits", markup=False)
    for title, lines in (
        ("rows were left out:", [str(one) for one in found.unfit]),
        (
            "answers are not the expected ones:",
            [f"line {r.line}: {r.answer!r}, not {r.expected!r}" for r in found.wrong],
        ),
    ):
        if lines:
            out.print(f"{len(lines)} {title}", style="yellow", markup=False)
            for line in lines[:SHOWN]:
                out.print(f"  {line}", markup=False, soft_wrap=True)
            if len(lines) > SHOWN:
                out.print(f"  … and {len(lines) - SHOWN} more", markup=False)
