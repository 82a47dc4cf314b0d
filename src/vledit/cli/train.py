"""`vledit train-pocket`: trains the embedded model's own weights."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import fields, replace
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
import typer.main
from typer.core import TyperCommand

from .output import Json, console, emit
from .session import Device, Dtype, open_model
from .settings import described, parse_value

_SETTINGS = "vledit.train"


class TrainCommand(TyperCommand):
    """Has an option for every field of `TrainConfig`, which is imported (with torch) only when this command is used."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The declared options and those of the configuration."""
        return [*config_options(), *super().get_params(ctx)]


def config_options() -> list[Any]:
    """One option per field of `TrainConfig`; what is given is remembered in the context."""
    from ..pocket.train import TrainConfig

    hints = get_type_hints(TrainConfig)

    def parameter(setting: dict[str, Any]) -> Parameter:
        name, default = setting["name"], setting["default"]

        def remember(ctx: typer.Context, value: str | None) -> None:
            if value is not None:
                ctx.meta.setdefault(_SETTINGS, {})[name] = parse_value(name, value, hints[name])

        shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        option = typer.Option(
            f"--{name.replace('_', '-')}",
            metavar=f"<{setting['type']}>",
            help=f"{setting['help']}  (default: {shown})".strip(),
            show_default=False,
            callback=remember,
            expose_value=False,
        )
        return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option])

    parameters = [parameter(setting) for setting in described(TrainConfig)]

    def declared(**_: Any) -> None:
        """Stands for a function with these parameters, from which typer makes options."""

    declared.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    declared.__annotations__ = {one.name: one.annotation for one in parameters}
    maker = typer.Typer(add_completion=False)
    maker.command()(declared)
    return list(typer.main.get_command(maker).params)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("train-pocket", cls=TrainCommand)(train_pocket)
    app.command("model-card")(model_card)


def train_pocket(
    ctx: typer.Context,
    folder: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints and the log; a run in it is resumed.")
    ] = None,
    json: Json = False,
) -> None:
    """Train `pocket`. This takes an hour or more on a laptop; an interrupted run can be continued.

    The log is printed as JSON lines. With --json it goes to stderr, and stdout holds the path of the weights.
    """
    from ..pocket import train

    given: dict[str, Any] = ctx.meta.get(_SETTINGS, {})
    assert set(given) <= {field.name for field in fields(train.TrainConfig)}
    with _log_to_stderr(json):
        weights = train.main(folder, replace(train.TrainConfig(), **given))
    if json:
        emit({"weights": weights})
        return
    console().print(f"weights: {weights}", markup=False, soft_wrap=True)


def model_card(
    out: Annotated[Path, typer.Option(help="Folder for model_card.md and model_card.json.")] = Path("docs"),
    n: Annotated[int, typer.Option(help="Questions per kind and condition.")] = 200,
    seed: Annotated[int, typer.Option(help="Random seed of drawings, wordings and backgrounds.")] = 1,
    log: Annotated[
        Path | None, typer.Option(help="log.jsonl of a training run, whose curves are to be plotted too.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="weights.safetensors of your own training run; by default those of the package.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Another model_card.json to compare with; the differences are written to comparison.md."),
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: Json = False,
) -> None:
    """Measure the accuracy of `pocket` for each kind of question, on seen and held-out drawings and wordings."""
    from ..data import icons
    from ..pocket import card, comparison, curves
    from ..pocket.assemble import ensure_pocket

    other = None if against is None else comparison.read_card(against)
    vlm = open_model("pocket" if weights is None else str(ensure_pocket(weights=weights)), device, dtype).vlm
    with _log_to_stderr(json):
        measured = card.write(vlm, icons.load(), out, n, seed)
    if other is not None:
        compared = comparison.markdown(measured, other)
        (out / "comparison.md").write_text(compared, encoding="utf-8")
        if not json:
            console().print(compared, markup=False, soft_wrap=True)
    if log is not None:
        curves.draw(log, out / "images" / "training.png")
    if json:
        emit(measured)
        return
    console().print(f"wrote {out / 'model_card.md'}", markup=False, soft_wrap=True)


def _log_to_stderr(json: bool) -> contextlib.AbstractContextManager[Any]:
    """While the block runs, what is printed goes to stderr if stdout is to hold one JSON document."""
    return contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext()
