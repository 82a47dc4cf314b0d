"""`vledit demo`: the paper's Table 1 on the embedded model, in the terminal and as a page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import VLEditError
from .output import Json, console, emit, errors
from .session import Adapter, Device, Dtype, Model, open_model

if TYPE_CHECKING:
    from ..demo.play import Step


class NotUndoneError(VLEditError):
    """After the edit was removed something was not as before: a bug, and the demo must not hide it."""

    exit_code = 7


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("demo")(demo)


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the page, the pictures and the codebook.")
    ] = Path("demo"),
    brand: Annotated[
        str | None, typer.Option(help="The brand whose mark is renamed.  [default: Apple]", show_default=False)
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="The new name.  [default: Dell]", show_default=False)] = None,
    model: Model = "pocket",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    adapter: Adapter = None,
    json: Json = False,
) -> None:
    """Rename a brand's mark, show which answers change and which stay, and remove the edit again."""
    from ..demo import page, table
    from ..demo.play import play

    data = load_data(progress=not json)
    edited = open_model(model, device, dtype, adapter=adapter)
    out.mkdir(parents=True, exist_ok=True)
    codebook = out / "codebook.vledit"
    with progress(json) as step:
        played = play(edited, data, brand, to, step, keep=codebook)
    picture = out / f"{played.story.brand.lower().replace(' ', '-')}.png"
    if played.story.edited.image is not None:
        played.story.edited.image.save(picture)
    written = page.write(played, out / "index.html")
    if json:
        emit({**table.record(played), "page": written, "codebook": codebook})
    else:
        screen = console()
        table.show(played, screen)
        screen.print(f"\npage: {written}", markup=False, soft_wrap=True)
        screen.print(
            f"try:  vledit ask {played.story.question!r} --image {picture} --codebook {codebook} --explain",
            markup=False,
            soft_wrap=True,
        )
        screen.print(
            f"serve it, with pages to ask and edit:  vledit serve --codebook {codebook}", markup=False, soft_wrap=True
        )
    if not played.undone:
        raise NotUndoneError("after removing the edit not everything is as before; please report this (see the page).")


def load_data(progress: bool) -> Any:
    """The little of `icons` that the demo needs, built where it is not there.  Tests put a small one in its place."""
    from ..data import icons

    return icons.build(["demo"], progress=progress)


@contextmanager
def progress(quiet: bool) -> Iterator[Step]:
    """A bar on stderr that moves with the play."""
    if quiet:
        yield lambda what, done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors) as bar:
        tasks: dict[str, Any] = {}

        def step(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total or None)
            bar.update(tasks[what], completed=done)

        yield step
