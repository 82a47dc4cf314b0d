"""`vledit report` makes one page, or Markdown, of results files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .benchmark_files import Annotations, AsPublished, BenchmarkFiles, Images, With
from .output import Json, busy, console, emit, size

if TYPE_CHECKING:
    from ..data.case import EditCase
    from ..evaluate.bootstrap import Estimate
    from ..report.gallery import CaseSource
    from ..report.runs import Run


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("report")(report)


def report(
    results: Annotated[
        list[Path], typer.Argument(help="Results files of `vledit bench`, one or more.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page to write.  [default: report.html]", show_default=False)
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Write the same tables as Markdown.", show_default=False)
    ] = None,
    cases: Annotated[int, typer.Option(help="Number of cases to include for browsing, spread evenly.")] = 200,
    picture_mb: Annotated[
        float, typer.Option(help="Megabytes of pictures in the page: the edited first, then those of failing probes.")
    ] = 1.5,
    annotations: Annotations = None,
    images: Images = None,
    more: With = None,
    as_published: AsPublished = False,
    json: Json = False,
) -> None:
    """Write results as one self-contained HTML page with leaderboard, plots, costs, and all edits to browse.

    Results files contain no pictures. Those of `icons` are drawn again; for a benchmark that is read from files, give the same
    --annotations and --images as to `vledit bench`.
    """
    from ..report.markdown import write_markdown
    from ..report.results_page import write_results_page
    from ..report.runs import arms_of, read_run
    from ..report.scores import alpha_curves

    if cases < 0:
        raise InputError(f"cases: {cases} given; 0 leaves the browser of cases empty.")
    if not 0 <= picture_mb <= 100:
        raise InputError(f"picture-mb: {picture_mb:g} given; from 0 (no pictures) to 100.")
    with busy("reading results"):
        runs = [read_run(path) for path in dict.fromkeys(results)]
        arms = arms_of(runs)
    with busy("scoring"):
        curves = alpha_curves(arms)
    written: dict[str, Path] = {}
    if out is not None or markdown is None:
        with busy("drawing the page"):
            files = BenchmarkFiles.of("", annotations, images, more, True, True, as_published)
            source, budget = picture_source(files, picture_mb), round(1e6 * picture_mb)
            page = write_results_page(runs, arms, curves, out or Path("report.html"), source, cases, budget)
            written["page"] = page
    if markdown is not None:
        written["markdown"] = write_markdown(runs, arms, curves, markdown)
    if json:
        emit({**written, "arms": [{"label": a.label, "file": a.run.path, **_figures(a.estimates)} for a in arms]})
        return
    for what, path in written.items():
        console().print(f"{what}: {path} ({size(path.stat().st_size)})", markup=False, soft_wrap=True)


def picture_source(files: BenchmarkFiles, picture_mb: float) -> CaseSource:
    """Where the cases' pictures come from; `files`: of benchmarks that are read from files."""
    from ..report.gallery import benchmark_cases, no_cases

    if not picture_mb:
        return no_cases
    if files.annotations is None:
        return benchmark_cases

    def source(run: Run) -> dict[str, EditCase]:
        asked = (run.manifest.get("devqa") or {}).get("retriever", "")
        return {case.id: case for case in replace(files, benchmark=run.benchmark, devqa=asked).cases()}

    return source


def _figures(estimates: dict[str, Estimate]) -> dict[str, Any]:
    return {"metrics": {name: vars(estimate) for name, estimate in estimates.items()}}
