"""`vledit export`: edits for other tools, as a LoRA adapter of PEFT or merged into an ordinary Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError, MissingDataError
from .output import Json, busy, console, emit
from .session import Device, Dtype, Model, check_codebook, open_model, use_codebook


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("export")(export)


def export(
    edits: Annotated[
        Path | None, typer.Option("--edits", help="Folder that `EditedModel.save_pretrained` wrote: weight edits.")
    ] = None,
    codebook: Annotated[
        Path | None,
        typer.Option("--codebook", "-c", help="Export an edit of this codebook file instead; --id names it."),
    ] = None,
    id: Annotated[
        str | None,
        typer.Option("--id", help="Id of the edit. Its change then acts on every question. Only with --peft."),
    ] = None,
    peft: Annotated[
        Path | None,
        typer.Option("--peft", help="Write a LoRA adapter that peft loads into this folder. Needs peft."),
    ] = None,
    merged: Annotated[
        Path | None, typer.Option("--merged", help="Write the whole model, edits in its weights, into this folder.")
    ] = None,
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: Json = False,
) -> None:
    """Write weight edits for other tools: a LoRA adapter (--peft), or a model with them in its weights (--merged)."""
    if (peft is None) == (merged is None):
        raise InputError("--peft, --merged: give one of the two, with the folder to write into.")
    if (edits is None) == (codebook is None) or (codebook is None) != (id is None):
        raise InputError(
            "--edits, --codebook: give a folder of weight edits, or a codebook file and the --id of one entry."
        )
    if merged is not None and id is not None:
        raise InputError("--id: an entry can be written as an adapter (--peft) only.")
    if edits is not None and not edits.is_dir():
        raise MissingDataError(f"--edits: there is no folder '{edits}'. `EditedModel.save_pretrained` writes one.")
    if codebook is not None:
        if not codebook.exists():
            raise InputError(f"--codebook: there is no file '{codebook}'. `vledit edit` makes one.")
        check_codebook(codebook)
    edited = open_model(model, device, dtype)
    if edits is not None:
        from ..editors.edited_model import EditedModel

        edited = EditedModel.from_pretrained(edited.vlm, edits)
    elif codebook is not None:
        use_codebook(edited, codebook, readonly=True)
    with busy("writing …"):
        found = edited.export_merged(merged) if merged is not None else edited.export_peft(peft or "", id)
    if json:
        emit({"folder": found.folder, "kind": "merged" if peft is None else "peft", "ranks": dict(found.ranks)})
        return
    for path, rank in found.ranks.items():
        console().print(f"{path}: rank {rank}", markup=False, soft_wrap=True)
    console().print(f"wrote {found.folder}", markup=False, soft_wrap=True)
