"""`vledit models` and `vledit editors`: what there is, and what it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ..errors import InputError
from .output import Json, console, emit, size
from .session import Dtype, Quantization
from .settings import described

if TYPE_CHECKING:
    from ..estimate import Estimate


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("models")(models)
    app.command("editors")(editors)


def models(
    estimate: Annotated[
        str | None,
        typer.Option("--estimate", help="Say what this model (name, folder or Hugging Face id) takes; loads nothing."),
    ] = None,
    edits: Annotated[int, typer.Option(help="With --estimate: how many edits.")] = 1000,
    dtype: Dtype = "float32",
    quantization: Quantization = None,
    batch: Annotated[int, typer.Option(help="With --estimate: questions answered at once.")] = 1,
    site: Annotated[str, typer.Option(help="With --estimate: edited layer, e.g. -1.mlp.up; empty: the family's.")] = "",
    answer_tokens: Annotated[int, typer.Option(help="With --estimate: tokens of an answer, its end included.")] = 4,
    json: Json = False,
) -> None:
    """List the models that can be edited, and what is proven of each; or say how much memory one takes."""
    if estimate is not None:
        found = _estimate(estimate, edits, dtype, quantization, batch, site, answer_tokens)
        if json:
            emit(found.record())
        else:
            _show_estimate(found)
        return
    from ..catalogue import models as all_models

    rows = all_models()
    if json:
        emit([row.record() for row in rows])
        return
    table = Table("name", "family", "parameters", "where it comes from", "contract suite")
    table.columns[3].overflow = "fold"  # an id that is cut off cannot be copied
    for row in rows:
        name = row.name + (f" ({', '.join(row.aliases)})" if row.aliases else "")
        state = f"{row.contract} {row.date}".strip() + (
            f", transformers {row.transformers}" if row.transformers else ""
        )
        parameters = "" if row.parameters is None else _count(row.parameters)
        table.add_row(*map(escape, (name or "–", row.title, parameters, row.source, state)))
    console().print(table)
    console().print(
        "Any local folder or Hugging Face id of these families works too; contract suite: docs/backbones.md.",
        style="dim",
    )


def _estimate(
    name: str, edits: int, dtype: str, quantization: str | None, batch: int, site: str, answer_tokens: int
) -> Estimate:
    from ..estimate import estimate, sizes_of
    from ..loading import DTYPES, SHORT_DTYPES
    from ..vlm.site import Site

    full_name = SHORT_DTYPES.get(dtype, dtype)
    if full_name not in DTYPES:
        raise InputError(f"--dtype: '{dtype}' is none of {', '.join((*DTYPES, *SHORT_DTYPES))}.")
    sizes, family = sizes_of(name)
    chosen = Site.parse(site).resolve(sizes.layers) if site else None
    return estimate(
        sizes,
        family,
        edits=edits,
        dtype=full_name,
        quantization=quantization,
        batch=batch,
        answer_tokens=answer_tokens,
        site=chosen,
    )


def _show_estimate(found: Estimate) -> None:
    packed = f", {found.quantization}" if found.quantization else ""
    table = Table("what", "bytes", title=f"{escape(found.model)} ({found.family}), {found.dtype}{packed}")
    rows: list[tuple[str, Any]] = [
        (f"weights ({_count(found.parameters)} parameters)", found.weights),
        (f"trunk cache per probe ({found.tokens} tokens)", found.trunk_per_probe),
        (f"answering {found.batch} at once (keys and values)", found.answering),
        (f"one edit of {found.site}, full transformation", found.full_per_edit),
        ("one edit, span transformation", found.span_per_edit),
        ("  its key", found.key_per_edit),
        ("  its thumbnail, about", found.thumbnail_per_edit),
        ("while a full edit is made", found.making_full),
        ("while a span edit is made", found.making_span),
        (f"weights and {found.edits} full edits", found.total_full),
        (f"weights and {found.edits} span edits", found.total_span),
    ]
    for label, nbytes in rows:
        table.add_row(escape(label), size(nbytes))
    console().print(table)
    console().print("Edits lie on disk; at most 512 MB of them stay in memory once used.", style="dim")


def _count(parameters: int) -> str:
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= scale:
            return f"{parameters / scale:.3g} {unit}"
    return str(parameters)


def editors(
    name: Annotated[str | None, typer.Argument(help="A method, to see its settings.")] = None, json: Json = False
) -> None:
    """List the editing methods, or the settings of one (for `vledit edit --set name=value`)."""
    from ..editors import registry

    if name is None:
        known = registry.known()
        if json:
            emit([{"name": name, "about": about} for name, about in known.items()])
            return
        table = Table("name", "what it does")
        for editor, about in known.items():
            table.add_row(escape(editor), escape(about))
        console().print(table)
        return
    method = registry.editor_class(name)
    settings = described(method.Config)
    if json:
        emit({"name": name, "about": registry.known().get(name, ""), "settings": settings})
        return
    table = Table("setting", "type", "default", "what it does", title=f"{name}: {registry.known().get(name, '')}")
    for setting in settings:
        default = setting["default"]
        shown = "none" if default is None else "''" if default == "" else str(default)
        table.add_row(setting["name"], setting["type"], escape(shown), escape(setting["help"]))
    console().print(table)
