"""`vledit fit-scope`: how far BalancEdit's `scope=last` reaches, found on the edits of a training split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
from .leaderboard import bar
from .output import Json, console, emit
from .session import Adapter, Device, Dtype, Model, open_model


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("fit-scope")(fit_scope)


def fit_scope(
    out: Annotated[
        Path | None, typer.Option(help="Folder of the fitting; default: where the editor looks for it.")
    ] = None,
    benchmark: BenchmarkName = "icons",
    annotations: Annotations = None,
    images: Images = None,
    more: With = None,
    skip_missing: SkipMissing = False,
    skip_bad: SkipBad = False,
    as_published: AsPublished = False,
    split: Split = "train",
    limit: Annotated[int, typer.Option(help="Number of edits, spread evenly over the split; 0: all.")] = 60,
    others: Annotated[
        int,
        typer.Option(
            help="Further edits whose keys alone are read, to find how the radius narrows with the number of edits; 0: none."
        ),
    ] = 440,
    probes: Annotated[int, typer.Option(help="Most probes of each cell.")] = 2,
    distance: Annotated[str, typer.Option(help="euclidean or cosine.")] = "euclidean",
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    adapter: Adapter = None,
    json: Json = False,
) -> None:
    """Find how far the last prompt token may lie from an edit's own, for `balancedit` (no training, one pass)."""
    from ..codebook.scope import check_distance
    from ..editors import reach
    from ..editors.training import artefact

    check_distance(distance)
    if probes < 1:
        raise InputError(f"probes: {probes} given; at least 1 of each cell is needed.")
    files = BenchmarkFiles.of(benchmark, annotations, images, more, skip_missing, skip_bad, as_published)
    cases = files.cases(split, limit)
    asked = {case.id for case in cases}
    further = [case for case in files.cases(split, limit + others) if case.id not in asked] if limit and others else []
    further = [case for case in further if case.request.image is not None][:others]
    vlm = open_model(model, device, dtype, adapter=adapter).vlm
    folder = out or artefact.default_folder(reach.EDITOR, vlm)
    progress = bar()
    with progress:
        task = progress.add_task("keys", total=len(cases) + -(-len(further) // reach.ROWS))
        found = reach.fit(
            vlm, cases, folder, distance, probes, further, files.about(split), lambda: progress.advance(task)
        )
    if json:
        emit(
            {"folder": folder, "picture": found.picture, "text": found.text, "share": found.share, "crowd": found.crowd}
        )
        return
    by_share = found.share is not None
    rule = (
        f"{found.share:.2f} of the way from its rewordings to a blank picture" if by_share else f"{found.picture:.4g}"
    )
    console().print(f"with a picture: {rule}; without: {found.text:.4g}")
    if found.crowd:
        console().print("among entries: " + ", ".join(f"{count}: {radius:.4g}" for count, radius in found.crowd))
    console().print(f"fitted part: {folder}", markup=False, soft_wrap=True)
