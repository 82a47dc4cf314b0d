"""`vledit fit-scope`: how far BalancEdit's `scope=last` reaches, found on the edits of a training split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from ..data.case import EditCase
    from ..vlm.site import Site


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("fit-scope")(fit_scope)


def fit_scope(
    out: Annotated[
        Path | None, typer.Option(help="Folder of the result; by default where the editor looks for it.")
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
            help="Number of further edits of which only the keys are read, to find how the radius narrows "
            "with the number of edits; 0: none."
        ),
    ] = 440,
    text: Annotated[
        str,
        typer.Option(
            "--text",
            metavar="BENCHMARK:SPLIT",
            help="Edits without a picture, BENCHMARK:SPLIT (e.g. icons-text:validation), on which the radius "
            "of such edits is found.",
        ),
    ] = "",
    key_sites: Annotated[
        str,
        typer.Option(
            metavar="SITES",
            help="Where the last prompt token may be read, e.g. 24.layer,29.mlp.out; all are fitted, and the best on --choose is "
            "used. Empty: at the edited site.",
        ),
    ] = "",
    choose: Annotated[
        str,
        typer.Option(metavar="BENCHMARK:SPLIT", help="Edits on which one of several key sites is chosen."),
    ] = "icons:validation",
    probes: Annotated[int, typer.Option(help="At most this many probes of each cell.")] = 2,
    distance: Annotated[str, typer.Option(help="euclidean or cosine.")] = "euclidean",
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    adapter: Adapter = None,
    json: Json = False,
) -> None:
    """Find how far the last prompt token may lie from an edit's own, for `balancedit` (no training, one pass)."""
    from ..codebook.scope import check_distance
    from ..editors import reach, reach_fit
    from ..editors.training import artefact

    check_distance(distance)
    if probes < 1:
        raise InputError(f"probes: {probes} given; at least 1 of each cell is needed.")
    files = BenchmarkFiles.of(benchmark, annotations, images, more, skip_missing, skip_bad, as_published)
    cases = files.cases(split, limit)
    asked = {case.id for case in cases}
    further = [case for case in files.cases(split, limit + others) if case.id not in asked] if limit and others else []
    further = [case for case in further if case.request.image is not None][:others]
    cases += _texts(text)
    sites, trials = _choices(key_sites, choose, limit)
    vlm = open_model(model, device, dtype, adapter=adapter).vlm
    folder = out or artefact.default_folder(reach.EDITOR, vlm)
    progress = bar()
    with progress:
        task = progress.add_task("keys", total=len(cases) + -(-len(further) // reach.ROWS) + len(trials))
        found = reach_fit.fit(
            vlm,
            cases,
            folder,
            distance,
            probes,
            further,
            {**files.about(split), **({"text": text} if text else {}), **({"choose": choose} if trials else {})},
            lambda: progress.advance(task),
            sites,
            trials,
        )
    if json:
        emit(
            {
                "folder": folder,
                "key_site": found.key_site,
                "picture": found.picture,
                "text": found.text,
                "share": found.share,
                "crowd": found.crowd,
                "crowd_text": found.crowd_text,
            }
        )
        return
    by_share = found.share is not None
    rule = (
        f"{found.share:.2f} of the way from its rewordings to a blank picture" if by_share else f"{found.picture:.4g}"
    )
    console().print(f"key read at {found.key_site}; with a picture: {rule}; without: {found.text:.4g}")
    for name, crowd in (("with a picture", found.crowd), ("without", found.crowd_text)):
        if crowd:
            points = ", ".join(f"{count}: {radius:.4g}" for count, radius in crowd)
            console().print(f"among so many entries, {name}: {points}")
    console().print(f"fitted part: {folder}", markup=False, soft_wrap=True)


def _texts(named: str) -> list[EditCase]:
    """The edits of `BENCHMARK:SPLIT`; none where nothing is named.  Raises: InputError for another form, or with pictures."""
    if not named:
        return []
    files, split = BenchmarkFiles.named(named, "--text")
    cases = files.cases(split)
    if any(case.request.image is not None for case in cases):
        raise InputError(f"--text: '{files.benchmark}' has edits with a picture; name a benchmark without pictures.")
    return cases


def _choices(key_sites: str, choose: str, limit: int) -> tuple[list[Site], list[EditCase]]:
    """The key sites that are tried, and the edits that one of several is chosen on.  Raises: InputError."""
    from ..vlm.site import Site

    sites = [Site.parse(part) for part in key_sites.split(",") if part.strip()]
    if len(sites) < 2:
        return sites, []
    files, split = BenchmarkFiles.named(choose, "--choose")
    return sites, files.cases(split, limit)
