"""The same application as a Ray Serve deployment: replicas on one machine or many, on one store.

Every replica loads the model and builds the application itself; the store makes their edits one.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import InputError, MissingDataError
from .settings import ServeSettings

if TYPE_CHECKING:
    from ..editors.edited_model import EditedModel

Opener = Callable[[ServeSettings], "EditedModel"]


def load(settings: ServeSettings) -> EditedModel:
    """The model that the settings name, without edits."""
    from ..loading import load as load_model

    return load_model(
        settings.model,
        settings.device,
        settings.dtype,
        quantization=settings.quantization,
        adapter=settings.adapter,
    )


def build(settings: ServeSettings, opener: Opener) -> Any:
    """The application of one replica; called where the replica runs."""
    from . import logs, tracing
    from .app import create_app

    logs.set_up(settings.log_format)
    tracing.set_up()
    return create_app(settings, opener(settings))


def import_serve() -> tuple[Any, Any]:
    """Raises: MissingDataError naming the extra where Ray Serve is not installed."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray import serve  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingDataError(
            f"--engine ray: Ray Serve is not installed ({error}). Run `pip install 'vledit[serve-ray]'`."
        ) from error
    return ray, serve


def start(
    settings: ServeSettings,
    replicas: int,
    address: str | None = None,
    cpus: float = 1,
    gpus: float = 0,
    opener: Opener = load,
) -> str:
    """Deploys so many replicas and returns where they answer, once they do.

    Args:
        address: of a Ray cluster; None starts one on this machine.
        cpus, gpus: that every replica takes.
    Raises: InputError for what does not fit together; MissingDataError where Ray Serve is not installed.
    """
    if replicas < 1:
        raise InputError(f"--replicas: {replicas} given; at least 1 is needed.")
    if not settings.port:
        raise InputError("--port: with --engine ray a port is needed; 0 is none.")
    if address is not None and "://" not in settings.store:
        raise InputError("--store: replicas on several machines need one PostgreSQL; give its URL.")
    ray, serve = import_serve()
    if not ray.is_initialized():
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    serve.start(http_options={"host": settings.host, "port": settings.port})
    limits = settings.limits
    deployment = serve.deployment(
        serve.ingress(partial(build, settings, opener))(),
        name="vledit",
        num_replicas=replicas,
        max_ongoing_requests=limits.waiting + 2 * limits.batch,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        graceful_shutdown_timeout_s=settings.drain_seconds,
    )
    serve.run(deployment.bind(), name="vledit", route_prefix="/")
    return f"http://{settings.host}:{settings.port}"


def stop() -> None:
    """Takes the replicas down, and the cluster where it was started here."""
    ray, serve = import_serve()
    serve.shutdown()
    ray.shutdown()


def run(settings: ServeSettings, replicas: int, started: Callable[[str], None], **options: Any) -> None:
    """Serves until SIGTERM or SIGINT; see `start`."""
    over = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: over.set())
    started(start(settings, replicas, **options))
    over.wait()
    stop()
