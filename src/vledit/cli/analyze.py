"""`vledit analyze`: where an answer comes from before and after an edit, and whether that goes with blindness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..errors import InputError
from .analyze_scope import scope
from .bench import parse_variants
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
from .output import Json, console, emit, errors, size
from .session import Device, DeviceMap, Dtype, Model, Quantization, open_model

if TYPE_CHECKING:
    from ..analysis.notes import Notes
    from ..data.case import EditCase
    from ..evaluate.bootstrap import Estimate
    from ..evaluate.manifest import Variant
    from ..vlm.base import VLM

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
    run = _Run(files, split, limit, editors, cells, (model, device, dtype, quantization, device_map))
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
        layers = {
            m: {cell: _plain(study.layer_estimates(lines, cell, m)) for cell in run.cells} for m in study.MEASURES
        }
        emit(
            {
                "layers": layers,
                "upper_third": _plain(upper),
                "rank_correlation": _plain(ranks),
                "out": out,
                "page": page,
            }
        )
        return
    for measure, words in (("shares", "Image share"), ("pulls", "Pull of the picture")):
        table = Table("editor", *run.cells, title=f"{words}, mean over the top third of the layers, %; {run.title}")
        for name in run.names:
            table.add_row(name, *(_percent(upper[measure][cell].get(name)) for cell in run.cells))
        console().print(table)
    for name, row in ranks.items():
        for measure, found in row.items():
            rho = f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"
            text = f"{name}: rank correlation of blindness and what is lost of the {measure} {rho}, {found.n} edits"
            console().print(text, markup=False, soft_wrap=True)
    _tell_failures(lines)
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
    run = _Run(files, split, limit, editors, cells, (model, device, dtype, quantization, device_map))
    settings = {"gamma": gamma, "top_k": top_k}
    with run.notes(out, "masking", **settings) as notes, run.progress("masking") as step:
        study.masking_study(run.vlm, run.cases, run.variants, notes, run.cells, **settings, progress=step)
        lines = list(notes.lines.values())
    found = {name: {cell: study.masked_estimates(lines, name, cell) for cell in run.cells} for name in run.names}
    if json:
        emit(
            {
                "kept": {name: {cell: _plain(ways) for cell, ways in row.items()} for name, row in found.items()},
                "out": out,
            }
        )
        return
    for name, row in found.items():
        for cell, ways in row.items():
            console().print(_masked_table(f"{name}, {cell}; {run.title}", ways, run.vlm.n_layers))
    _tell_failures(lines)


def _masked_table(title: str, ways: dict[str, Estimate], n_layers: int) -> Table:
    table = Table("tokens hidden", "attributed", "random", title=f"Answers that stay, %; {title}")
    for name in ways:
        kind, _, at = name.partition("/")
        if kind == "keys":
            told = f"layers {at} to {n_layers - 1}: all but these"
            table.add_row(told, _percent(ways[name]), _percent(ways.get(f"random/{at}")))
        if kind == "best":
            table.add_row(f"all layers: {at} of these", _percent(ways[name]), _percent(ways.get(f"others/{at}")))
    for name, lost in ways.items():
        if name.startswith("lost best/"):
            at = name.rpartition("/")[2]
            other = ways[f"lost others/{at}"]
            table.add_row(f"nats lost, {at} hidden", _number(lost), _number(other))
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
    run = _Run(files, split, limit, editors, cells, (model, device, dtype, quantization, device_map))
    if not run.variants:
        raise InputError("editors: none given; there is nothing to compare the base with.")
    with run.notes(out, "kl") as notes, run.progress("KL") as step:
        study.kl_study(run.vlm, run.cases, run.variants, notes, run.cells, step)
        lines = list(notes.lines.values())
    names = [name for name in run.names if name != study.BASE]
    found = {name: {cell: study.kl_estimates(lines, name, cell) for cell in run.cells} for name in names}
    if json:
        emit(
            {"kl": {name: {cell: _plain(one) for cell, one in row.items()} for name, row in found.items()}, "out": out}
        )
        return
    table = Table("editor", "cell", "KL image, nats", "KL text, nats", "ratio", "edits that move it", title=run.title)
    for name, row in found.items():
        for cell, one in row.items():
            moved = one.get("ratio")
            shown = [_number(one.get(part)) for part in ("image", "text", "ratio")]
            table.add_row(name, cell, *shown, "0" if moved is None else str(moved.n))
    console().print(table)
    _tell_failures(lines)


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
        table.add_row(name, _number(estimate), str(estimate.n))
    console().print(table)


# --- what the commands share ------------------------------------------------------------------------------------------


class _Run:
    """Cases, variants and the model of an analysis, checked in this order: what is cheap first."""

    def __init__(self, files: BenchmarkFiles, split: str, limit: int, editors: str, cells: str, model: Sequence[Any]):
        from ..analysis.study import BASE, check_cells

        self.variants: list[Variant] = parse_variants(editors) if editors.strip() else []
        self.names = [BASE, *(variant.name for variant in self.variants)]
        self.cells = [cell.strip() for cell in cells.split(",") if cell.strip()]
        if not self.cells:
            raise InputError("cells: none given.")
        self.cases: list[EditCase] = files.cases(split, limit)
        check_cells(self.cases, self.cells)
        self.title = f"{files.title(split)}, {len(self.cases)} edits"
        self.about = files.about(split)
        self.vlm: VLM = open_model(*model).vlm

    def notes(self, out: Path, analysis: str, **settings: Any) -> Notes:
        """The file, opened; not for a model that this analysis cannot be made of."""
        from ..analysis.anatomised import check_traceable
        from ..analysis.notes import Notes
        from ..data.cache import sha256_json
        from ..evaluate.manifest import case_key

        if analysis in ("attribution", "masking"):
            check_traceable(self.vlm)
        head = {
            "analysis": analysis,
            "model": self.vlm.name,
            "fingerprint": self.vlm.fingerprint,
            "dtype": str(self.vlm.dtype),
            "cells": self.cells,
            "cases": len(self.cases),
            "cases_hash": sha256_json([case_key(case) for case in self.cases]),
            "variants": [vars(variant) for variant in self.variants],
        }
        return Notes(out, {**self.about, **head, **settings})

    def progress(self, what: str) -> _Bar:
        return _Bar(what, len(self.cases) * len(self.names))

    def flows(self, count: int, settings: dict[str, Any]) -> list[Any]:
        """What the page draws of the first edits."""
        from ..analysis import study
        from ..analysis.acting import edited
        from ..analysis.anatomised import patch_grid
        from ..report.attribution_page import Flow

        found = []
        for case in self.cases[:count]:
            asked = study.prompts(case, [study.EDIT])[study.EDIT]
            traces = {study.BASE: study.trace(self.vlm, None, asked, **settings)}
            for variant in self.variants:
                traces[variant.name] = study.trace(self.vlm, edited(self.vlm, variant, case.request), asked, **settings)
            encoded = self.vlm.encode([asked.image], [asked.question])
            tokens = [self.vlm.tokenizer.decode([id]) for id in encoded.input_ids[0].tolist()]
            found.append(Flow(case, asked.image, traces, tokens, patch_grid(encoded)))
        return found


class _Bar:
    """Progress on stderr; within the block, a function that is called with every case."""

    def __init__(self, what: str, total: int):
        self.bar = bar()
        self.task = self.bar.add_task(what, total=total)

    def __enter__(self) -> Any:
        self.bar.__enter__()
        return lambda _: self.bar.advance(self.task)

    def __exit__(self, *error: Any) -> None:
        self.bar.__exit__(*error)


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


def _tell_failures(lines: Sequence[dict[str, Any]]) -> None:
    failed = [line for line in lines if line.get("error")]
    for line in failed[:5]:
        errors.print(f"{line['variant']}, {line['case']}: {line['error']}", markup=False, soft_wrap=True)
    if len(failed) > 5:
        errors.print(f"… and {len(failed) - 5} more edits that failed", markup=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else vars(value)


def _percent(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{estimate} ({estimate.n})"


def _number(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return f"{estimate.mean:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"
