"""`vledit ablate`: the ablations of the BalancEdit paper, each as a plot and a CSV of the same figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from ..errors import InputError, MissingDataError
from .benchmark_files import (
    Annotations,
    AsPublished,
    BenchmarkFiles,
    BenchmarkName,
    Images,
    MostProbes,
    SkipBad,
    SkipMissing,
    Split,
    With,
)
from .leaderboard import bar, failures
from .output import Json, console, emit, errors
from .session import Adapter, Device, DeviceMap, Dtype, Model, Quantization, open_model
from .settings import parse_settings
from .variants import parse_variants, with_named
from .wanted import Rephrases, Wanted, benchmark_cases

if TYPE_CHECKING:
    from ..data.case import EditCase
    from ..evaluate.manifest import Variant
    from ..vlm.base import VLM


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("ablate")(ablate)


def ablate(
    name: Annotated[
        str,
        typer.Argument(help="alpha, anchors, distance, layer, sequential, time, data, keys or explain; see --list."),
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Picture (.png, .svg, .pdf); its CSV is written beside it. Default: NAME.png.")
    ] = None,
    limit: Annotated[
        int, typer.Option(help="How many edits, spread evenly; 0: as many as the ablation usually has.")
    ] = 0,
    split: Split = "validation",
    editors: Annotated[
        str, typer.Option(help="sequential, time, data: the editors, as for `vledit bench`.")
    ] = "balancedit:scope=paper;balancedit;ft;grace",
    values: Annotated[
        str,
        typer.Option(help="anchors, distance, layer: values to try instead of the usual ones, separated by commas."),
    ] = "",
    at: Annotated[
        str, typer.Option(help="sequential: after which numbers of edits to score; default: 1, 5, 10, 20, 50 …")
    ] = "",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE: a setting of balancedit in every variant (may be repeated)."),
    ] = None,
    probes: MostProbes = 0,
    seed: Annotated[int, typer.Option(help="keys: random seed of t-SNE.")] = 0,
    list_: Annotated[bool, typer.Option("--list", help="List the ablations and stop.")] = False,
    benchmark: BenchmarkName = "icons",
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
    """Run one ablation of BalancEdit, or compare the cost of editors, and plot it. An interrupted run can be continued."""
    from ..editors.balancedit import BalancEditConfig
    from ..evaluate import ablations
    from ..report import figures

    if list_ or not name:
        _list(json)
        return
    chosen = ablations.ablation(name)
    path = out or Path(f"{name}.png")
    figures.check_path(path)
    common = parse_settings(BalancEditConfig, set_ or ())
    asked = [value.strip() for value in values.split(",") if value.strip()]
    if asked and chosen.name not in ("anchors", "distance", "layer"):
        raise InputError(f"values: '{name}' has no values to choose; they are for anchors, distance and layer.")
    rivals = parse_variants(editors) if chosen.varied is None else []
    files = BenchmarkFiles.of(benchmark, annotations, images, more, skip_missing, skip_bad, as_published)
    wanted = Wanted(
        files, split, limit or chosen.edits, probes, chosen.sequence or name in ("keys", "explain"), rephrases
    )
    cases = benchmark_cases(wanted)
    vlm = open_model(model, device, dtype, quantization, device_map, adapter).vlm
    title = f"{vlm.name}, {files.title(split)}, {len(cases)} edits"
    if name in ("keys", "explain"):
        rows = _codebook(name, vlm, cases, common, path, title, seed)
    else:
        variants = with_named(rivals, vlm) if rivals else chosen.variants(vlm, asked, common)
        about = files.about(split) | {"rephrases": rephrases}
        rows = _scored(chosen, vlm, cases, variants, path, title, at, about)
    table = figures.write_csv(path, rows)
    if json:
        emit({"ablation": name, "rows": rows, "plot": path, "csv": table})
        return
    _show(rows, f"{chosen.about} ({chosen.source}); {title}")
    console().print(f"plot: {path}", markup=False, soft_wrap=True)
    console().print(f"figures: {table}", markup=False, soft_wrap=True)


def _scored(
    chosen: Any,
    vlm: VLM,
    cases: list[EditCase],
    variants: list[Variant],
    path: Path,
    title: str,
    at: str,
    about: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Runs the variants into a results file beside the picture, and draws the picture."""
    from ..evaluate import ablations
    from ..evaluate.plan import Plan
    from ..evaluate.results import read_results
    from ..evaluate.runner import run
    from ..evaluate.trunk_cache import TrunkCache
    from ..report import ablation_plots as plots

    points = tuple(int(part) for part in at.split(",") if part.strip()) if at else _points(len(cases))
    plan = Plan("sequential", points, tokens=False) if chosen.sequence else Plan(tokens=False)
    results = path.with_suffix(".jsonl")
    scored = len(plan.points(len(cases))) * len(cases) if chosen.sequence else len(cases)
    with bar() as progress:
        task = progress.add_task(chosen.name, total=len(variants) * scored)
        cache = TrunkCache(vlm)  # ablations are mostly of the same edits
        run(vlm, cases, variants, results, plan, cache, progress=lambda _: progress.advance(task), **about)
    records = read_results(results)[1]
    for line in failures(records):
        errors.print(line, markup=False, highlight=False, soft_wrap=True)
    if chosen.name == "alpha":
        rows, by_alpha = ablations.alpha_rows(records)
        used = [r["edit"]["alpha"] for r in records if r.get("edit") and r["edit"].get("alpha") is not None]
        plots.alpha(path, by_alpha, used[0] if used else None, title)
        return rows
    if chosen.sequence:
        rows, by_count = ablations.sequence_rows(records)
        plots.sequence(path, by_count, title)
        return rows
    if chosen.name in ("time", "data"):
        rows, _ = ablations.cost_rows(records, _fitted(variants, vlm))
        panels = {
            "time": {"seconds_per_edit": "seconds per edit", "fitting_hours": "hours of fitting before the first edit"},
            "data": {"fitted_on": "edits that it is fitted on", "bytes_per_edit": "bytes that an edit keeps"},
        }[chosen.name]
        plots.costs(path, rows, panels, title)
        return rows
    rows, by_name = ablations.variant_rows(records)
    plots.variants(path, by_name, title)
    return rows


