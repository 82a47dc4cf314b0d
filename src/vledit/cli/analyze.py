"""`vledit analyze`: where an answer comes from before and after an edit, and whether that goes with blindness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..errors import InputError
from .analyze_run import Run, number, percent, plain, tell_failures
from .analyze_scope import scope
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
from .output import Json, console, emit, size
from .session import Device, DeviceMap, Dtype, Model, Quantization, open_model

if TYPE_CHECKING:
    from ..evaluate.bootstrap import Estimate

Editors = Annotated[
    str, typer.Option(help="Editors as for `vledit bench`; empty: the base alone. The base is always there.")
]
Limit = Annotated[int, typer.Option(help="Number of edits, spread evenly over the split; 0: all.")]
Cells = Annotated[
    str,
    typer.Option(
        help="What is asked, separated by commas: edit, text_generality, image_generality, or locality cells (T1I2)."
    ),
]
Retriever = Annotated[str, typer.Option(help="The sentence encoder that finds De-VQA's similar questions.")]
Gamma = Annotated[float, typer.Option(help="Algorithm 1's γ: what a token's score must exceed.")]
TopK = Annotated[int, typer.Option(help="Algorithm 1's k: how many tokens a key token passes on to.")]
DEFAULT_CELLS = "edit,text_generality,T1I2,T1I3"


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(
        name="analyze", help="Analyse where an answer comes from, before and after an edit.", no_args_is_help=True
    )
    group.command("attribution")(attribution)
    group.command("masking")(masking)
    group.command("kl")(kl)
    group.command("retrieval")(retrieval)
    group.command("scope")(scope)
    app.add_typer(group)


def attribution(
    editors: Editors = "balancedit;ft",
    benchmark: BenchmarkName = "icons",
    annotations: Annotations = None,
    images: Images = None,
    more: With = None,
    skip_missing: SkipMissing = False,
    skip_bad: SkipBad = False,
    as_published: AsPublished = False,
    split: Split = "test",
    limit: Limit = 50,
    cells: Cells = DEFAULT_CELLS,
    gamma: Gamma = 0.7,
    top_k: TopK = 3,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Results of `vledit bench --devqa` on the same edits: does the image share predict blindness?"
        ),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="HTML page to write, with curves and the flow through the layers.")
    ] = None,
    show: Annotated[int, typer.Option(help="For how many edits the page draws the flow.")] = 3,
    out: Annotated[Path, typer.Option(help="Results file (JSONL). If it exists, the run in it is continued.")] = Path(
        "attribution.jsonl"
    ),
    retriever: Retriever = "all-MiniLM-L6-v2",
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    quantization: Quantization = None,
    device_map: DeviceMap = None,
    json: Json = False,
) -> None:
    """Compute the picture's share in the attribution of every layer (De-VQA, Algorithm 1), for the base and for edited models."""
    from ..analysis import study

    blind = None if results is None else _blindness(results)  # an unfit file is told before the run
    files = BenchmarkFiles.of(benchmark, annotations, images, more, skip_missing, skip_bad, as_published, retriever)
    run = Run(files, split, limit, editors, cells, (model, device, dtype, quantization, device_map))
    settings = {"gamma": gamma, "top_k": top_k}
    with run.notes(out, "attribution", **settings) as notes, run.progress("attribution") as step:
        study.attribution(run.vlm, run.cases, run.variants, notes, run.cells, **settings, progress=step)
        lines = list(notes.lines.values())
    upper = {m: {cell: _upper(lines, run.names, cell, m) for cell in run.cells} for m in study.MEASURES}
    ranks = {} if blind is None else _ranks(lines, blind)
    if page is not None:
        from ..report.attribution_page import write_attribution_page

        flows = run.flows(show, settings)
        write_attribution_page(page, run.title, lines, run.names, run.cells, flows, ranks)
    if json:
        layers = {m: {cell: plain(study.layer_estimates(lines, cell, m)) for cell in run.cells} for m in study.MEASURES}
        emit(
            {
                "layers": layers,
                "upper_third": plain(upper),
                "rank_correlation": plain(ranks),
                "out": out,
                "page": page,
            }
        )
        return
    for measure, words in (("shares", "Image share"), ("pulls", "Pull of the picture")):
        table = Table("editor", *run.cells, title=f"{words}, mean over the top third of the layers, %; {run.title}")
        for name in run.names:
            table.add_row(name, *(percent(upper[measure][cell].get(name)) for cell in run.cells))
        console().print(table)
    for name, row in ranks.items():
        for measure, found in row.items():
            rho = f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"
            text = f"{name}: rank correlation of blindness and what is lost of the {measure} {rho}, {found.n} edits"
            console().print(text, markup=False, soft_wrap=True)
    tell_failures(lines)
    if page is not None:
        console().print(f"page: {page} ({size(page.stat().st_size)})", markup=False, soft_wrap=True)


