"""What applies to every request: limits of its body, headers of its response, one line in the log, metrics."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from typing import Any

from starlette.exceptions import HTTPException

from .metrics import Metrics
from .settings import Limits
from .tracing import span

log = logging.getLogger("vledit.serve")
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
_QUIET = ("/healthz", "/readyz", "/metrics")


class Door:
    """ASGI middleware around the application."""

    def __init__(self, app: Any, limits: Limits, metrics: Metrics):
        self.app, self.limits, self.metrics = app, limits, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, id, status = time.monotonic(), secrets.token_hex(8), 500

        async def sent(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                named = {name for name, _ in message["headers"]}
                more = {**HEADERS, "x-request-id": id}
                message["headers"] = [
                    *message["headers"],
                    *((n.encode(), v.encode()) for n, v in more.items() if n.encode() not in named),
                ]
            await send(message)

        most = self.limits.codebook_bytes if scope["path"] == "/v1/codebook" else self.limits.body_bytes
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > most:
            await _refuse(sent, 413, _too_long(most))
        else:
            with span("request", method=scope["method"], request=id) as current:
                await self.app(scope, self._limited(receive, most), sent)
                if current is not None:
                    current.set_attribute("route", getattr(scope.get("route"), "path", "other"))
                    current.set_attribute("status", status)
        self._note(scope, id, status, time.monotonic() - began)

    def _limited(self, receive: Any, most: int) -> Any:
        """`receive` that gives up on bodies that are too long or too slow."""
        size, over = 0, False
        seconds = self.limits.body_seconds * (1 + most // (64 << 20))
        deadline = time.monotonic() + seconds

        async def limited() -> Any:
            nonlocal size, over
            if over:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.01, deadline - time.monotonic()))
            except TimeoutError:
                raise HTTPException(408, f"body: it did not arrive within {seconds:g} s.") from None
            size += len(message.get("body", b""))
            if size > most:
                raise HTTPException(413, _too_long(most))
            over = not message.get("more_body", False)
            return message

        return limited

    def _note(self, scope: Any, id: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.requests.labels(route, scope["method"] if route != "other" else "any", str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if route in _QUIET:
            return
        who = scope.get("state", {}).get("person")
        log.info(
            "request",
            extra={
                "request": id,
                "method": scope["method"],
                "route": route,
                "status": status,
                "seconds": round(seconds, 4),
                "by": who or "",
                "from": (scope.get("client") or ("",))[0],
            },
        )


def _too_long(most: int) -> str:
    return f"body: more than {most} bytes. Send smaller pictures."


async def _refuse(send: Any, status: int, text: str) -> None:
    error = {"message": text, "type": "invalid_request_error", "param": "body", "code": None}
    body = json.dumps({"error": error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
