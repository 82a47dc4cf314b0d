"""`vledit choose-alpha`: choose α on a few held-out edits."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from .benchmark_files import Annotations, AsPublished, BenchmarkFiles, Images, SkipBad, SkipMissing, With
from .leaderboard import bar
from .output import Json, console, emit
from .session import Adapter, Device, DeviceMap, Dtype, Model, Quantization, open_model
from .wanted import Rephrases, Wanted, benchmark_cases, sample


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("choose-alpha")(choose_alpha)


def choose_alpha(
    samples: Annotated[int, typer.Option(help="How many held-out edits (the paper takes 5).")] = 5,
    seed: Annotated[int, typer.Option(help="Random seed of the choice.")] = 0,
    transformation: Annotated[str, typer.Option(help="full or span.")] = "full",
    distance: Annotated[str, typer.Option(help="euclidean or cosine.")] = "euclidean",
    benchmark: Annotated[
        str, typer.Option(help="Data set of edits; of icons, the validation split is used.")
    ] = "icons",
    annotations: Annotations = None,
    images: Images = None,
    more: With = None,
    skip_missing: SkipMissing = False,
    skip_bad: SkipBad = False,
    as_published: AsPublished = False,
    rephrases: Rephrases = "none",
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    quantization: Quantization = None,
    device_map: DeviceMap = None,
    adapter: Adapter = None,
    json: Json = False,
) -> None:
    """Choose the α of BalancEdit's `scope=paper` for a model on a few edits of the validation split, by HM (Sec. 4.3)."""
    from ..evaluate.alpha import choose
    from ..evaluate.manifest import Variant
    from ..evaluate.runner import records_of

    settings = {"scope": "paper", "transformation": transformation, "distance": distance}
    files = BenchmarkFiles.of(benchmark, annotations, images, more, skip_missing, skip_bad, as_published)
    cases = sample(
        benchmark_cases(Wanted(files, "validation", rephrases=rephrases)), samples, seed
    )  # an unfit file is told before a model is loaded
    vlm = open_model(model, device, dtype, quantization, device_map, adapter).vlm
    with bar() as progress:
        task = progress.add_task("held-out edits", total=len(cases))
        variants = [Variant("balancedit", "balancedit", settings)]
        records = records_of(vlm, cases, variants, lambda: progress.advance(task))
    best, by_alpha = choose(records)
    if json:
        emit({"alpha": best, "HM": by_alpha, "cases": [r["case"] for r in records]})
        return
    table = Table("α", "HM %", title=f"{samples} edits of {files.title('validation')}, seed {seed}")
    for alpha, value in by_alpha.items():
        table.add_row(f"{alpha:.2f}{'  ←' if alpha == best else ''}", f"{100 * value:.1f}")
    console().print(table)
