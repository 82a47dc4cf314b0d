"""`vledit serve`: the model behind an API, with pages to ask, edit and take back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError, MissingDataError
from .output import errors
from .session import Adapter, Device, Dtype, Model, Quantization, check_codebook, open_model


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("serve")(serve)


def serve(
    model: Model = "pocket",
    codebook: Annotated[
        Path | None, typer.Option("--codebook", "-c", help="Codebook file to import when the server starts.")
    ] = None,
    edits: Annotated[
        Path | None,
        typer.Option(
            "--edits",
            help="Folder written by `EditedModel.save_pretrained`, with edits of any editor. Its weight "
            "edits and memories are read-only; its codebook is imported into the store.",
        ),
    ] = None,
    store: Annotated[
        str,
        typer.Option(
            "--store",
            envvar="VLEDIT_STORE",
            help="Where the server keeps its edits: a file, or postgresql://user@host/name.",
        ),
    ] = "vledit-serve.db",
    host: Annotated[
        str, typer.Option(help="Address to listen on. Requests from other machines need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free port.")] = 8000,
    open_read: Annotated[bool, typer.Option("--open-read", help="Allow asking and viewing without a token.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="At most this many questions are answered in one batch.")] = 8,
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Batches that are answered at the same time, each on its share of the processor's cores. "
            "0: one for each core, for models of at most a billion parameters on a processor.",
        ),
    ] = 0,
    waiting: Annotated[
        int, typer.Option(min=1, help="At most this many questions may wait; further ones are refused with status 429.")
    ] = 64,
    rate: Annotated[int, typer.Option(min=0, help="Requests per minute for each token or address; 0: no limit.")] = 0,
    engine: Annotated[
        str, typer.Option(help="local: in this process; ray: replicas under Ray Serve, each with the model.")
    ] = "local",
    replicas: Annotated[int, typer.Option(min=1, help="With --engine ray: number of replicas.")] = 1,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="With --engine ray: address of a running cluster; by default one is started on this machine."
        ),
    ] = None,
    log: Annotated[str, typer.Option(help="Format of the log: json or text.")] = "json",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    quantization: Quantization = None,
    adapter: Adapter = None,
) -> None:
    """Serve the model: OpenAI's API, an API for edits, and pages. See docs/serving.md."""
    try:
        import fastapi  # noqa: F401
        import sqlalchemy  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingDataError(f"serve: {error.name} is not installed. Run `pip install 'vledit[serve]'`.") from error
    from ..serve.settings import Limits, ServeSettings

    if engine not in ("local", "ray"):
        raise InputError(f"--engine: '{engine}' is not local or ray.")
    if engine == "local" and (replicas != 1 or ray_address is not None):
        raise InputError("--replicas, --ray-address: they need --engine ray.")
    if log not in ("json", "text"):
        raise InputError(f"--log: '{log}' is not json or text.")
    if codebook is not None:
        if not codebook.exists():
            raise InputError(f"--codebook: there is no file '{codebook}'. `vledit edit` makes one.")
        check_codebook(codebook)
    if edits is not None and not edits.is_dir():
        raise InputError(f"--edits: there is no folder '{edits}'. `EditedModel.save_pretrained` writes one.")
    settings = ServeSettings(
        model=model,
        device=device,
        dtype=dtype,
        quantization=quantization,
        adapter=adapter,
        store=store,
        codebook=None if codebook is None else str(codebook),
        edits=None if edits is None else str(edits),
        host=host,
        port=port,
        open_read=open_read,
        workers=workers,
        log_format=log,
        limits=Limits(batch=batch, waiting=waiting, requests_per_minute=rate),
    )
    from ..serve.run import run
    from ..serve.store.database import address

    address(store)  # an unfit address is told before the model is loaded
    if engine == "ray":
        from ..serve import ray_engine

        gpus = 0 if device == "cpu" else 1
        tell = lambda url: errors.print(f"serving {model} at {url}, {replicas} replicas", markup=False)  # noqa: E731
        ray_engine.run(settings, replicas, tell, address=ray_address, gpus=gpus)
        return
    edited = open_model(model, device, dtype, quantization, adapter=adapter)
    run(settings, edited, lambda url: errors.print(f"serving {edited.vlm.name} at {url}", markup=False))
