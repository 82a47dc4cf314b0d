"""Reading from Hugging Face: one check of the connection instead of five retries, and no progress bars."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

SECONDS = 3.0
"""How long the hub (or the proxy before it) may take to accept a connection."""
_REMEMBERED = 60.0
"""Seconds for which what was found is taken for true: a model is read in several steps."""

_found: dict[tuple[str, int], tuple[float, str]] = {}


def trouble() -> str:
    """Why Hugging Face cannot be reached; empty where it can."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    host, port = _door(constants.ENDPOINT)
    when, what = _found.get((host, port), (-_REMEMBERED, ""))
    if time.monotonic() - when > _REMEMBERED:
        what = _tried(host, port)
        _found[host, port] = (time.monotonic(), what)
    return what


def _tried(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), timeout=SECONDS).close()
    except OSError as error:
        return f"'{host}' cannot be reached: {error.strerror or error or type(error).__name__}"
    return ""


def _door(endpoint: str) -> tuple[str, int]:
    """Host and port that a request for `endpoint` goes to first: a proxy's, where one is set."""
    parts = urlsplit(endpoint)
    proxy = getproxies().get(parts.scheme)
    if proxy and parts.hostname and not proxy_bypass(parts.hostname):
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    return parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)


@contextmanager
def only_what_is_here(only: bool) -> Iterator[None]:
    """Within the context nothing is fetched and nothing retried: what is in the cache is taken, all else is missing."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or only
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def without_bars() -> Iterator[None]:
    """The progress bars of transformers are off while the block runs; whoever had turned them on gets them back."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
