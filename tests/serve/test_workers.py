"""A thread that fails is seen: it starts anew and says so, or the server turns unready with the reason."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError
from vledit.serve import run as run_module
from vledit.serve import workers
from vledit.serve.asks import Ask, Reply
from vledit.serve.batching import Batcher, ClosingError
from vledit.serve.settings import ServeSettings
from vledit.serve.workers import Worker
from vledit.vlm.conversation import Turn

from .conftest import QUESTION, Make, asked, finished, message, small
from .test_edits import EDIT


class Panic(BaseException):
    """What a library may raise that is no `Exception`: pyo3's panics are such."""


def ask(question: str = "a") -> Ask:
    return Ask((Turn(question),), 4)


def until(true: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert true()


def test_a_thread_that_falls_out_of_its_work_starts_anew_and_the_log_says_why(caplog: pytest.LogCaptureFixture):
    turns: list[int] = []

    def work() -> None:
        turns.append(1)
        if len(turns) < 3:
            raise Panic("once")

    with caplog.at_level(logging.ERROR, logger="vledit.serve"):
        worker = Worker("vledit-test", work)
        worker.join(20)
    assert len(turns) == 3
    assert (worker.restarts, worker.given_up) == (2, "")
    lines = [one for one in caplog.records if one.getMessage() == "a thread failed and starts anew"]
    assert [(one.thread_name, one.reason) for one in lines] == [("vledit-test", "Panic: once")] * 2  # type: ignore[attr-defined]


def test_a_thread_that_fails_again_and_again_is_given_up_and_one_that_fails_seldom_is_not():
    ended = threading.Event()

    def fail() -> None:
        raise Panic("always")

    often = Worker("often", fail, ended=ended.set)
    assert ended.wait(20)
    assert not often.alive
    assert (often.restarts, often.given_up) == (workers.MOST - 1, "Panic: always")
    turns: list[int] = []

    def seldom() -> None:
        turns.append(1)
        if len(turns) <= 2 * workers.MOST:
            time.sleep(0.002)
            raise Panic("seldom")

    worker = Worker("seldom", seldom, apart=0.001)
    worker.join(20)
    assert (len(turns), worker.given_up) == (2 * workers.MOST + 1, "")


@pytest.mark.parametrize("number", [1, 2])
def test_who_waits_for_a_thread_that_falls_out_is_told_and_the_next_question_is_answered(number: int):
    falls = [True]

    def answer(asks, worker, together):
        if falls.pop() if falls else False:
            raise Panic("in the tokenizer")
        return [Reply("yes", "stop", 1, 1, None, 0) for _ in asks]

    batcher = Batcher(answer, gather_seconds=0, workers=number)
    first = ask()
    batcher.submit(first)
    with pytest.raises(RuntimeError, match="the thread that answers failed"):
        first.reply.result(20)
    second = ask()
    batcher.submit(second)
    assert second.reply.result(20).text == "yes"
    assert (batcher.restarts, batcher.dead, batcher.running) == (1, "", 0)


def test_a_batch_that_comes_back_short_fails_itself_and_nothing_after_it():
    replies = [[], [Reply("yes", "stop", 1, 1, None, 0)]]
    batcher = Batcher(lambda asks, worker, together: replies.pop(0), gather_seconds=0)
    first, second = ask(), ask()
    batcher.submit(first)
    with pytest.raises(RuntimeError):
        first.reply.result(20)
    batcher.submit(second)
    assert second.reply.result(20).text == "yes"


def test_once_the_last_thread_is_given_up_nothing_is_taken_and_what_waits_is_told():
    hold = threading.Event()

    def answer(asks, worker, together):
        hold.wait(20)
        raise Panic("always")

    batcher = Batcher(answer, most=1, gather_seconds=0)
    asks = [ask(str(number)) for number in range(workers.MOST + 2)]
    for one in asks:
        batcher.submit(one)
    hold.set()
    for one in asks[: workers.MOST]:
        with pytest.raises(RuntimeError):
            one.reply.result(20)
    for one in asks[workers.MOST :]:
        with pytest.raises(ClosingError, match="has ended"):
            one.reply.result(20)
    assert batcher.dead == "Panic: always"
    with pytest.raises(ClosingError, match="has ended"):
        batcher.submit(ask())


def test_a_server_whose_thread_is_given_up_is_neither_ready_nor_well_and_says_why(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.CRITICAL, logger="vledit.serve")
    here = TestClient(make(), client=("127.0.0.1", 1), base_url="http://127.0.0.1", raise_server_exceptions=False)
    with here as client:
        service = client.app.state.service  # type: ignore[attr-defined]

        def fall(*_: object) -> None:
            raise Panic("in the tokenizer")

        good = service.model.answer
        monkeypatch.setattr(service.model, "answer", fall)
        body = {"model": "tiny-pocket", "messages": [message(QUESTION)], "max_tokens": 2}
        assert client.post("/v1/chat/completions", json=body).status_code == 500
        assert client.get("/readyz").status_code == 200  # it has started anew
        assert "vledit_thread_restarts 1.0" in client.get("/metrics").text
        monkeypatch.setattr(service.model, "answer", good)
        asked(client, message(QUESTION), max_tokens=2)
        monkeypatch.setattr(service.model, "answer", fall)
        for _ in range(workers.MOST - 1):
            assert client.post("/v1/chat/completions", json=body).status_code == 500
        until(lambda: service.batcher.dead)
        for path in ("/readyz", "/healthz"):
            response = client.get(path)
            assert response.status_code == 503
            assert response.json()["status"] == "a thread that answers has ended (Panic: in the tokenizer)"
        refused = client.post("/v1/chat/completions", json=body)
        assert refused.status_code == 503
        assert "started again" in refused.json()["error"]["message"]
        (line,) = [one for one in caplog.records if one.getMessage() == "a thread is given up"]
        assert line.reason == "Panic: in the tokenizer"  # type: ignore[attr-defined]


def test_an_edit_that_takes_its_thread_down_has_failed_and_the_next_one_has_its_turn(make: Make, monkeypatch):
    with TestClient(make(), client=("127.0.0.1", 1), base_url="http://127.0.0.1") as client:
        service = client.app.state.service  # type: ignore[attr-defined]

        def fall(*_: object) -> None:
            raise Panic("in a library")

        monkeypatch.setattr(service.model, "make", fall)
        job = finished(client, client.post("/v1/edits", json=EDIT))
        assert job["status"] == "failed"
        assert job["error"]["message"] == "the thread that makes edits failed; the server's log has more."

        def refuse(*_: object) -> None:
            raise InputError("answer: refused.")

        monkeypatch.setattr(service.model, "make", refuse)
        assert finished(client, client.post("/v1/edits", json=EDIT))["error"]["message"] == "answer: refused."
        assert client.get("/readyz").status_code == 200


def test_the_thread_that_looks_for_revisions_goes_on_after_it_failed(make: Make, monkeypatch):
    with TestClient(make(), client=("127.0.0.1", 1), base_url="http://127.0.0.1") as client:
        watch = client.app.state.service.watch  # type: ignore[attr-defined]
        good, once = watch.store.revision, [True]

        def revision() -> int:
            if once and once.pop():
                raise Panic("in the driver")
            return good() + 5

        monkeypatch.setattr(watch.store, "revision", revision)
        until(lambda: watch.latest == 5)
        assert watch.thread.restarts == 1


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (None, "the server ended although nobody stopped it"),
        (MemoryError("no room"), "the server ended by an error"),
        ("SIGTERM", None),
    ],
)
def test_a_server_that_ends_by_itself_says_so_and_one_that_was_stopped_does_not(
    ends: object, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def run(self, sockets) -> None:
        for one in sockets:
            one.close()
        if isinstance(ends, BaseException):
            raise ends
        self.stopped_by = ends or ""

    monkeypatch.setattr(run_module._Server, "run", run)
    monkeypatch.setattr(run_module.logs, "set_up", lambda *_: None)
    monkeypatch.setattr(run_module, "create_app", lambda *_: FastAPI())
    caplog.set_level(logging.CRITICAL, logger="vledit.serve")
    settings = ServeSettings(store=str(tmp_path / "store.db"), port=0)
    expected = pytest.raises(MemoryError) if isinstance(ends, BaseException) else nullcontext()
    with expected:
        run_module.run(settings, EditedModel(small()))
    assert [one.getMessage() for one in caplog.records] == ([] if said is None else [said])
