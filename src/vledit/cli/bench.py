"""`vledit bench` scores editors on a benchmark; `vledit choose-alpha` chooses α on a few held-out edits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from .settings import parse_settings

if TYPE_CHECKING:
    from ..data.case import EditCase
    from ..editors.edited_model import EditedModel
    from ..evaluate.bootstrap import Estimate
    from ..evaluate.manifest import Variant
    from ..evaluate.plan import Plan
    from ..evaluate.runner import Engine
    from ..evaluate.trunk_cache import TrunkCache
    from ..vlm.base import VLM

ENGINES = ("local", "ray")
REPHRASES = ("none", "supplied")
Rephrases = Annotated[
    str,
    typer.Option(
        help="none: an edit is given picture, question and answer, as by a user; supplied: the benchmark's other wordings, too."
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("bench")(bench)
    app.command("choose-alpha")(choose_alpha)


def bench(
    editors: Annotated[
        str,
        typer.Option(
            help="Editors, separated by ';', with settings and, before '=', a name of yours: "
            "'span=balancedit:transformation=span,alpha=0.3;ft'. 'ft:settings=published' has the authors' settings, "
            "'ft:settings=tuned' what `vledit tune` found."
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
            help="Run each editor again with the known mistakes of its released code: which printed figures do they give?",
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

    plan = Plan(protocol, _numbers(at), batch_size, not exact_only, texts)
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


@dataclass(frozen=True)
class Wanted:
    """Which cases a run is made of.

    Args:
        files: the benchmark, by name where it comes with the package.
        limit: so many of them, spread evenly; 0: all.
        probes: at most so many of each cell; 0: all.
        sequence: they are edited one after the other or together; see `Benchmark.in_sequence`.
        rephrases: "none": the editor is given picture, question and answer alone; "supplied": with the benchmark's other
            wordings, which no user has.
    Raises: UnknownNameError, InputError.
    """

    files: str | BenchmarkFiles
    split: str = "test"
    limit: int = 0
    probes: int = 0
    sequence: bool = False
    rephrases: str = "none"

    def __post_init__(self) -> None:
        if self.probes < 0:
            raise InputError(f"probes: {self.probes} given; it must not be negative.")
        if self.rephrases not in REPHRASES:
            raise UnknownNameError("rephrases", self.rephrases, REPHRASES)


def open_run(load: Callable[[], EditedModel], wanted: Wanted, batch_tokens: int = 1024) -> tuple[VLM, list[EditCase]]:
    """The model and the cases; what every worker of a run begins with."""
    cases = benchmark_cases(wanted)
    vlm = load().vlm
    vlm.batch_tokens = batch_tokens
    return vlm, cases


def parse_variants(text: str) -> list[Variant]:
    """ "balancedit:transformation=span,alpha=0.3;ft" → variants, their settings typed as the editor's configuration says.

    A variant is called as it is written, or as it says itself: "narrow=balancedit:alpha=0.9" is called "narrow".  A part
    without "=" belongs to the setting before it ("layers=3,4" is one).

    Raises: UnknownNameError for an unknown editor or setting; InputError for an unfit value, none at all, or a name that is
        given twice.
    """
    from ..editors.named import KEY
    from ..editors.registry import editor_class
    from ..evaluate.manifest import Variant

    found: dict[str, Variant] = {}
    for one in filter(None, (part.strip() for part in text.split(";"))):
        head, _, rest = one.partition(":")
        name, named, editor = (part.strip() for part in head.rpartition("="))
        if named and not name:
            raise InputError(f"editors: '{one}' has no name before its '='.")
        name = name or one
        pairs: list[str] = []
        for part in filter(None, rest.split(",")):
            if "=" in part or not pairs:
                pairs.append(part)
            else:
                pairs[-1] += f",{part}"
        config = editor_class(editor).Config
        by_name = [pair for pair in pairs if pair.partition("=")[0].strip() == KEY]
        settings = parse_settings(config, [pair for pair in pairs if pair not in by_name])
        config.from_settings(settings)
        if by_name:  # looked up once the model is there, see `with_named`
            settings[KEY] = by_name[-1].partition("=")[2].strip()
        if name in found:
            raise InputError(f"editors: '{name}' is given twice.")
        found[name] = Variant(name, editor, settings)
    if not found:
        raise InputError("editors: none given; see `vledit editors`.")
    return list(found.values())


def with_named(variants: Sequence[Variant], vlm: VLM) -> list[Variant]:
    """The variants with `settings=published` and `settings=tuned` replaced by what they stand for on this model.

    Raises: InputError, MissingDataError; see `vledit.editors.named`.
    """
    from ..editors.named import resolved

    return [replace(variant, settings=resolved(variant.editor, variant.settings, vlm)) for variant in variants]


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"at: whole numbers separated by commas are expected, not '{text}'.") from None


def _plain(tables: dict[str, dict[str, Estimate]]) -> dict[str, Any]:
    return {name: {metric: vars(estimate) for metric, estimate in row.items()} for name, row in tables.items()}


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

    settings = {"scope": "paper", "transformation": transformation, "distance": distance}
    files = BenchmarkFiles.of(benchmark, annotations, images, more, skip_missing, skip_bad, as_published)
    cases = sample(
        benchmark_cases(Wanted(files, "validation", rephrases=rephrases)), samples, seed
    )  # an unfit file is told before a model is loaded
    vlm = open_model(model, device, dtype, quantization, device_map, adapter).vlm
    records = single_records(vlm, cases, [Variant("balancedit", "balancedit", settings)])
    best, by_alpha = choose(records)
    if json:
        emit({"alpha": best, "HM": by_alpha, "cases": [r["case"] for r in records]})
        return
    table = Table("α", "HM %", title=f"{samples} edits of {files.title('validation')}, seed {seed}")
    for alpha, value in by_alpha.items():
        table.add_row(f"{alpha:.2f}{'  ←' if alpha == best else ''}", f"{100 * value:.1f}")
    console().print(table)


def single_records(vlm: Any, cases: list[Any], variants: list[Any]) -> list[dict[str, Any]]:
    """Single-edit records that are kept in no file, with a bar."""
    with bar() as progress:
        task = progress.add_task("held-out edits", total=len(cases) * len(variants))
        return records_of(vlm, cases, variants, lambda: progress.advance(task))


def records_of(
    vlm: Any,
    cases: list[Any],
    variants: list[Any],
    progress: Callable[[], None] = lambda: None,
    cache: TrunkCache | None = None,
) -> list[dict[str, Any]]:
    """Single-edit records that are kept in no file.  `cache`: where what the base says is kept between calls."""
    import tempfile

    from ..evaluate.plan import Plan
    from ..evaluate.results import read_results
    from ..evaluate.runner import run

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        run(vlm, cases, variants, path, Plan(tokens=False), cache, progress=lambda _: progress())
        return read_results(path)[1]


def benchmark_cases(wanted: Wanted) -> list[EditCase]:
    """The edits of a split or of files.

    Raises: UnknownNameError, InputError, MissingDataError; see `vledit.data.benchmarks.load`.
    """
    files = BenchmarkFiles(wanted.files) if isinstance(wanted.files, str) else wanted.files
    found = files.cases(wanted.split, wanted.limit, wanted.sequence)
    return [asked(case, wanted) for case in found]


def asked(case: EditCase, wanted: Wanted) -> EditCase:
    """A case with as many probes and rephrases as are wanted."""
    request = case.request if wanted.rephrases == "supplied" else replace(case.request, rephrases=())
    return replace(case.trimmed(wanted.probes), request=request)


def sample(cases: list[Any], count: int, seed: int) -> list[Any]:
    """`count` cases drawn with a seed."""
    import random

    if not 1 <= count <= len(cases):
        raise InputError(f"samples: {count} given; there are {len(cases)} edits.")
    return random.Random(seed).sample(cases, count)
