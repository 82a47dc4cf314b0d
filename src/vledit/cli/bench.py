"""`vledit bench` scores editors on a benchmark; `vledit choose-alpha` chooses α on a few held-out edits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..errors import InputError, UnknownNameError
from .output import Json, console, emit, errors
from .session import Device, Dtype, Model, open_model

BENCHMARKS = ("icons",)
SPLITS = ("train", "validation", "test")
PROTOCOLS = ("single", "sequential")
SHOWN = (
    "reliability",
    "text_generality",
    "image_generality",
    "near_image_preserved",
    "HM",
    "text_preserved",
    "random_image_preserved",
    "other_question_preserved",
    "black_preserved",
)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("bench")(bench)
    app.command("choose-alpha")(choose_alpha)


def bench(
    editors: Annotated[
        str,
        typer.Option(
            help="Editors, separated by ';', each with settings: 'balancedit:transformation=span,alpha=0.3;ft'."
        ),
    ] = "balancedit;ft",
    benchmark: Annotated[str, typer.Option(help="Data set of edits.")] = "icons",
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    limit: Annotated[int, typer.Option(help="How many edits, spread evenly over the split; 0 for all.")] = 100,
    protocol: Annotated[
        str, typer.Option(help="single: edit, score, undo; sequential: score after all edits.")
    ] = "single",
    out: Annotated[Path, typer.Option(help="Results file (JSONL); an interrupted run goes on in it.")] = Path(
        "results.jsonl"
    ),
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: Json = False,
) -> None:
    """Score editors on a benchmark; every figure comes with a bootstrap 95 % interval."""
    from ..evaluate.metrics import estimates
    from ..evaluate.runner import Results, Variant, by_variant, manifest, read_results, run_sequential, run_single

    if protocol not in PROTOCOLS:
        raise UnknownNameError("protocol", protocol, PROTOCOLS)
    variants = [Variant.parse(text.strip()) for text in editors.split(";") if text.strip()]
    if not variants:
        raise InputError("editors: none given; see `vledit editors`.")
    cases = benchmark_cases(benchmark, split, limit)
    vlm = open_model(model, device, dtype).vlm
    head = manifest(vlm, benchmark, cases, variants, protocol=protocol, split=split)
    results = Results(out, head)
    with bar() as progress:
        task = progress.add_task(f"{benchmark} {split}, {protocol}", total=len(cases))
        run = run_single if protocol == "single" else run_sequential
        run(vlm, cases, variants, results, lambda _: progress.advance(task))
    _, records = read_results(out)
    tables = {name: estimates([o for r in rows for o in r["outcomes"]]) for name, rows in by_variant(records)}
    if json:
        emit({name: {metric: vars(e) for metric, e in table.items()} for name, table in tables.items()})
        return
    console().print(leaderboard(tables, f"{benchmark} {split}, {len(cases)} edits, {protocol}; % [95 % interval]"))
    failed = [r for r in records if r["error"]]
    if failed:
        errors.print(f"{len(failed)} edits failed, e.g. {failed[0]['case']}: {failed[0]['error']}", markup=False)


def choose_alpha(
    samples: Annotated[int, typer.Option(help="How many held-out edits (the paper takes 5).")] = 5,
    seed: Annotated[int, typer.Option(help="Which ones.")] = 0,
    transformation: Annotated[str, typer.Option(help="full or span.")] = "full",
    distance: Annotated[str, typer.Option(help="euclidean or cosine.")] = "euclidean",
    benchmark: Annotated[str, typer.Option(help="Data set of edits; its validation split is used.")] = "icons",
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: Json = False,
) -> None:
    """Choose α for a model on a few edits of the validation split, by HM (BalancEdit, Sec. 4.3)."""
    from ..evaluate.alpha import choose
    from ..evaluate.runner import Variant

    settings = {"transformation": transformation, "distance": distance}
    records = single_records(
        open_model(model, device, dtype).vlm,
        sample(benchmark_cases(benchmark, "validation", 0), samples, seed),
        [Variant("balancedit", "balancedit", settings)],
    )
    best, by_alpha = choose(records)
    if json:
        emit({"alpha": best, "HM": by_alpha, "cases": [r["case"] for r in records]})
        return
    table = Table("α", "HM %", title=f"{samples} edits of {benchmark} validation, seed {seed}")
    for alpha, value in by_alpha.items():
        table.add_row(f"{alpha:.2f}{'  ←' if alpha == best else ''}", f"{100 * value:.1f}")
    console().print(table)


def single_records(vlm: Any, cases: list[Any], variants: list[Any]) -> list[dict[str, Any]]:
    """Single-edit records that are kept in no file."""
    import tempfile

    from ..evaluate.runner import Results, manifest, read_results, run_single

    with tempfile.TemporaryDirectory() as folder, bar() as progress:
        path = Path(folder) / "records.jsonl"
        task = progress.add_task("held-out edits", total=len(cases))
        results = Results(path, manifest(vlm, "", cases, variants))
        run_single(vlm, cases, variants, results, lambda _: progress.advance(task))
        return read_results(path)[1]


def benchmark_cases(benchmark: str, split: str, limit: int) -> list[Any]:
    """Edits of a split, `limit` of them spread evenly.  Raises: UnknownNameError, InputError."""
    if benchmark not in BENCHMARKS:
        raise UnknownNameError("benchmark", benchmark, BENCHMARKS)
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    if limit < 0:
        raise InputError(f"limit: {limit} given; 0 takes all edits.")
    from ..data import icons

    cases = icons.load_edits(split)
    if not limit or limit >= len(cases):
        return cases
    return [cases[i * len(cases) // limit] for i in range(limit)]


def sample(cases: list[Any], count: int, seed: int) -> list[Any]:
    """`count` cases drawn with a seed."""
    import random

    if not 1 <= count <= len(cases):
        raise InputError(f"samples: {count} given; there are {len(cases)} edits.")
    return random.Random(seed).sample(cases, count)


def leaderboard(tables: dict[str, Any], title: str) -> Table:
    """Editors by metrics."""
    table = Table("editor", *SHOWN, title=title)
    for name, row in tables.items():
        table.add_row(name, *(str(row[m]) if m in row else "–" for m in SHOWN))
    return table


def bar() -> Progress:
    """Progress on stderr, with the time that is left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=errors)