def _points(count: int) -> tuple[int, ...]:
    return tuple(sorted({n for n in (1, 5, 10, 20, 50, 100, 200) if n < count} | {count}))


def _fitted(variants: list[Variant], vlm: VLM) -> dict[str, Mapping[str, Any]]:
    """Variant → manifest of what was fitted for it, its scope's for BalancEdit; those without one are left out."""
    from ..editors.balancedit import BalancEditConfig
    from ..editors.registry import editor_class
    from ..editors.scoping import fitting_of
    from ..editors.training import artefact

    found = {}
    for variant in variants:
        method = editor_class(variant.editor)
        config = method.Config.from_settings(variant.settings)
        if isinstance(config, BalancEditConfig):
            scope = fitting_of(vlm, config)
            found.update({variant.name: scope} if scope is not None else {})
        elif hasattr(method, "fit"):
            try:
                found[variant.name] = artefact.find(variant.editor, vlm, variant.settings.get("fitted", "")).about
            except MissingDataError:  # an editor that may go without, such as ike
                continue
    return found


def _codebook(
    name: str, vlm: VLM, cases: list[EditCase], common: Mapping[str, Any], path: Path, title: str, seed: int
) -> list[dict[str, Any]]:
    """The ablations that look into a codebook with all edits in it."""
    from ..editors.edited_model import EditedModel
    from ..report import ablation_plots as plots

    model = EditedModel(vlm)
    settings = {"scope": "paper", **common} if name == "keys" else dict(common)
    if name == "explain":
        from ..analysis.nearest_entries import explain

        told = explain(model, cases, "balancedit", **settings)
        plots.explained(path, told, title)
        return [one.row(case.id) for case, some in zip(cases, told, strict=True) for one in some]
    from ..analysis.key_map import key_map

    with bar() as progress:
        for case in progress.track(cases, description="keys"):
            model.edit(case.request, "balancedit", check=False, **settings)
    found = key_map(model.codebook.active(), seed)
    plots.keys(path, found, title)
    return found.rows()


def _list(json: bool) -> None:
    from ..evaluate.ablations import ABLATIONS

    if json:
        emit({one.name: {"about": one.about, "source": one.source, "edits": one.edits} for one in ABLATIONS.values()})
        return
    table = Table("name", "what it varies", "BalancEdit", "edits")
    for one in ABLATIONS.values():
        table.add_row(one.name, one.about, one.source, str(one.edits))
    console().print(table)


SIDE_BY_SIDE = 7
"""Most rows of an ablation that are printed as columns."""


def _show(rows: list[dict[str, Any]], title: str, most: int = 24) -> None:
    """The rows without their intervals, which are in the CSV; few rows with many figures stand side by side."""
    names = [name for name in dict.fromkeys(n for row in rows for n in row) if not name.endswith(("_low", "_high"))]
    if len(names) > SIDE_BY_SIDE >= len(rows):
        beside = Table(Column(names[0], no_wrap=True), *(_cell(row.get(names[0])) for row in rows), title=title)
        for name in names[1:]:
            beside.add_row(name, *(_cell(row.get(name)) for row in rows))
        console().print(beside)
        return
    table = Table(*names, title=title)
    for row in rows[:most]:
        table.add_row(*(_cell(row.get(name)) for name in names))
    console().print(table)
    if len(rows) > most:
        console().print(f"… and {len(rows) - most} more rows in the CSV", markup=False)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
