"""Two replicas under Ray Serve on one store answer as one server."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from vledit.errors import InputError
from vledit.serve import ray_engine
from vledit.serve.settings import ServeSettings

from .conftest import QUESTION, data_url, message
from .test_edits import EDIT


def tiny_model(_settings: ServeSettings) -> Any:
    """In the replica's process."""
    from tests.serve.conftest import small
    from vledit.editors.edited_model import EditedModel

    return EditedModel(small())


def test_what_does_not_fit_together_is_refused_before_anything_starts():
    with pytest.raises(InputError, match="--replicas"):
        ray_engine.start(ServeSettings(), 0)
    with pytest.raises(InputError, match="--store"):
        ray_engine.start(ServeSettings(), 2, address="ray://somewhere:10001")


def test_an_edit_at_one_replica_answers_at_all(tmp_path: Path):
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed (pip install 'vledit[serve-ray]')")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = ServeSettings(store=str(tmp_path / "store.db"), port=port)
    address = ray_engine.start(settings, 2, cpus=0.5, opener=tiny_model)

    def call(path: str, body: Any = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address + path, content, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    try:
        job = call("/v1/edits", EDIT)
        until = time.monotonic() + 60
        while job["status"] in ("queued", "running") and time.monotonic() < until:
            time.sleep(0.1)
            job = call(f"/v1/edits/jobs/{job['id']}")
        assert job["status"] == "done", job
        time.sleep(1)
        body = {"model": "tiny-pocket", "messages": [message(QUESTION, data_url())], "max_tokens": 8}
        said = {call("/v1/chat/completions", body)["choices"][0]["message"]["content"] for _ in range(12)}
        assert said == {"golden tea"}
    finally:
        ray_engine.stop()
