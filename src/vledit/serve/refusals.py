"""Errors as responses: in OpenAI's format, with a field and what to do about it; never a traceback."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from ..errors import UnknownNameError, VLEditError
from .access import AccessError
from .batching import BusyError, ClosingError
from .store.database import StoreError

log = logging.getLogger("vledit.serve")
KINDS = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"}


def refusal(status: int, text: str, param: str | None = None, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error response as OpenAI's API gives it."""
    kind = KINDS.get(status, "rate_limit_error" if status == 429 else "server_error" if status >= 500 else KINDS[400])
    clean = text.encode("utf-8", "replace").decode()
    body = {"error": {"message": clean, "type": kind, "param": param, "code": None}}
    return JSONResponse(body, status, headers)


def of_error(request: Request, error: VLEditError) -> Response:
    """The response for an error that somebody can act on."""
    text = str(error)
    if isinstance(error, AccessError):
        if error.status == 401 and "text/html" in request.headers.get("accept", ""):
            if "hx-request" in request.headers:
                return refusal(401, text, headers={"hx-redirect": "/login"})
            return RedirectResponse("/login", 303)
        headers = {"www-authenticate": "Bearer"} if error.status == 401 else None
        return refusal(error.status, text, headers=headers)
    if isinstance(error, BusyError):
        return refusal(429, text, headers={"retry-after": str(error.retry_after)})
    if isinstance(error, ClosingError):
        return refusal(503, text, headers={"retry-after": "5"})
    if isinstance(error, StoreError):
        return refusal(507 if "disk is full" in text else 503, text, headers={"retry-after": "5"})
    if isinstance(error, UnknownNameError) and "id" in request.path_params:
        return refusal(404, text, "id")
    field, colon, _ = text.partition(":")
    return refusal(400, text, field if colon and " " not in field and len(field) < 60 else None)


def install(app: FastAPI) -> None:
    """Lets the application answer errors so."""

    @app.exception_handler(VLEditError)
    async def ours(request: Request, error: VLEditError) -> Response:
        return of_error(request, error)

    @app.exception_handler(RequestValidationError)
    async def unfit(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
        field = ".".join(place) or "body"
        return refusal(400, f"{field}: {_said(first)}", field)

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> JSONResponse:
        return refusal(error.status_code, str(error.detail), headers=dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unforeseen(_request: Request, error: Exception) -> JSONResponse:
        log.error("a request failed", exc_info=error)
        return refusal(500, "an error that was not foreseen; the server's log has more.")


def _said(error: Any) -> str:
    text = str(error["msg"]).removeprefix("Value error, ")
    return text if text.endswith(".") else text + "."
