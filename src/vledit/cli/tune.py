"""`vledit tune`: the best settings of an editor on a few validation edits, and what was tried on the way."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..errors import InputError
from .benchmark_files import Annotations, AsPublished, BenchmarkFiles, Images, MostProbes, SkipBad, SkipMissing, With
from .leaderboard import bar
from .output import Json, console, emit
from .session import Adapter, Device, DeviceMap, Dtype, Model, Quantization, open_model
from .settings import parse_settings
from .wanted import Rephrases, Wanted, benchmark_cases


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("tune")(tune)


def tune(
    editor: Annotated[str, typer.Option(help="Editor whose settings are searched; see `vledit editors`.")],
    trials: Annotated[int, typer.Option(help="Total number of settings to try, the defaults first.")] = 30,
    limit: Annotated[int, typer.Option(help="Edits of the validation split in each trial.")] = 20,
    probes: MostProbes = 3,
    seed: Annotated[int, typer.Option(help="Random seed of the search.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE: keep this setting fixed (may be repeated).")
    ] = None,
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
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the search; by default where `settings=tuned` looks. An existing search is continued."
        ),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start over and delete the search in the folder.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Plot of all trials; a CSV file of the same name is written beside it. Default: in the folder."
        ),
    ] = None,
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    quantization: Quantization = None,
    device_map: DeviceMap = None,
    adapter: Adapter = None,
    json: Json = False,
) -> None:
    """Search for the best settings of an editor on the validation split; `EDITOR:settings=tuned` then uses them."""
    from ..data.cache import sha256_json
    from ..editors.named import published, tuned_folder
    from ..editors.registry import editor_class
    from ..evaluate.manifest import Variant, case_key
    from ..evaluate.runner import records_of
    from ..evaluate.trunk_cache import TrunkCache
    from ..evaluate.tuning import BEST, STUDY, Search, import_optuna, space
    from ..report import figures

    if trials < 1:
        raise InputError(f"trials: {trials} given; at least 1 is needed.")
    if plot is not None:
        figures.check_path(plot)
    import_optuna()
    config = editor_class(editor).Config
    fixed = parse_settings(config, set_ or ())
    searched = space(editor, fixed)
    files = BenchmarkFiles.of(benchmark, annotations, images, more, skip_missing, skip_bad, as_published)
    cases = benchmark_cases(Wanted(files, "validation", limit, probes, rephrases=rephrases))
    vlm = open_model(model, device, dtype, quantization, device_map, adapter).vlm
    folder = out or tuned_folder(editor, vlm)
    if restart and (folder / STUDY).exists():
        for name in (STUDY, BEST):
            (folder / name).unlink(missing_ok=True)
    defaults = vars(config.from_settings(fixed))
    first: list[dict[str, Any]] = [{**{n: defaults[n] for n in searched}, "why": "default"}]
    with suppress(InputError):  # there are none
        first.append({**first[0], **published(editor, vlm.family.name), "why": "published"})
    about = files.about("validation") | {
        "model": vlm.name,
        "fingerprint": vlm.fingerprint,
        "cases": sha256_json([case_key(case) for case in cases]),
        "limit": len(cases),
    }
    search = Search(editor, folder, about, seed, fixed, first)

    cache = TrunkCache(vlm)  # every trial is of the same cases

    def score(settings: Any) -> list[dict[str, Any]]:
        return records_of(vlm, cases, [Variant(editor, editor, dict(settings))], cache=cache)

    with bar() as progress:
        task = progress.add_task(f"tuning {editor}", total=trials, completed=len(search.done))
        search.run(trials, score, lambda: progress.advance(task))
    rows = search.rows()
    picture = plot or folder / "tried.png"
    logs = [name for name, range in search.space.items() if range.kind == "log"]
    figures.tried(picture, rows, list(search.space), f"{editor}, {vlm.name}, {len(cases)} edits", logs)
    table = figures.write_csv(picture, rows)
    best = search.write_best()
    if json:
        emit({"best": search.best, "value": search.study.best_value, "rows": rows, "folder": folder})
        return
    _show(
        rows, list(search.space), f"{editor}: {len(rows)} settings on {len(cases)} edits of {files.title('validation')}"
    )
    for what, path in (("best", best), ("plot", picture), ("figures", table)):
        console().print(f"{what}: {path}", markup=False, soft_wrap=True)


def _show(rows: list[dict[str, Any]], names: list[str], title: str, most: int = 8) -> None:
    """The best settings, and the named ones in any case."""
    ranked = sorted(rows, key=lambda row: -row["value"])
    shown = [row for place, row in enumerate(ranked) if place < most or row["why"]]
    failed = ["failed"] if any(row["failed"] for row in rows) else []
    table = Table("trial", *names, "value %", "reliability", "generality", "locality", *failed, title=title)
    for row in shown:
        settings = (
            "–" if row[n] is None else f"{row[n]:.4g}" if isinstance(row[n], float) else str(row[n]) for n in names
        )
        scores = (f"{100 * row[part]:.1f}" for part in ("value", "reliability", "generality", "locality"))
        table.add_row(f"{row['trial']} {row['why']}".strip(), *settings, *scores, *(str(row[name]) for name in failed))
    console().print(table)
