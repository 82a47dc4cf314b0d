"""`vledit ask`: one question, or those of a table, with or without pictures, with or without edits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from ..report.records import decision_record
from .output import Json, busy, console, emit, number
from .session import (
    Adapter,
    Device,
    DeviceMap,
    Dtype,
    Model,
    Quantization,
    check_codebook,
    check_text,
    existing,
    open_model,
    read_picture,
    use_codebook,
)

if TYPE_CHECKING:
    from ..editors.edited_model import EditedModel


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("ask")(ask)


def ask(
    question: Annotated[str | None, typer.Argument(help="The question to ask.")] = None,
    image: Annotated[
        Path | None, typer.Option("--image", "-i", help="Picture file; leave out for a question without a picture.")
    ] = None,
    codebook: Annotated[Path | None, typer.Option("--codebook", "-c", help="Codebook file whose edits apply.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print which edit acted or was nearest, its distance and its radius.")
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Ask all questions of a CSV, JSONL, JSON or YAML file (columns question, image, answer, …)."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="With --from: CSV, TSV or JSONL file to write the answers to.")
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option("--images", help="With --from: folder of the pictures (may be repeated).")
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="With --from: also ask the model without the edits.")] = False,
    skip_unfit: Annotated[
        bool, typer.Option("--skip-unfit", help="With --from: skip invalid rows instead of stopping.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="With --from: start over instead of continuing --out.")
    ] = False,
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    quantization: Quantization = None,
    device_map: DeviceMap = None,
    adapter: Adapter = None,
    json: Json = False,
) -> None:
    """Ask the model a question about a picture, or many questions with --from FILE. An interrupted run can be continued."""
    if table is not None:
        from .ask_table import AskOptions, ask_from

        if question is not None or image is not None:
            raise InputError("--from: the questions and pictures stand in the file. Leave QUESTION and --image out.")
        if codebook is not None:
            check_codebook(existing(codebook, "--codebook"))

        def load() -> EditedModel:
            edited = open_model(model, device, dtype, quantization, device_map, adapter)
            if codebook is not None:
                use_codebook(edited, codebook, readonly=True)
            return edited

        ask_from(AskOptions(table, out, images or [], base, skip_unfit, overwrite), load, json)
        return
    if question is None:
        raise InputError("QUESTION: give a question, or a table of questions with --from.")
    question = check_text("question", question)
    picture = read_picture(image)
    if codebook is not None:
        check_codebook(existing(codebook, "--codebook"))
    edited = open_model(model, device, dtype, quantization, device_map, adapter)
    if codebook is not None:
        use_codebook(edited, codebook, readonly=True)
    began = time.perf_counter()
    with busy("thinking …"):
        answer = edited.answer(picture, question)
    seconds = time.perf_counter() - began
    if json:
        emit(
            {
                "question": question,
                "image": image,
                "model": model,
                "codebook": codebook,
                "answer": answer.text,
                "seconds": seconds,
                "decision": decision_record(answer.decision),
            }
        )
        return
    say = console()
    say.print(answer.text, markup=False, soft_wrap=True)
    if explain:
        decision = answer.decision
        say.print(decision.explanation, markup=False, style="dim", soft_wrap=True)
        if decision.nearest is not None:
            which = "fired" if decision.fired else "nearest"
            say.print(
                f"{which}: {decision.nearest}   distance: {number(decision.distance)}   "
                f"radius: {number(decision.radius)}   site: {decision.site}",
                markup=False,
                style="dim",
                soft_wrap=True,
            )
