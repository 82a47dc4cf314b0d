"""The same application as a Ray Serve deployment: replicas on one machine or several, with one store.

Every replica loads the model and builds the application itself; through the store they share their edits.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import InputError, MissingDataError, VLEditError
from .settings import ServeSettings

if TYPE_CHECKING:
    from ..editors.edited_model import EditedModel

Opener = Callable[[ServeSettings], "EditedModel"]
STARTING_SECONDS = 300.0
"""How long the proxies may take to come up.  Ray Serve's own limits are 5 s for one and 60 s for all of them, after which it
gives up, or kills the proxy and starts another one: on a busy machine none may ever come up then."""
os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", str(STARTING_SECONDS))  # read when Ray Serve is imported


class EngineError(VLEditError):
    """Ray Serve did not come up."""


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
    Raises: InputError for what does not fit together; MissingDataError where Ray Serve is not installed; EngineError where
        nothing answers after STARTING_SECONDS.
    """
    if replicas < 1:
        raise InputError(f"--replicas: {replicas} given; at least 1 is needed.")
    if not settings.port:
        raise InputError("--port: with --engine ray a port is needed; 0 is none.")
    if address is not None and "://" not in settings.store:
        raise InputError("--store: replicas on several machines need one PostgreSQL; give its URL.")
    ray, serve = import_serve()
    if not ray.is_initialized():
        if address is None:  # Ray gives its workers the niceness 15; whoever waits for an answer has no use for that
            os.environ.setdefault("RAY_worker_niceness", "0")
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    until = time.monotonic() + STARTING_SECONDS
    _patiently(ray, until, partial(serve.start, http_options={"host": settings.host, "port": settings.port}))

    def replica() -> Any:  # a plain function: Ray Serve takes any other callable for the application itself
        return build(settings, opener)

    limits = settings.limits
    deployment = serve.deployment(
        serve.ingress(replica)(),
        name="vledit",
        num_replicas=replicas,
        max_ongoing_requests=limits.waiting + 2 * limits.batch,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        graceful_shutdown_timeout_s=settings.drain_seconds,
    )
    _patiently(ray, until, partial(serve.run, deployment.bind(), name="vledit", route_prefix="/"))
    here = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    _wait_for(f"http://{here}:{settings.port}/readyz", until)
    return f"http://{settings.host}:{settings.port}"


def _patiently(ray: Any, until: float, action: Callable[[], Any]) -> None:
    """Does it, again where the proxies are not there yet.  Raises: EngineError."""
    while True:
        try:
            action()
            return
        except (TimeoutError, ray.exceptions.RayActorError) as error:
            if time.monotonic() > until:
                raise EngineError(f"--engine ray: Ray Serve's proxies did not come up ({error}).") from error
            time.sleep(1)


def _wait_for(url: str, until: float) -> None:
    """Until a replica says that it is ready.  Raises: EngineError."""
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                if response.status == 200:
                    return
                what: object = response.status
        except (urllib.error.URLError, OSError) as error:
            what = error
        if time.monotonic() > until:
            raise EngineError(f"--engine ray: no replica answers at {url} ({what}).")
        time.sleep(0.5)


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