def masking(
    editors: Editors = "",
    benchmark: BenchmarkName = "icons",
    annotations: Annotations = None,
    images: Images = None,
    more: With = None,
    skip_missing: SkipMissing = False,
    skip_bad: SkipBad = False,
    as_published: AsPublished = False,
    split: Split = "test",
    limit: Limit = 50,
    cells: Cells = "edit",
    gamma: Gamma = 0.7,
    top_k: TopK = 3,
    out: Annotated[Path, typer.Option(help="Results file (JSONL). If it exists, the run in it is continued.")] = Path(
        "masking.jsonl"
    ),
    retriever: Retriever = "all-MiniLM-L6-v2",
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    quantization: Quantization = None,
    device_map: DeviceMap = None,
    json: Json = False,
) -> None:
    """Test the attribution by masking: is the answer kept with attributed tokens alone, and lost without them?"""
    from ..analysis import study

    files = BenchmarkFiles.of(benchmark, annotations, images, more, skip_missing, skip_bad, as_published, retriever)
    run = Run(files, split, limit, editors, cells, (model, device, dtype, quantization, device_map))
    settings = {"gamma": gamma, "top_k": top_k}
    with run.notes(out, "masking", **settings) as notes, run.progress("masking") as step:
        study.masking_study(run.vlm, run.cases, run.variants, notes, run.cells, **settings, progress=step)
        lines = list(notes.lines.values())
    found = {name: {cell: study.masked_estimates(lines, name, cell) for cell in run.cells} for name in run.names}
    if json:
        emit(
            {
                "kept": {name: {cell: plain(ways) for cell, ways in row.items()} for name, row in found.items()},
                "out": out,
            }
        )
        return
    for name, row in found.items():
        for cell, ways in row.items():
            console().print(_masked_table(f"{name}, {cell}; {run.title}", ways, run.vlm.n_layers))
    tell_failures(lines)


def _masked_table(title: str, ways: dict[str, Estimate], n_layers: int) -> Table:
    table = Table("tokens hidden", "attributed", "random", title=f"Answers that stay, %; {title}")
    for name in ways:
        kind, _, at = name.partition("/")
        if kind == "keys":
            told = f"layers {at} to {n_layers - 1}: all but these"
            table.add_row(told, percent(ways[name]), percent(ways.get(f"random/{at}")))
        if kind == "best":
            table.add_row(f"all layers: {at} of these", percent(ways[name]), percent(ways.get(f"others/{at}")))
    for name, lost in ways.items():
        if name.startswith("lost best/"):
            at = name.rpartition("/")[2]
            other = ways[f"lost others/{at}"]
            table.add_row(f"nats lost, {at} hidden", number(lost), number(other))
    return table


