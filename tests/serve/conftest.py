"""A server with a tiny random model: what is tested is the serving, not what the model knows."""

from __future__ import annotations

import base64
import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from tests.vlm.models import build, picture
from vledit.editors.edited_model import EditedModel
from vledit.serve.app import create_app
from vledit.serve.settings import Limits, ServeSettings
from vledit.vlm import VLM

from .postgres import postgres, programs

QUESTION = "What is shown in the picture?"
LONGEST = 12
"""Tokens of an answer where nothing else is said."""
Make = Callable[..., FastAPI]


@cache
def small() -> VLM:
    """As `tiny("pocket")`, with short answers."""
    vlm = build("pocket")
    vlm.max_answer_tokens = LONGEST
    return vlm


def data_url(image: Image.Image | None = None, seed: int = 2) -> str:
    """A picture as a data URL; a small random one where none is given."""
    stream = io.BytesIO()
    (image or picture(seed)).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def message(text: str = QUESTION, *urls: str) -> dict[str, Any]:
    """A user's message with pictures."""
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [*pictures, {"type": "text", "text": text}]}


def asked(client: TestClient, *messages: dict[str, Any], model: str = "tiny-pocket", **more: Any) -> dict[str, Any]:
    """The completion of a conversation."""
    body = {"model": model, "messages": list(messages), "max_tokens": 8, **more}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def text_of(completion: dict[str, Any]) -> str:
    """What was answered."""
    return completion["choices"][0]["message"]["content"]


def finished(client: TestClient, response: Any) -> dict[str, Any]:
    """The job's document once it is neither queued nor running."""
    assert response.status_code == 202, response.text
    job = response.json()
    deadline = time.monotonic() + 60
    while job["status"] in ("queued", "running") and time.monotonic() < deadline:
        time.sleep(0.02)
        job = client.get(f"/v1/edits/jobs/{job['id']}").json()
    return job


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes applications; those with the same `store` share their edits."""

    def app(store: str | None = None, limits: Limits | None = None, **settings: Any) -> FastAPI:
        where = store or str(tmp_path / "store.db")
        settings = {"workers": 1, **settings}
        chosen = ServeSettings(store=where, poll_seconds=0.05, limits=limits or Limits(), **settings)
        return create_app(chosen, EditedModel(small()))

    return app


@pytest.fixture
def client(make: Make) -> Iterator[TestClient]:
    """A client on this machine of a server without tokens."""
    with TestClient(
        make(), client=("127.0.0.1", 1), base_url="http://127.0.0.1", raise_server_exceptions=False
    ) as found:
        yield found


@contextlib.contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """A real server on a free port of this machine; its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a PostgreSQL of our own."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty store of each kind."""
    if request.param == "sqlite":
        yield str(tmp_path / "store.db")
        return
    url = request.getfixturevalue("server")
    yield url
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    engine.dispose()
