"""`vledit analyze scope`: what a scope could reach on a benchmark, key by key, before any transformation is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

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
from .session import Device, DeviceMap, Dtype, Model, Quantization, open_model

if TYPE_CHECKING:
    from ..analysis.scope_ceiling import Ceiling

SHOWN = {
    "image/near_image": "image, near",
    "image/other_question": "image, other question",
    "text/other_subject": "text, other subject",
}
"""Pairs of cells whose separation (AUC) the table shows."""


def scope(
    benchmark: BenchmarkName = "icons",
    annotations: Annotations = None,
    images: Images = None,
    more: With = None,
    skip_missing: SkipMissing = False,
    skip_bad: SkipBad = False,
    as_published: AsPublished = False,
    split: Split = "validation",
    limit: Annotated[int, typer.Option(help="Number of edits, spread evenly over the split; 0: all.")] = 40,
    probes: Annotated[int, typer.Option(help="At most this many questions of each kind, the first ones.")] = 4,
    layers: Annotated[
        str, typer.Option(help="Decoder layers whose input is tried as well, e.g. 22,24,28; empty: every fourth.")
    ] = "",
    fit: Annotated[
        int, typer.Option(help="Edits of icons' train split that the whitening is fitted on; 0: no whitened keys.")
    ] = 60,
    answers: Annotated[
        bool,
        typer.Option(
            help="Also ask the base about the pictures, to find which other drawings it recognises and which "
            "near pictures get the same answer."
        ),
    ] = True,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves into this PNG or SVG file.")] = None,
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    quantization: Quantization = None,
    device_map: DeviceMap = None,
    json: Json = False,
) -> None:
    """Measure how well each kind of key separates an edit's own questions from others: AUC, best threshold, oracle."""
    import numpy as np

    from ..analysis.scope_ceiling import ceiling, collect, whitening

    if probes < 1:
        raise InputError(f"probes: {probes} given; at least 1 of each cell is needed.")
    files = BenchmarkFiles.of(benchmark, annotations, images, more, skip_missing, skip_bad, as_published)
    cases = files.cases(split, limit)
    train = BenchmarkFiles.of("icons").cases("train", fit) if fit else []
    vlm = open_model(model, device, dtype, quantization, device_map).vlm
    chosen = _layers(layers, vlm.n_layers)
    site = vlm.resolve_site(vlm.default_site)
    progress = bar()
    with progress:
        task = progress.add_task("keys", total=len(cases) + len(train))
        step = lambda _: progress.advance(task)  # noqa: E731
        edits = collect(vlm, cases, site, chosen, probes, step, answers=answers)
        fitted = collect(vlm, train, site, chosen, probes, step, without_picture=False)
    found: dict[str, Ceiling] = {}
    for name in edits[0].keys:
        if all(np.isnan(edit.keys[name][0]).all() for edit in edits):
            continue  # a picture's key, where no edit has a picture
        found[name] = ceiling(edits, name)
        if fitted and name in fitted[0].keys and name not in ("picture", "site visual"):
            found[f"{name}, whitened"] = ceiling(edits, name, whitening(fitted, name))
    title = f"{files.title(split)}, {len(cases)} edits, site {site}"
    if plot is not None:
        from ..analysis.scope_plot import draw

        draw(found, plot, title)
    if json:
        emit({"title": title, "model": vlm.name, "keys": {name: vars(one) for name, one in found.items()}})
        return
    console().print(table(found, title))


def table(found: dict[str, Ceiling], title: str) -> Table:
    """One line for each key, the best first."""
    pairs = [pair for pair in SHOWN if any(pair in one.auc for one in found.values())]
    cells = [cell for cell in next(iter(found.values())).one]
    made = Table("key", *(f"AUC {SHOWN[pair]}" for pair in pairs), *cells, "HM", "oracle HM", title=title)
    for name, one in sorted(found.items(), key=lambda item: -item[1].hm):
        auc = [f"{one.auc[pair]:.3f}" if pair in one.auc else "–" for pair in pairs]
        shares = [f"{100 * one.one[cell]:.1f}" for cell in cells]
        made.add_row(name, *auc, *shares, f"{100 * one.hm:.1f}", f"{100 * one.oracle:.1f}")
    return made


def _layers(text: str, count: int) -> list[int]:
    """The layers that were named, or every fourth from the middle up.  Raises: InputError."""
    if not text.strip():
        return sorted({*range(count // 2, count, 4), count - 1})
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"layers: '{text}' is not like 22,24,28.") from error
    for layer in found:
        if not 0 <= layer < count:
            raise InputError(f"layers: there is no layer {layer}; the model's decoder has layers 0 to {count - 1}.")
    return sorted(set(found))