def kl(
    editors: Editors = "balancedit;ft",
    benchmark: BenchmarkName = "icons",
    annotations: Annotations = None,
    images: Images = None,
    more: With = None,
    skip_missing: SkipMissing = False,
    skip_bad: SkipBad = False,
    as_published: AsPublished = False,
    split: Split = "test",
    limit: Limit = 50,
    cells: Cells = "T3I3,text_generality,T1I2,T2I2",
    out: Annotated[Path, typer.Option(help="Results file (JSONL). If it exists, the run in it is continued.")] = Path(
        "kl.jsonl"
    ),
    retriever: Retriever = "all-MiniLM-L6-v2",
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    quantization: Quantization = None,
    device_map: DeviceMap = None,
    json: Json = False,
) -> None:
    """Compare how far an edit moves the predictions at picture tokens and at text tokens (De-VQA, Eq. 17 and Table 5)."""
    from ..analysis import study

    files = BenchmarkFiles.of(benchmark, annotations, images, more, skip_missing, skip_bad, as_published, retriever)
    run = Run(files, split, limit, editors, cells, (model, device, dtype, quantization, device_map))
    if not run.variants:
        raise InputError("editors: none given; there is nothing to compare the base with.")
    with run.notes(out, "kl") as notes, run.progress("KL") as step:
        study.kl_study(run.vlm, run.cases, run.variants, notes, run.cells, step)
        lines = list(notes.lines.values())
    names = [name for name in run.names if name != study.BASE]
    found = {name: {cell: study.kl_estimates(lines, name, cell) for cell in run.cells} for name in names}
    if json:
        emit({"kl": {name: {cell: plain(one) for cell, one in row.items()} for name, row in found.items()}, "out": out})
        return
    table = Table("editor", "cell", "KL image, nats", "KL text, nats", "ratio", "edits that move it", title=run.title)
    for name, row in found.items():
        for cell, one in row.items():
            moved = one.get("ratio")
            shown = [number(one.get(part)) for part in ("image", "text", "ratio")]
            table.add_row(name, cell, *shown, "0" if moved is None else str(moved.n))
    console().print(table)
    tell_failures(lines)


def retrieval(
    benchmark: BenchmarkName = "icons",
    annotations: Annotations = None,
    images: Images = None,
    more: With = None,
    skip_missing: SkipMissing = False,
    skip_bad: SkipBad = False,
    as_published: AsPublished = False,
    split: Split = "test",
    limit: Limit = 100,
    retriever: Retriever = "all-MiniLM-L6-v2",
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: Json = False,
) -> None:
    """Measure how similar the pictures are that De-VQA retrieves by question and by picture (its consistency analysis)."""
    from ..analysis.consistency import consistency
    from ..data.devqa import DevQA, index_of

    files = BenchmarkFiles.of(benchmark, annotations, images, more, skip_missing, skip_bad, as_published)
    pool = files.cases(split)
    wrapper = DevQA(pool, index_of(pool, retriever))
    vlm = open_model(model, device, dtype).vlm
    with bar() as progress:
        task = progress.add_task("pictures", total=len(pool))
        found = consistency(vlm, wrapper, limit, lambda _: progress.advance(task))
    if json:
        emit({name: vars(estimate) for name, estimate in found.items()})
        return
    table = Table("cosine of the pictures", "mean [95 %]", "edits", title=f"{files.title(split)}, {retriever}")
    for name, estimate in found.items():
        table.add_row(name, number(estimate), str(estimate.n))
    console().print(table)


def _blindness(path: Path) -> dict[str, dict[str, float]]:
    """Variant → case → blindness.  Raises: InputError where a file tells of none."""
    from ..evaluate.blindness import by_case
    from ..evaluate.metrics import by_variant, last
    from ..evaluate.results import read_results

    _, records = read_results(path)
    found = {name: by_case(some).get("blindness", {}) for name, some in by_variant(last(records))}
    if not any(found.values()):
        raise InputError(f"results: {path} has no blindness; make one with `vledit bench --devqa`.")
    return found


def _ranks(lines: Sequence[dict[str, Any]], blind: dict[str, dict[str, float]]) -> dict[str, dict[str, Estimate]]:
    """Variant → measure → rank correlation of what the edit took of it and blindness, over the edits that both have."""
    from ..analysis.ranks import spearman
    from ..analysis.study import EDIT, MEASURES, lost

    names = dict.fromkeys(line["variant"] for line in lines if line["variant"] in blind)
    return {name: {m: spearman(lost(lines, name, EDIT, m), blind[name]) for m in MEASURES} for name in names}


def _upper(lines: Sequence[dict[str, Any]], names: Sequence[str], cell: str, measure: str) -> dict[str, Estimate]:
    from ..analysis.ranks import bootstrapped
    from ..analysis.study import upper_mean

    table: dict[str, dict[str, float]] = {name: {} for name in names}
    for line in lines:
        values = line.get(measure, {}).get(cell)
        if values and (value := upper_mean(values)) == value:
            table[line["variant"]][line["case"]] = value
    return bootstrapped({name: values for name, values in table.items() if values})
