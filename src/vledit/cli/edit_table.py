"""`vledit edit --from`: the edits of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import EditFailedError, InputError
from .output import busy, console, emit, steps
from .session import check_codebook, use_codebook

if TYPE_CHECKING:
    from ..data.case import Probe
    from ..data.edit_rows import EditTable
    from ..editors.edited_model import EditedModel
    from ..editors.many import ManyEdits, Plan

SHOWN = 20


@dataclass(frozen=True)
class ManyOptions:
    """What `vledit edit --from` was given."""

    table: Path
    benchmark: str
    images: list[Path]
    column: list[str]
    dry_run: bool
    skip_unfit: bool
    unrelated: Path | None
    check: bool
    report: Path | None


def edit_from(
    options: ManyOptions,
    editor: str,
    settings: dict[str, Any],
    codebook: Path,
    load: Callable[[], EditedModel],
    model: str,
    json: bool,
) -> None:
    """Makes the edits; a run that was cut off goes on where it was.

    Raises: InputError for unfit rows without --skip-unfit; EditFailedError where the model did not learn all of them.
    """
    from ..paths import output_file

    if options.report is not None:
        output_file(options.report, "--report")
    if codebook.exists():
        check_codebook(codebook, writable=not options.dry_run)
    elif not codebook.absolute().parent.is_dir():
        raise InputError(f"--codebook: there is no folder '{codebook.parent}' to write '{codebook.name}' into.")
    with busy(f"reading {options.table} …"):
        table = _read(options)
        probes = _probes(options.unrelated) if options.check else []
    edited = load()
    if codebook.exists():
        use_codebook(edited, codebook, readonly=options.dry_run)
    from ..editors.many import edit_many, planned, unfit_text

    if options.dry_run:
        _show_plan(planned(edited, table), json, options)
        return
    if not codebook.exists():
        plan = planned(edited, table)
        if plan.table.unfit and not options.skip_unfit:  # before an empty file is left behind
            raise InputError(unfit_text(plan.table))
        from ..codebook import Codebook

        Codebook.create(codebook, edited.vlm.fingerprint, edited.vlm.name).close()
        use_codebook(edited, codebook)
    with steps() as progress:
        found = edit_many(
            edited,
            table,
            editor,
            skip_unfit=options.skip_unfit,
            check=options.check,
            unrelated=probes,
            progress=progress,
            **settings,
        )
    record = {
        "table": str(options.table),
        "codebook": str(codebook),
        "model": model,
        "editor": editor,
        **found.record(),
    }
    if options.report is not None:
        import json as writer

        from .output import plain

        options.report.write_text(writer.dumps(plain(record), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    if json:
        emit(record)
    else:
        _show(found, codebook)
    if found.count("failed"):
        raise typer.Exit(EditFailedError.exit_code)


def _read(options: ManyOptions) -> EditTable:
    from ..data.edit_rows import edit_table, of_benchmark

    if options.benchmark:
        return of_benchmark(options.benchmark, options.table, options.images)
    return edit_table(options.table, options.images, columns_of(options.column))


def columns_of(pairs: list[str]) -> dict[str, str]:
    """NAME=ITS_NAME texts as a mapping.  Raises: InputError."""
    found = {}
    for text in pairs:
        name, equals, theirs = text.partition("=")
        if not (equals and name.strip() and theirs.strip()):
            raise InputError(f"--column: {text!r} is not NAME=ITS_NAME, such as answer=target.")
        found[name.strip()] = theirs.strip()
    return found


def _probes(path: Path | None) -> list[Probe]:
    from ..data.question_rows import question_table
    from ..data.unrelated import unrelated

    return unrelated() if path is None else [row.probe for row in question_table(path).need_all_fit("--unrelated").rows]


def _show_plan(plan: Plan, json: bool, options: ManyOptions) -> None:
    table = plan.table
    if json:
        emit(
            {
                "table": options.table,
                "rows": table.rows,
                "to_make": [one.line for one in plan.todo],
                "there": {str(line): id for line, id in plan.done.items()},
                "replaces": {str(line): list(ids) for line, ids in plan.replaces.items()},
                "unfit": [vars(one) for one in table.unfit],
                "instead": [vars(one) for one in table.instead],
                "unused_columns": list(table.unused),
            }
        )
    else:
        out = console()
        out.print(f"{table.rows} rows: {len(plan.todo)} edits to make, {len(plan.done)} there already", markup=False)
        _show_left_out(table.unfit, table.instead, table.unused, every=True)
        for line, ids in plan.replaces.items():
            out.print(f"  line {line}: takes the place of {', '.join(ids)}, which will be retired", markup=False)
    if table.unfit and not options.skip_unfit:
        raise typer.Exit(InputError.exit_code)


def _show_left_out(unfit: Any, instead: Any, unused: Any, every: bool = False) -> None:
    out = console()
    if unused:
        out.print(f"columns that are not used: {', '.join(unused)}", markup=False, soft_wrap=True)
    if unfit:
        out.print(f"{rows(len(unfit))} cannot be used:", style="yellow", markup=False)
        _lines([str(one) for one in unfit], every)
    if instead:
        out.print(
            f"{rows(len(instead))} left out, because another row is about the same fact:", style="yellow", markup=False
        )
        words = {True: "gives the same answer as", False: "is replaced by the other answer in"}
        _lines([f"line {one.line}: {words[one.same]} line {one.by}" for one in instead], every)


def rows(count: int) -> str:
    """ "1 row", "2 rows"."""
    return f"{count} row" + "s" * (count != 1)


def _lines(lines: list[str], every: bool = False) -> None:
    out = console()
    for line in lines if every else lines[:SHOWN]:
        out.print(f"  {line}", markup=False, soft_wrap=True)
    if len(lines) > SHOWN and not every:
        out.print(f"  … and {len(lines) - SHOWN} more (--report FILE has all of them)", markup=False)


def _show(found: ManyEdits, codebook: Path) -> None:
    out = console()
    counts = [
        (found.count(name), text)
        for name, text in (
            ("made", "edits made"),
            ("there", "there already"),
            ("not needed", "not needed: the base gives the answer"),
            ("failed", "failed"),
        )
    ]
    out.print(f"{codebook}: " + ", ".join(f"{n} {text}" for n, text in counts if n), markup=False, soft_wrap=True)
    _show_left_out(found.unfit, found.instead, found.unused)
    for title, lines in (
        (
            "failed (run the command again to try them once more):",
            [f"line {r.line}: {r.reason}" for r in found.rows if r.outcome == "failed"],
        ),
        (
            "older edits that were retired:",
            [f"line {r.line}: '{r.edit}' took the place of {', '.join(r.retired)}" for r in found.rows if r.retired],
        ),
        (
            "older edits that no longer answer their own request:",
            [f"line {r.line}: '{r.edit}' has the same key as {', '.join(r.hides)}" for r in found.rows if r.hides],
        ),
        (
            "asked, but not answered as the row says:",
            [f"line {r.line}: {r.answer!r} instead of {r.wanted!r}" for r in found.wrong],
        ),
        (
            "unrelated questions with another answer:",
            [f"{u.question} {u.before!r} → {u.after!r} (edit '{u.edit}')" for u in found.changed],
        ),
    ):
        if lines:
            out.print(f"{len(lines)} {title}", style="yellow", markup=False, soft_wrap=True)
            _lines(lines)
    asked = [row for row in found.rows if row.right is not None]
    if asked:
        out.print(
            f"check: {len(asked) - len(found.wrong)} of {len(asked)} edits answer their own question", markup=False
        )
    if found.unrelated:
        kept = len(found.unrelated) - len(found.changed)
        out.print(f"check: {kept} of {len(found.unrelated)} unrelated questions keep their answer", markup=False)
