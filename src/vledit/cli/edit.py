"""`vledit edit`: changes one fact, or those of a table, and writes them to a codebook file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..errors import InputError
from ..report.records import edit_record
from .output import Json, busy, console, emit, number, size
from .session import (
    Adapter,
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
    question: Annotated[
        str | None, typer.Option("--question", "-q", help="The question whose answer is to change.")
    ] = None,
    answer: Annotated[str | None, typer.Option("--answer", "-a", help="The new answer.")] = None,
    image: Annotated[
        Path | None, typer.Option("--image", "-i", help="Picture file; leave out for a fact without a picture.")
    ] = None,
    rephrase: Annotated[
        list[str] | None, typer.Option("--rephrase", "-r", help="The question in other words (may be repeated).")
    ] = None,
    editor: Annotated[str, typer.Option("--editor", "-e", help="Editing method; see `vledit editors`.")] = "balancedit",
    codebook: Annotated[
        Path, typer.Option("--codebook", "-c", help="Codebook file to write to; created if it does not exist.")
    ] = Path("codebook.vledit"),
    settings: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="A setting of the editor, name=value (may be repeated).")
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse an edit that makes an older edit stop answering its own question."),
    ] = False,
    id: Annotated[str, typer.Option("--id", help="Name of the edit; by default derived from its content.")] = "",
    table: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Make all edits of a CSV, JSONL, JSON or YAML file (columns image, question, answer, …)."
        ),
    ] = None,
    benchmark: Annotated[
        str,
        typer.Option(
            "--benchmark", help="With --from: read the file in this benchmark's format; see `vledit data list`."
        ),
    ] = "",
    images: Annotated[
        list[Path] | None, typer.Option("--images", help="With --from: folder of the pictures (may be repeated).")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column", help="With --from: name of a column in the file, e.g. answer=target (may be repeated)."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --from: list invalid rows and the edits to make; change nothing.")
    ] = False,
    skip_unfit: Annotated[
        bool, typer.Option("--skip-unfit", help="With --from: skip invalid rows instead of stopping.")
    ] = False,
    unrelated: Annotated[
        Path | None,
        typer.Option(
            "--unrelated",
            help="With --from: table of questions that must keep their answers (columns image, question).",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="With --from: afterwards ask the question of every edit, and unrelated questions.",
        ),
    ] = True,
    report: Annotated[
        Path | None, typer.Option("--report", help="With --from: write the full report to this JSON file.")
    ] = None,
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    quantization: Quantization = None,
    device_map: DeviceMap = None,
    adapter: Adapter = None,
    json: Json = False,
) -> None:
    """Make the model give ANSWER to QUESTION about the picture, or change many facts with --from FILE."""
    from ..data.case import EditRequest

    if table is not None:
        from .edit_table import ManyOptions, edit_from

        for name, value in (("--question", question), ("--answer", answer), ("--image", image), ("--id", id)):
            if value:
                raise InputError(f"{name}: stands in the rows of the file that --from names. Leave it out.")
        if strict or rephrase:
            raise InputError("--strict, --rephrase: work on one edit at a time. Leave them out.")
        edit_from(
            ManyOptions(table, benchmark, images or [], column or [], dry_run, skip_unfit, unrelated, check, report),
            editor,
            _settings(editor, settings or []),
            codebook,
            lambda: open_model(model, device, dtype, quantization, device_map, adapter),
            model,
            json,
        )
        return
    if question is None or answer is None:
        raise InputError("--question and --answer: both are needed. To make many edits, give a table with --from.")
    question, answer = check_text("question", question), check_text("answer", answer)
    picture = read_picture(image)
    chosen = _settings(editor, settings or [])
    if codebook.exists():
        check_codebook(codebook, writable=True)
    elif not codebook.absolute().parent.is_dir():
        raise InputError(f"--codebook: there is no folder '{codebook.parent}' to write '{codebook.name}' into.")
    edited = open_model(model, device, dtype, quantization, device_map, adapter)
    book = use_codebook(edited, codebook) if codebook.exists() else edited.codebook
    if id and id in {entry.id for entry in book.entries()}:
        raise InputError(f"--id: '{codebook}' has an entry '{id}' already. Choose another id, or none.")
    request = EditRequest(picture, question, answer, tuple(rephrase or ()), id)
    with busy("asking …"):
        before = edited.answer(picture, question).text
    with busy(f"editing with {editor} …"):
        made = edited.edit(request, editor, strict=strict, **chosen)
    if book.path is None:
        made = _written(edited, made, codebook)
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


def _written(edited: EditedModel, made: Edit, codebook: Path) -> Edit:
    """Writes the first edit to a file that was not there when the command began; where it is there by now, adds to it."""
    from ..codebook import Codebook
    from ..errors import CodebookError

    try:
        Codebook.create(codebook, edited.vlm.fingerprint, edited.vlm.name).close()
    except CodebookError:
        if not codebook.exists():
            raise
    use_codebook(edited, codebook)
    if made.entry is not None and made.id in {entry.id for entry in edited.codebook.entries()}:
        entry = dataclasses.replace(made.entry, id=edited.codebook.free_id(made.id))
        made = dataclasses.replace(made, id=entry.id, entry=entry)
    return edited.add(made)


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
        "Use it from Python: model.edit(request, editor=…), model.save_pretrained(folder); then `vledit export --edits folder`."
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
    for line in notices(made, codebook):
        out.print(_escaped(line), style="yellow", soft_wrap=True)


def summary(made: Edit) -> dict[str, str]:
    """What a person wants to know of an edit, name → text."""
    record = edit_record(made)
    relation = {"relation": f"{record['relation']['kind']}. {record['relation']['explanation']}"}
    if made.entry is None:
        return {"entry": made.id, **relation}
    scope = record["entry"]["scopes"][0]
    alpha, near, far = (number(scope[name]) for name in ("alpha", "d_positive", "d_negative"))
    return {
        "entry": made.id,
        "radius": f"{number(scope['radius'])}  ({scope['distance']} distance)",
        "d_pos": f"{near}  {scope['positive_source']}: {scope['positive_question']!r}",
        **({} if scope["d_negative"] is None else {"d_neg": f"{far}  {scope['negative']}"}),
        "alpha": alpha,
        "site": f"{record['entry']['site']}, {record['entry']['transformation']['kind']} transformation",
        "took": f"{record['seconds']:.2f} s, {record['steps']} steps, {size(record['entry']['bytes'])}",
        **relation,
        **({"breaks": ", ".join(made.breaks)} if made.breaks else {}),
    }


def notices(made: Edit, codebook: Path) -> list[str]:
    """What must not go by in silence: entries that were retired, with the way back, and older edits that are broken."""
    retired = made.relation.retires if made.relation is not None else ()
    lines = [f"Entry '{id}' was retired. To bring it back: vledit codebook restore {codebook} {id}" for id in retired]
    lines += [f"Entry '{id}' no longer answers its own request: '{made.id}' has the same key." for id in made.breaks]
    return lines


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
