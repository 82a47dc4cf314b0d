"""`vledit bench`: score editors on a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..errors import GateError, InputError, UnknownNameError
from .benchmark_files import (
    Annotations,
    AsPublished,
    BenchmarkFiles,
    BenchmarkName,
    Images,
    MostProbes,
    SkipBad,
    SkipMissing,
    With,
)
from .leaderboard import bar, failures, leaderboard, retention
from .output import Json, console, emit, errors
from .session import Adapter, Device, DeviceMap, Dtype, Model, Quantization, open_model
from .variants import parse_variants, with_named
from .wanted import Rephrases, Wanted, benchmark_cases, open_run

if TYPE_CHECKING:
    from ..data.case import EditCase
    from ..evaluate.bootstrap import Estimate
    from ..evaluate.manifest import Variant
    from ..evaluate.plan import Plan
    from ..evaluate.runner import Engine

ENGINES = ("local", "ray")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("bench")(bench)


def bench(
    editors: Annotated[
        str,
        typer.Option(
            help="Editors, separated by ';', each with settings and, if you like, a name of your own before "
            "'=': 'span=balancedit:transformation=span,alpha=0.3;ft'. 'ft:settings=published' uses the "
            "authors' settings, 'ft:settings=tuned' those that `vledit tune` found."
        ),
    ] = "balancedit;ft",
    benchmark: BenchmarkName = "icons",
    annotations: Annotations = None,
    images: Images = None,
    more: With = None,
    skip_missing: SkipMissing = False,
    skip_bad: SkipBad = False,
    as_published: AsPublished = False,
    split: Annotated[
        str, typer.Option(help="Split of icons and data sets built like it: train, validation or test.")
    ] = "test",
    limit: Annotated[int, typer.Option(help="Number of edits, spread evenly over the split; 0: all.")] = 100,
    probes: MostProbes = 0,
    devqa: Annotated[
        bool,
        typer.Option(
            "--devqa", help="Ask the 16 pairs of De-VQA as well: does the edited model still look at the picture?"
        ),
    ] = False,
    retriever: Annotated[
        str, typer.Option(help="De-VQA: the sentence encoder that finds similar questions; a name or a folder.")
    ] = "all-MiniLM-L6-v2",
    rephrases: Rephrases = "none",
    as_released: Annotated[
        bool,
        typer.Option(
            "--as-released",
            help="Also run each editor with the known mistakes of its released code, to see which printed "
            "figures they explain.",
        ),
    ] = False,
    protocol: Annotated[
        str,
        typer.Option(
            help="single: edit, score, undo; sequential: score after all edits; batch: several edits at once."
        ),
    ] = "single",
    at: Annotated[
        str,
        typer.Option(
            help="sequential: numbers of edits after which to score, e.g. 1,10,50,200; by default only after all."
        ),
    ] = "",
    score: Annotated[
        int,
        typer.Option(
            help="sequential: at each number of edits, ask the questions of this many of them, spread evenly; 0: of all."
        ),
    ] = 0,
    batch_size: Annotated[int, typer.Option(help="batch: edits made at once.")] = 10,
    exact_only: Annotated[
        bool, typer.Option("--exact-only", help="Leave out token-level scores, which need a second pass.")
    ] = False,
    texts: Annotated[int, typer.Option(help="For how many edits to generate free answers, shown in the report.")] = 20,
    out: Annotated[Path, typer.Option(help="Results file (JSONL). If it exists, the run in it is continued.")] = Path(
        "results.jsonl"
    ),
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Retry edits that failed.")] = False,
    gate: Annotated[
        Path | None, typer.Option(help="YAML file with thresholds; exit with code 8 if an editor misses one.")
    ] = None,
    cache_gb: Annotated[
        float, typer.Option(help="Disk space for cached activations, in GB; 0 turns the cache off.")
    ] = 8.0,
    batch_tokens: Annotated[
        int, typer.Option(help="Tokens per batch in the frozen part of the model; raise it on a GPU.")
    ] = 1024,
    engine: Annotated[
        str, typer.Option(help="local, or ray: spread over workers (pip install 'vledit[ray]').")
    ] = "local",
    workers: Annotated[int, typer.Option(help="Ray: number of workers.")] = 2,
    worker_cpus: Annotated[float, typer.Option(help="Ray: CPUs of each worker.")] = 1.0,
    worker_gpus: Annotated[float, typer.Option(help="Ray: GPUs of each worker; may be a fraction.")] = 0.0,
    ray_address: Annotated[str | None, typer.Option(help="Ray: address of a running cluster.")] = None,
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    quantization: Quantization = None,
    device_map: DeviceMap = None,
    adapter: Adapter = None,
    json: Json = False,
) -> None:
    """Score editors on a benchmark. Every figure comes with a 95 % bootstrap interval."""
    from ..editors.named import KEY
    from ..evaluate.as_released import beside
    from ..evaluate.gate import judge, read_thresholds
    from ..evaluate.metrics import by_after, by_variant, last, table
    from ..evaluate.plan import Plan
    from ..evaluate.results import read_results

    plan = Plan(protocol, _numbers(at), batch_size, not exact_only, texts, scored=score)
    if engine not in ENGINES:
        raise UnknownNameError("engine", engine, ENGINES)
    from ..paths import output_file

    out = output_file(out, "--out")
    chosen = parse_variants(editors)
    if as_released:
        chosen = beside(chosen)
    thresholds = None if gate is None else read_thresholds(gate)  # a mistake in it is told before the run
    asked = retriever if devqa else ""
    files = BenchmarkFiles.of(benchmark, annotations, images, more, skip_missing, skip_bad, as_published, asked)
    load = partial(open_model, model, device, dtype, quantization, device_map, adapter)
    if batch_tokens < 1:
        raise InputError(f"batch-tokens: {batch_tokens} given; at least 1 is needed.")
    wanted = Wanted(files, split, limit, probes, protocol != "single", rephrases)
    opened = partial(open_run, load, wanted, batch_tokens)
    about = files.about(split) | {"rephrases": rephrases} | ({"quantization": quantization} if quantization else {})
    about |= {"adapter": adapter} if adapter else {}
    if engine == "ray":
        from ..evaluate.ray_engine import RayEngine, import_ray

        import_ray()
        if any(KEY in variant.settings for variant in chosen):
            raise InputError(
                "editors: settings by name are looked up for a loaded model; write them out with --engine ray."
            )
        cases = benchmark_cases(wanted)
        with RayEngine(
            opened, chosen, plan, workers, worker_cpus, worker_gpus, cache_gb, address=ray_address
        ) as spread:
            head = spread.head(**about)
            head["environment"]["engine"] = f"ray, {workers} workers"
            end = _run(spread, cases, chosen, plan, head, out, retry_failed)
    else:
        from ..evaluate.manifest import manifest
        from ..evaluate.runner import InProcess, Worker
        from ..evaluate.trunk_cache import TrunkCache

        vlm, cases = opened()
        plan.points(len(cases))
        chosen = with_named(chosen, vlm)
        head = manifest(vlm, cases=cases, variants=chosen, **plan.settings(len(cases)), **about)
        cache = TrunkCache(vlm, cache_gb) if cache_gb else None
        worker = Worker(vlm, cases, chosen, plan, cache, head["manifest"]["weights"])
        end = _run(InProcess(worker), cases, chosen, plan, head, out, retry_failed)
    _, records = read_results(out)
    verdicts = [] if thresholds is None else judge(records, thresholds)
    tables = {name: table(rows) for name, rows in by_variant(last(records))}
    if json:
        emit({"variants": _plain(tables), "gate": [verdict.as_record() for verdict in verdicts], "run": end})
    else:
        console().print(leaderboard(tables, f"{files.title(split)}, {len(cases)} edits, {protocol}; % [95 % interval]"))
        if as_released:
            _mistakes(chosen, tables)
        if len(plan.points(len(cases))) > 1:
            points = {
                name: {n: table(some) for n, some in by_after(rows).items()} for name, rows in by_variant(records)
            }
            console().print(retention(points))
        errors.print(f"trunk cache: {end['cache_text']}" if cache_gb > 0 else "trunk cache: off", markup=False)
        for line in failures(records):
            errors.print(line, markup=False, highlight=False, soft_wrap=True)
    broken = [str(verdict) for verdict in verdicts if not verdict.holds]
    if broken:
        raise GateError(f"gate: {len(broken)} of {len(verdicts)} thresholds are not kept: {'; '.join(broken)}.")


def _run(
    engine: Engine,
    cases: Sequence[EditCase],
    variants: Sequence[Variant],
    plan: Plan,
    head: dict[str, Any],
    out: Path,
    retry: bool,
) -> dict[str, Any]:
    """The run with a bar; what its end line says."""
    from ..evaluate.plan import keys
    from ..evaluate.results import Results
    from ..evaluate.runner import run_all
    from ..evaluate.trunk_cache import CacheReport

    with Results(out, head, retry) as results, bar() as progress:
        wanted = {key for variant in variants for key in keys(plan, cases, variant.name)}
        about = f"{head['manifest']['benchmark']}, {plan.protocol}"
        task = progress.add_task(about, total=len(wanted), completed=len(wanted & results.done))
        end = run_all(engine, cases, variants, plan, results, lambda _: progress.advance(task))
    return {**end, "cache_text": str(CacheReport(**end["cache"])) if end["cache"] else "off"}


def _mistakes(variants: Sequence[Variant], tables: dict[str, dict[str, Estimate]]) -> None:
    """Says which mistakes were made, and prints De-VQA's cells on the scales of the released table."""
    from ..evaluate.as_released import INVERTED, as_printed, cells, way_of

    for one in variants:
        if (way := way_of(one)) is not None:
            console().print(f"{one.name}: {'; '.join(way.says)}.", markup=False, soft_wrap=True)
    asked = cells(name for row in tables.values() for name in row)
    if not asked:
        return
    title = "De-VQA's cells, by token: kept as the base has them → as the released script prints them"
    table = Table("cell", *(one.name for one in variants), title=title)
    printed = {one.name: as_printed(one.editor, tables.get(one.name, {})) for one in variants}
    table.add_row("scale", *("1 - kept" if one.editor in INVERTED else "1 - edited answer" for one in variants))
    for cell in asked:
        kept = {name: row[f"{cell}_preserved_token"].mean for name, row in tables.items() if cells(row)}
        values = ((kept.get(one.name), printed[one.name].get(cell)) for one in variants)
        table.add_row(cell, *("–" if None in pair else f"{pair[0]:.2f} → {pair[1]:.2f}" for pair in values))
    console().print(table)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"at: whole numbers separated by commas are expected, not '{text}'.") from None


def _plain(tables: dict[str, dict[str, Estimate]]) -> dict[str, Any]:
    return {name: {metric: vars(estimate) for metric, estimate in row.items()} for name, row in tables.items()}
