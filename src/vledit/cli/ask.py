"""`vledit ask`: one question, with or without a picture, with or without edits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

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


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("ask")(ask)


def ask(
    question: Annotated[str, typer.Argument(help="The question, as you would type it.")],
    image: Annotated[Path | None, typer.Option("--image", "-i", help="Picture; none for a text-only question.")] = None,
    codebook: Annotated[Path | None, typer.Option("--codebook", "-c", help="Edits that act on the model.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say which edit fired or was nearest, and how far.")
    ] = False,
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    quantization: Quantization = None,
    device_map: DeviceMap = None,
    adapter: Adapter = None,
    json: Json = False,
) -> None:
    """Ask the model a question about a picture."""
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
    out = console()
    out.print(answer.text, markup=False, soft_wrap=True)
    if explain:
        decision = answer.decision
        out.print(decision.explanation, markup=False, style="dim", soft_wrap=True)
        if decision.nearest is not None:
            which = "fired" if decision.fired else "nearest"
            out.print(
                f"{which}: {decision.nearest}   distance: {number(decision.distance)}   "
                f"radius: {number(decision.radius)}   site: {decision.site}",
                markup=False,
                style="dim",
                soft_wrap=True,
            )
