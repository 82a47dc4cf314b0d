"""`vledit models` and `vledit editors`: what there is, and what it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ..errors import InputError
from .output import Json, busy, console, emit, errors, size
from .session import Dtype, Quantization
from .settings import described

if TYPE_CHECKING:
    from ..checking import Checked
    from ..estimate import Estimate


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("models")(models)
    app.command("editors")(editors)


def models(
    estimate: Annotated[
        str | None,
        typer.Option(
            "--estimate",
            help="Estimate memory and time for this model (name, folder or Hugging Face id). Loads nothing.",
        ),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(
            "--check",
            help="Check whether this model (name, folder or Hugging Face id) can be edited, and at which "
            "sites; loads no weights. Exit code 2 if it cannot.",
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="With --check: run the Python code in the checkpoint. It runs with your permissions; read it first.",
        ),
    ] = False,
    edits: Annotated[int, typer.Option(help="With --estimate: number of edits.")] = 1000,
    dtype: Dtype = "float32",
    quantization: Quantization = None,
    batch: Annotated[int, typer.Option(help="With --estimate: questions per batch.")] = 1,
    site: Annotated[
        str,
        typer.Option(help="With --estimate: layer to edit, e.g. -1.mlp.up; by default the one chosen for the family."),
    ] = "",
    answer_tokens: Annotated[
        int, typer.Option(help="With --estimate: tokens per answer, including the end token.")
    ] = 4,
    json: Json = False,
) -> None:
    """List the models that can be edited and what is tested for each, or find out about one model (--check, --estimate)."""
    if check is not None and estimate is not None:
        raise InputError(
            "--check and --estimate: give one of the two; --check says how much memory the model takes, too."
        )
    if check is not None:
        _check(check, dtype, trust_remote_code, json)
        return
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


def _check(name: str, dtype: str, trust_remote_code: bool, json: bool) -> None:
    from ..checking import check
    from ..loading import DTYPES, SHORT_DTYPES
    from ..pocket.assemble import quiet

    full_name = SHORT_DTYPES.get(dtype, dtype)
    if full_name not in DTYPES:
        raise InputError(f"--dtype: '{dtype}' is none of {', '.join((*DTYPES, *SHORT_DTYPES))}.")
    quiet()
    with busy(f"checking {name} …"):
        found = check(name, full_name, trust_remote_code)
    if json:
        emit(found.record())
    elif found.fits:
        _show_check(found, full_name)
    else:
        errors.print(f"error: {found.reason}", style="bold red", markup=False, highlight=False, soft_wrap=True)
    if not found.fits:
        raise typer.Exit(InputError.exit_code)


def _show_check(found: Checked, dtype: str) -> None:
    sites = [f"{role}: {_layers(layers, found.layers)}" for role, layers in found.sites.items()]
    picture = (
        "not known without a processor" if found.picture_size is None else "{} × {} pixels".format(*found.picture_size)
    )
    if found.visual_tokens is not None:
        picture += f", {found.visual_tokens} visual tokens"
    rows = [
        ("family", f"{found.family} ({found.title})"),
        ("class", f"{found.model_class}; {found.layers} layers of {found.decoder}"),
        ("sites", "\n".join(sites)),
        ("edited by default", f"{found.default_site}, α {found.default_alpha}"),
        ("prompt", repr(found.prompt) if found.prompt else "not known without a processor"),
        ("without a picture", repr(found.text_prompt) if found.text_prompt else "not known without a processor"),
        ("a picture", picture),
        ("processor", found.processor or "none"),
    ]
    if found.recurrent:
        rows.append(("recurrent layers", _layers(found.recurrent, found.layers)))
    rows += [
        (f"memory: {name.replace('_', ' ')} ({dtype})", size(n))
        for name, n in found.memory.items()
        if name != "parameters"
    ]
    rows += [("missing", text) for text in found.missing] + [("assumed", text) for text in found.assumed]
    table = Table("what", "found", title=f"{escape(found.model)} can be edited")
    for label, text in rows:
        table.add_row(escape(label), escape(text))
    console().print(table)


def _layers(layers: tuple[int, ...], count: int) -> str:
    """Layer numbers as people write them: all 32, or 0-2, 5."""
    if len(layers) == count:
        return f"all {count} layers"
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return "layers " + ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


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
    console().print(escape(f"Sizes: {found.sizes_from}."), style="dim")
    console().print("Edits lie on disk; at most 512 MB of them stay in memory once used.", style="dim")


def _count(parameters: int) -> str:
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= scale:
            return f"{parameters / scale:.3g} {unit}"
    return str(parameters)


def editors(
    name: Annotated[str | None, typer.Argument(help="Show the settings of this editor.")] = None, json: Json = False
) -> None:
    """List the editors, or the settings of one of them, which `vledit edit --set name=value` changes."""
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
