"""`vledit fit`: what an editor learns before its first edit, once per model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import InputError
from .benchmark_files import (
    Annotations,
    AsPublished,
    BenchmarkFiles,
    BenchmarkName,
    Images,
    SkipBad,
    SkipMissing,
    Split,
    With,
)
from .output import Json, console, emit, errors
from .session import Adapter, Device, Dtype, Model, open_model
from .settings import parse_settings

if TYPE_CHECKING:
    from ..editors.training.loop import Progress as Report


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("fit")(fit)


def fit(
    editor: Annotated[
        str, typer.Option(help="Editor that has to be trained for a model before its first edit; see `vledit editors`.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run and its result; by default where the editor looks for it."),
    ] = None,
    benchmark: BenchmarkName = "icons",
    annotations: Annotations = None,
    images: Images = None,
    more: With = None,
    skip_missing: SkipMissing = False,
    skip_bad: SkipBad = False,
    as_published: AsPublished = False,
    split: Split = "train",
    devqa: Annotated[
        bool,
        typer.Option(
            "--devqa",
            help="Add De-VQA's cells to every case, e.g. for the adversarial terms T1I3 (RI), T1I4 (NI), T2I2 (CI).",
        ),
    ] = False,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps; by default the editor's own number.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop training after this many minutes and keep what was learnt.")
    ] = None,
    save_every: Annotated[int | None, typer.Option(help="Number of steps between checkpoints.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE: a further setting of the training (may be repeated).")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start over instead of continuing the run in the folder.")
    ] = False,
    published: Annotated[
        bool,
        typer.Option("--published", help="Use the authors' settings for the model's family, if they published any."),
    ] = False,
    curve: Annotated[Path | None, typer.Option(help="Draw the learning curve into this PNG or SVG file.")] = None,
    settings: Annotated[bool, typer.Option("--settings", help="List the settings of the fitting and stop.")] = False,
    cache_gb: Annotated[
        float, typer.Option(help="Disk space for cached activations, in GB; 0 turns the cache off.")
    ] = 8.0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: PyTorch's default.")] = 0,
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    adapter: Adapter = None,
    json: Json = False,
) -> None:
    """Train an editor for one model. An interrupted run continues from its last checkpoint and ends with the same result."""
    from ..editors.training.fitting import Fitting, fitting_class

    method = fitting_class(editor)
    if settings:
        _list(method.FitConfig, json)
        return
    given = parse_settings(method.FitConfig, set_ or ())
    if out is not None:
        from ..paths import output_folder

        out = output_folder(out, "--out")
    own = {"steps": steps, "minutes": minutes, "save_every": save_every}
    given |= {name: value for name, value in own.items() if value is not None}
    method.FitConfig.from_settings(given)  # a mistake in it is told before the model is loaded
    retriever = "all-MiniLM-L6-v2" if devqa else ""
    files = BenchmarkFiles.of(benchmark, annotations, images, more, skip_missing, skip_bad, as_published, retriever)
    cases = files.cases(split)
    import torch

    if threads:
        torch.set_num_threads(threads)
    vlm = open_model(model, device, dtype, adapter=adapter).vlm
    from ..editors.training import artefact
    from ..evaluate.trunk_cache import TrunkCache

    authors = method.published(vlm.family.name) if published else {}
    if published and not authors:
        raise InputError(
            f"published: the authors of '{editor}' gave no settings for the family '{vlm.family.name}'; leave the option out."
        )
    chosen = method.FitConfig.from_settings({**authors, **given})
    folder = out or artefact.default_folder(editor, vlm)
    cache = TrunkCache(vlm, cache_gb) if cache_gb else None
    with _bar(f"fitting {editor}", chosen.steps) as progress:
        method.fit(Fitting(vlm, cases, folder, chosen, files.about(split), not restart, cache, progress))
    made = artefact.read(folder, editor, vlm)
    if curve is not None:
        from ..editors.training.curves import draw

        draw(folder, curve, f"{editor}, {vlm.name}, {files.title(split)}")
    if json:
        emit({"folder": folder, "manifest": made.about})
        return
    collected = made.about["steps"] == len(made.about.get("demonstrations", ()))  # nothing is trained then
    what = "demonstrations" if collected else "steps"
    console().print(f"{editor}: {made.about['steps']} {what}, {made.about['seconds']:.0f} s", soft_wrap=True)
    console().print(f"fitted part: {folder}", markup=False, soft_wrap=True)


def _list(config: type, json: bool) -> None:
    from .settings import described

    found = described(config)
    assert {one["name"] for one in found} == {field.name for field in fields(config)}
    if json:
        emit({"settings": found})
        return
    for one in found:
        console().print(f"{one['name']} ({one['type']}, {one['default']}): {one['help']}", markup=False, soft_wrap=True)


@contextmanager
def _bar(title: str, steps: int) -> Iterator[Report]:
    """A bar on stderr with the losses of the last step."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )
    with Progress(*columns, console=errors) as bar:
        task = bar.add_task(title, total=steps, losses="")

        def report(done: int, total: int, losses: Mapping[str, Any]) -> None:
            shown = ", ".join(f"{name} {float(value):.3g}" for name, value in losses.items())
            bar.update(task, completed=done, total=total, losses=shown)

        yield report
