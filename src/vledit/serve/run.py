"""Runs the application under uvicorn until it is stopped; requests in progress are finished first."""

from __future__ import annotations

import faulthandler
import logging
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn

from ..errors import InputError
from . import logs, tracing
from .app import create_app
from .settings import ServeSettings

if TYPE_CHECKING:
    from ..editors.edited_model import EditedModel


log = logging.getLogger("vledit.serve")


class _Server(uvicorn.Server):
    """Tells the application that it is about to stop as soon as the signal comes, so that it takes nothing new."""

    stopped_by = ""
    """The signal that was to stop it."""

    def handle_exit(self, sig: int, frame: object) -> None:
        """A signal to stop: its name is logged, so that a server that ended says who ended it."""
        self.stopped_by = signal.Signals(sig).name
        log.warning("about to stop", extra={"signal": self.stopped_by})
        app = self.config.app
        app.state.service.draining = True  # type: ignore[union-attr]
        super().handle_exit(sig, frame)  # type: ignore[arg-type]


def run(settings: ServeSettings, edited: EditedModel, started: Callable[[str], None] = lambda url: None) -> None:
    """Serves until SIGTERM, SIGINT or SIGHUP; a second one stops at once.

    The last line of the log says why it ended.  A crash of the interpreter itself writes the stack of every thread to stderr
    instead.  Where there is neither, the process was killed from outside (SIGKILL, as when the machine has no memory left).

    Args:
        started: called with the address once it listens.
    Raises: InputError where the address cannot be listened at.
    """
    logs.set_up(settings.log_format)
    faulthandler.enable(sys.__stderr__ or 2)
    tracing.set_up()
    listening = _listen(settings.host, settings.port)
    app = create_app(settings, edited)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        http="h11",  # as tested, whatever else is installed beside it
        loop="asyncio",
        timeout_graceful_shutdown=round(settings.drain_seconds),
        limit_concurrency=1000,
        h11_max_incomplete_event_size=64 << 10,
    )
    host, port = listening.getsockname()[:2]
    started(f"http://{'[' + host + ']' if ':' in host else host}:{port}")
    server = _Server(config)
    # a terminal that is closed: as any other signal to stop, not a death in mid-answer; `nohup` stays as it is
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, server.handle_exit)
    try:
        server.run(sockets=[listening])
    except BaseException as error:
        if not server.stopped_by:  # a signal is raised again once everything is answered
            log.critical("the server ended by an error", exc_info=error, extra={"reason": type(error).__name__})
        raise
    if not server.stopped_by:
        log.critical("the server ended although nobody stopped it", extra={"reason": "see the lines above"})


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        raise InputError(
            f"--host, --port: cannot listen at {host}:{port} ({error.strerror}). Choose another."
        ) from None
    listening.set_inheritable(True)
    return listening
