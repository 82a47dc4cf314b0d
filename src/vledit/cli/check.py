"""`vledit check`: what a codebook changes on a set of probes, as a page and an exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import GateError
from .output import Json, console, emit, steps
from .session import (
    Adapter,
    Device,
    DeviceMap,
    Dtype,
    Model,
    Quantization,
    check_codebook,
    existing,
    open_model,
    use_codebook,
)

if TYPE_CHECKING:
    from ..evaluate.probe_check import ProbeCheck

SHOWN = 20


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("check")(check)


def check(
    codebook: Annotated[Path, typer.Argument(help="Codebook file to check.")],
    probes: Annotated[
        Path,
        typer.Option(
            "--probes",
            help="A CSV, JSONL, JSON or YAML file (question, image, answer, group). With an answer: what the edited model must "
            "say. Without: the base's answer must stay.",
        ),
    ],
    page: Annotated[Path | None, typer.Option("--page", help="The HTML page to write.")] = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers", help="CSV, TSV or JSONL file for all answers; with it an interrupted check can be continued."
        ),
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option("--images", help="Folder of the pictures (may be repeated).")
    ] = None,
    allow: Annotated[int, typer.Option(min=0, help="How many questions may fail before the exit code becomes 8.")] = 0,
    skip_unfit: Annotated[bool, typer.Option("--skip-unfit", help="Skip invalid rows instead of stopping.")] = False,
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    quantization: Quantization = None,
    device_map: DeviceMap = None,
    adapter: Adapter = None,
    json: Json = False,
) -> None:
    """Ask a set of questions without and with the edits, and exit with code 8 if an answer is not as it should be."""
    from ..data.question_rows import question_table
    from ..paths import output_file

    check_codebook(existing(codebook, "codebook"))
    if page is not None:
        page = output_file(page, "--page")
    table = question_table(probes, images or [])  # before a model is loaded
    if not table.rows or (table.unfit and not skip_unfit):
        table.need_all_fit("--probes")
    edited = open_model(model, device, dtype, quantization, device_map, adapter)
    book = use_codebook(edited, codebook, readonly=True)
    from ..evaluate.probe_check import check_probes

    with steps() as progress:
        found = check_probes(
            edited, probes, images=images or [], answers=answers, skip_unfit=skip_unfit, progress=progress
        )
    failed = len(found.failures)
    verdict = f"{len(found.rows) - failed} of {len(found.rows)} probes are answered as they should be"
    if page is not None:
        from ..report.check_page import write_check_page

        names = {"codebook": codebook.name, "model": edited.vlm.name, "probes": probes.name}
        write_check_page(page, found, **names, edits=len(book), verdict=verdict)
    if json:
        emit(
            {"codebook": codebook, "model": model, "edits": len(book), "allowed": allow, "page": page, **found.record()}
        )
    else:
        _show(found, verdict, page)
    if failed > allow:
        if json:  # the document is there already
            raise typer.Exit(GateError.exit_code)
        raise GateError(f"probes: {failed} are not answered as they should be; at most {allow} may be (--allow).")


def _show(found: ProbeCheck, verdict: str, page: Path | None) -> None:
    out = console()
    out.print(verdict, markup=False)
    out.print(", ".join(f"{count} {name}" for name, count in found.counts().items() if count), markup=False)
    for title, rows in (
        ("not as they should be:", found.failures),
        ("changed as wanted:", [row for row in found.rows if row.verdict == "as wanted"]),
    ):
        if rows:
            out.print(f"{len(rows)} {title}", style="yellow" if rows is found.failures else "", markup=False)
            for row in rows[:SHOWN]:
                wanted = (
                    "" if row.answered.expected is None or not row.failed else f", wanted {row.answered.expected!r}"
                )
                line = f"  line {row.answered.line}: {row.answered.question} {row.before!r} → {row.after!r}{wanted}"
                out.print(
                    line + (f" (edit '{row.answered.edit}')" if row.answered.fired else ""),
                    markup=False,
                    soft_wrap=True,
                )
            if len(rows) > SHOWN:
                out.print(f"  … and {len(rows) - SHOWN} more (--page FILE shows all of them)", markup=False)
    for one in found.unfit:
        out.print(f"  left out: {one}", style="yellow", markup=False, soft_wrap=True)
    if page is not None:
        out.print(f"wrote {page}", markup=False, soft_wrap=True)
