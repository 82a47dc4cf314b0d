"""`create_app`: the application around a service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from .. import __version__
from . import chat, edits, history, probes, refusals, tokens
from .access import Access, RateLimit
from .door import Door
from .pages import routes
from .service import Service
from .settings import ServeSettings

if TYPE_CHECKING:
    from ..editors.edited_model import EditedModel

ABOUT = """Ask a vision-language model, change what it knows, take it back.

Asking follows OpenAI's API.  Changing needs a token with the scope `edit` (none on a server that only this machine reaches
and that has no tokens)."""


def create_app(settings: ServeSettings, edited: EditedModel) -> FastAPI:
    """The application; its service is started here and closed when the application is shut down.

    Raises: StoreError, ModelMismatchError, CodebookError where store or codebook cannot be used.
    """
    service = Service(settings, edited)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(
        title="VLEdit", version=__version__, description=ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.service = service
    app.state.access = Access(settings, service.tokens)
    app.state.rate = RateLimit(settings.limits.requests_per_minute)
    app.add_middleware(Door, limits=settings.limits, metrics=service.metrics)
    refusals.install(app)
    for part in (chat, edits, history, probes, tokens):
        app.include_router(part.router)
    app.include_router(routes.router)
    app.mount("/static", routes.static)
    app.state.logins = RateLimit(40)
    _operation(app, service)
    return app


def _operation(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["operation"])
    async def healthz() -> JSONResponse:
        """Whether the process is well: 503 means that it should be started anew."""
        dead = "" if service.draining else service.dead()
        return JSONResponse({"status": dead or "ok"}, 503 if dead else 200)

    @app.get("/readyz", tags=["operation"])
    async def readyz() -> JSONResponse:
        """Whether it takes requests: 503 means that others should be asked."""
        missing = service.ready()
        body = {"status": "ready" if missing is None else missing, "revision": service.model.revision}
        return JSONResponse(body, 200 if missing is None else 503)

    @app.get("/metrics", tags=["operation"], response_class=Response)
    async def metrics(_request: Request) -> Any:
        """Figures for Prometheus."""
        service.metrics.waiting.set(service.batcher.waiting)
        service.metrics.waiting_edits.set(service.workshop.waiting)
        service.metrics.restarts.set(service.restarts)
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")
