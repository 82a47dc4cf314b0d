"""`vledit edit`: changes one fact and writes it to a codebook file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..errors import InputError
from ..report.records import edit_record
from .output import Json, busy, console, emit, number, size
from .session import (
    Device,
    DeviceMap,
    Dtype,
    Model,
    Quantization,
    check_codebook,
    check_text,
    open_model,
    read_picture,
    use_codebook,
)
from .settings import parse_settings

if TYPE_CHECKING:
    from ..editors.base import Edit
    from ..editors.edited_model import EditedModel


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("edit")(edit)


def edit(
    question: Annotated[str, typer.Option("--question", "-q", help="The question whose answer shall change.")],
    answer: Annotated[str, typer.Option("--answer", "-a", help="The new answer.")],
    image: Annotated[Path | None, typer.Option("--image", "-i", help="Picture; none for a text-only fact.")] = None,
    rephrase: Annotated[
        list[str] | None, typer.Option("--rephrase", "-r", help="The question in other words (may be repeated).")
    ] = None,
    editor: Annotated[str, typer.Option("--editor", "-e", help="Method; see `vledit editors`.")] = "balancedit",
    codebook: Annotated[
        Path, typer.Option("--codebook", "-c", help="File that the edit is written to; made where there is none.")
    ] = Path("codebook.vledit"),
    settings: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="A setting of the method, name=value (may be repeated).")
    ] = None,
    id: Annotated[str, typer.Option("--id", help="Name of the edit; made from its content where none is given.")] = "",
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    quantization: Quantization = None,
    device_map: DeviceMap = None,
    json: Json = False,
) -> None:
    """Change one fact: from now on the model gives ANSWER to QUESTION about the picture."""
    from ..data.case import EditRequest

    question, answer = check_text("question", question), check_text("answer", answer)
    picture = read_picture(image)
    chosen = _settings(editor, settings or [])
    if codebook.exists():
        check_codebook(codebook, writable=True)
    elif not codebook.absolute().parent.is_dir():
        raise InputError(f"--codebook: there is no folder '{codebook.parent}' to write '{codebook.name}' into.")
    edited = open_model(model, device, dtype, quantization, device_map)
    book = use_codebook(edited, codebook) if codebook.exists() else edited.codebook
    if id and id in {entry.id for entry in book.entries()}:
        raise InputError(f"--id: '{codebook}' has an entry '{id}' already. Choose another id, or none.")
    request = EditRequest(picture, question, answer, tuple(rephrase or ()), id)
    with busy("asking …"):
        before = edited.answer(picture, question).text
    with busy(f"editing with {editor} …"):
        made = edited.edit(request, editor, **chosen)
    assert made.entry is not None  # `_settings` refused editors whose edits have none
    if book.path is None:
        book.save(codebook)
    with busy("asking again …"):
        after = edited.answer(picture, question).text
    if json:
        emit(
            {
                **edit_record(made),
                "question": question,
                "answer": answer,
                "image": image,
                "model": model,
                "codebook": codebook,
                "before": before,
                "after": after,
            }
        )
        return
    _show(edited, made, before, after, codebook)


def _settings(editor: str, pairs: list[str]) -> dict[str, Any]:
    """The settings of the editor, checked before any model is loaded."""
    from ..editors import registry

    method = registry.editor_class(editor)
    if not method.gated:
        raise InputError(_no_codebook(editor))
    chosen = parse_settings(method.Config, pairs)
    method.Config.from_settings(chosen)
    return chosen


def _no_codebook(editor: str) -> str:
    return (
        f"--editor: '{editor}' changes the weights for every question; such an edit cannot be kept in a codebook file. "
        "Use it from Python: model.edit(request, editor=…), then model.merge() and save the model."
    )


def _show(edited: EditedModel, made: Edit, before: str, after: str, codebook: Path) -> None:
    out = console()
    out.print(f"[dim]before[/] {_escaped(before)}   [dim]→   after[/] [bold]{_escaped(after)}[/]", soft_wrap=True)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in summary(made).items():
        table.add_row(name, _escaped(value))
    table.add_row("codebook", f"{_escaped(str(codebook))} ({len(edited.codebook)} active)")
    out.print(table)


def summary(made: Edit) -> dict[str, str]:
    """What a person wants to know of an edit, name → text."""
    record = edit_record(made)
    scope = record["entry"]["scopes"][0]
    alpha, near, far = (number(scope[name]) for name in ("alpha", "d_positive", "d_negative"))
    return {
        "entry": made.id,
        "radius": f"{number(scope['radius'])}  ({scope['distance']} distance)",
        "d_pos": f"{near}  {scope['positive_source']}: {scope['positive_question']!r}",
        "d_neg": f"{far}  {scope['negative']}",
        "alpha": alpha,
        "site": f"{record['entry']['site']}, {record['entry']['transformation']['kind']} transformation",
        "took": f"{record['seconds']:.2f} s, {record['steps']} steps, {size(record['entry']['bytes'])}",
        "relation": f"{record['relation']['kind']}. {record['relation']['explanation']}",
    }


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
