"""`vledit convert`: Hugging Face folders of models that were published in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from .output import Json, console, emit, errors, size


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(no_args_is_help=True)
    group.command("minigpt4")(minigpt4)
    group.command("check")(check)
    app.add_typer(
        group, name="convert", help="Assemble a Hugging Face folder from a model that was published in parts."
    )


def minigpt4(
    qformer: Annotated[Path, typer.Option("--qformer", help="BLIP-2 checkpoint, e.g. blip2_pretrained_flant5xxl.pth.")],
    language: Annotated[Path, typer.Option("--vicuna", help="Folder of Vicuna v0 in Hugging Face form.")],
    projection: Annotated[
        Path, typer.Option("--projection", help="MiniGPT-4's own checkpoint, e.g. pretrained_minigpt4_7b.pth.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    vision: Annotated[
        Path | None, typer.Option("--vision", help="eva_vit_g.pth; leave out if the BLIP-2 checkpoint holds the ViT.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; by default each tensor as it was published.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing folder.")] = False,
    vision_layers: Annotated[int, typer.Option(help="Number of ViT blocks.", hidden=True)] = 39,
    vision_heads: Annotated[int, typer.Option(help="Attention heads of the ViT.", hidden=True)] = 16,
    qformer_heads: Annotated[int, typer.Option(help="Attention heads of the Q-Former.", hidden=True)] = 12,
    json: Json = False,
) -> None:
    """Assemble MiniGPT-4 from ViT-g, Q-Former, Vicuna and projection into one folder that `--model` accepts.

    Every tensor is accounted for in conversion.json, with the SHA-256 of each file read and written.
    """
    from ..convert.minigpt4 import Pieces, Unwritten, convert
    from ..pocket.assemble import quiet

    quiet()
    pieces = Pieces(qformer=qformer, language=language, projection=projection, vision=vision)
    unwritten = Unwritten(vision_layers=vision_layers, vision_heads=vision_heads, qformer_heads=qformer_heads)
    with _bar() as progress:
        manifest = convert(pieces, out, dtype=dtype, overwrite=overwrite, unwritten=unwritten, progress=progress)
    left_out = sum(len(names) for reasons in manifest["left_out"].values() for names in reasons.values())
    nbytes = sum(shard["bytes"] for shard in manifest["shards"])
    if json:
        emit({"folder": out, "shards": manifest["shards"], "tensors": len(manifest["tensors"]), "left_out": left_out})
        return
    screen = console()
    screen.print(
        f"wrote {out}: {len(manifest['tensors'])} tensors, {size(nbytes)}, in {len(manifest['shards'])} shards"
    )
    for source, reasons in manifest["left_out"].items():
        for why, names in reasons.items():
            screen.print(f"left out of {source}: {len(names)} tensors ({why})", style="dim", markup=False)


def check(
    folder: Annotated[Path, typer.Argument(help="A folder that `vledit convert` made.")], json: Json = False
) -> None:
    """Check every file of a converted folder against its hash."""
    from ..convert.folder import verify

    with _bar() as progress:
        count = verify(folder, progress)
    if json:
        emit({"folder": folder, "files": count})
        return
    console().print(f"{folder}: all {count} files are as they were written", markup=False)


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr, fed with (text, bytes done, bytes in all)."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("reading", total=None)

        def tell(text: str, done: int, total: int) -> None:
            progress.update(task, description=text, completed=done, total=total)

        yield tell
