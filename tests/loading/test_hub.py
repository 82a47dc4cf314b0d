"""A model id without network: one clear line, soon."""

from __future__ import annotations

import socket
import time

import pytest
from huggingface_hub import constants

from vledit import hub, loading
from vledit.errors import MissingDataError


@pytest.fixture
def online(monkeypatch):
    """Hugging Face may be asked, and is not there: a port on which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.setattr(hub, "_found", {})
    return port


def test_one_line_soon(online, capfd, caplog):
    began = time.monotonic()
    with pytest.raises(MissingDataError) as caught:
        loading.load_vlm("somebody/some-model")
    assert time.monotonic() - began < 10  # retries took 45 s
    assert "'127.0.0.1' cannot be reached" in str(caught.value)
    assert "give the folder of a checkpoint" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Retry" not in capfd.readouterr().err + caplog.text
    assert not constants.HF_HUB_OFFLINE


def test_offline_by_choice_is_said(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingDataError, match="HF_HUB_OFFLINE is set"):
        loading.load_vlm("somebody/some-model")


def test_what_answers_is_no_trouble(online, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub.trouble() == ""


def test_a_proxy_is_asked_in_its_place(online, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    assert hub._door(constants.ENDPOINT) == ("127.0.0.1", 3128)
    monkeypatch.setenv("no_proxy", "hub.example")
    assert hub._door(constants.ENDPOINT) == ("hub.example", 443)
