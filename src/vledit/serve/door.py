"""What every request passes: limits of its body, headers of its response, one line in the log, figures."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from typing import Any

from .metrics import Metrics
from .settings import Limits

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


class _TooMuch(Exception):
    """The body is refused: a status and a text."""


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
        started = False

        async def sent(message: Any) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                named = {name for name, _ in message["headers"]}
                more = {**HEADERS, "x-request-id": id}
                message["headers"] = [
                    *message["headers"],
                    *((n.encode(), v.encode()) for n, v in more.items() if n.encode() not in named),
                ]
            await send(message)

        refused: list[tuple[int, str]] = []
        try:
            length = dict(scope["headers"]).get(b"content-length", b"0")
            if length.isdigit() and int(length) > self.limits.body_bytes:
                refused.append((413, self._too_long()))
            else:
                await self.app(scope, self._limited(receive, refused), sent)
        except _TooMuch:
            pass
        if refused and not started:
            await _refuse(sent, *refused[0])
        self._note(scope, id, status, time.monotonic() - began)

    def _too_long(self) -> str:
        return f"body: more than {self.limits.body_bytes} bytes. Send smaller pictures."

    def _limited(self, receive: Any, refused: list[tuple[int, str]]) -> Any:
        """`receive` that gives up on bodies that are too long or too slow."""
        size, deadline, over = 0, time.monotonic() + self.limits.body_seconds, False

        async def limited() -> Any:
            nonlocal size, over
            if over:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.01, deadline - time.monotonic()))
            except TimeoutError:
                refused.append((408, f"body: it did not arrive within {self.limits.body_seconds:g} s."))
                raise _TooMuch from None
            size += len(message.get("body", b""))
            if size > self.limits.body_bytes:
                refused.append((413, self._too_long()))
                raise _TooMuch
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
