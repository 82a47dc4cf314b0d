"""Running it: questions that wait together are answered together; what is too much is told; a stop loses nothing."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError
from vledit.serve import run as run_module
from vledit.serve import tracing
from vledit.serve.asks import Ask, Reply
from vledit.serve.batching import Batcher, BusyError, ClosingError
from vledit.serve.logs import JsonLines
from vledit.serve.settings import Limits, ServeSettings
from vledit.vlm.conversation import Turn

from .conftest import QUESTION, Make, asked, data_url, finished, message, running, small, text_of
from .test_edits import EDIT, answer, edited


class Model:
    """Answers with the question; waits until it is let go on."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go_on = threading.Event()

    def __call__(self, asks, worker=0, together=1):
        questions = [ask.turns[-1].question for ask in asks]
        self.batches.append(questions)
        self.go_on.wait(10)
        if "unfit" in questions:
            raise InputError("question: unfit.")
        return [Reply(question, "stop", 1, 1, None, 0) for question in questions]


def ask(question: str, **more) -> Ask:
    return Ask((Turn(question),), 4, **more)


def submitted(batcher: Batcher, *questions: str, **more) -> list[Ask]:
    asks = [ask(question, **more) for question in questions]
    for one in asks:
        batcher.submit(one)
    return asks


def begun(model: Model, batches: int) -> None:
    deadline = time.monotonic() + 10
    while len(model.batches) < batches and time.monotonic() < deadline:
        time.sleep(0.002)


def test_what_waits_while_a_batch_runs_forms_the_next_one():
    model = Model()
    batcher = Batcher(model, most=3, waiting=8, gather_seconds=0)
    first = submitted(batcher, "a")
    begun(model, 1)
    rest = submitted(batcher, "b", "c", "d", "e")
    model.go_on.set()
    assert [one.reply.result(10).text for one in first + rest] == ["a", "b", "c", "d", "e"]
    assert model.batches == [["a"], ["b", "c", "d"], ["e"]]


def test_questions_of_other_kinds_are_answered_apart_and_in_turn():
    model = Model()
    batcher = Batcher(model, most=8, waiting=8, gather_seconds=0)
    first = submitted(batcher, "a")
    begun(model, 1)
    rest = [*submitted(batcher, "b"), *submitted(batcher, "base", edited=False), *submitted(batcher, "c")]
    model.go_on.set()
    assert [one.reply.result(10).text for one in first + rest] == ["a", "b", "base", "c"]
    assert model.batches == [["a"], ["b", "c"], ["base"]]


def test_an_unfit_question_does_not_take_the_others_with_it():
    model = Model()
    model.go_on.set()
    batcher = Batcher(model, most=8, waiting=8, gather_seconds=0.1)
    good, bad, other = submitted(batcher, "good", "unfit", "other")
    assert (good.reply.result(10).text, other.reply.result(10).text) == ("good", "other")
    with pytest.raises(InputError):
        bad.reply.result(10)


def test_a_full_queue_and_a_stopping_server_take_nothing():
    model = Model()
    batcher = Batcher(model, most=1, waiting=2, gather_seconds=0)
    (running,) = submitted(batcher, "a")
    begun(model, 1)
    waiting = submitted(batcher, "b", "c")
    with pytest.raises(BusyError) as busy:
        batcher.submit(ask("d"))
    assert busy.value.retry_after >= 1
    gone = waiting[1].reply.cancel()  # its client went away
    drained = ThreadPoolExecutor().submit(batcher.drain, 10)
    time.sleep(0.05)
    with pytest.raises(ClosingError):
        batcher.submit(ask("e"))
    model.go_on.set()
    assert drained.result() is True
    assert gone
    assert [one.reply.result(10).text for one in (running, waiting[0])] == ["a", "b"]
    assert model.batches == [["a"], ["b"]]


def test_a_drain_that_takes_too_long_gives_up():
    model = Model()
    batcher = Batcher(model, most=1, waiting=2, gather_seconds=0)
    submitted(batcher, "a")
    begun(model, 1)
    (waiting,) = submitted(batcher, "b")
    assert batcher.drain(0.05) is False
    assert waiting.reply.cancelled()
    model.go_on.set()


def test_many_clients_get_the_answers_that_each_would_get_alone(client: TestClient):
    edited(client)
    questions = [(QUESTION, 2), (QUESTION, 7), ("What is it?", 3), ("What is it?", 1)] * 2
    one_by_one = [text_of(asked(client, message(text, data_url(seed=seed)))) for text, seed in questions]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda one: text_of(asked(client, message(one[0], data_url(seed=one[1])))), questions))
    assert together == one_by_one
    sizes = [
        float(line.split()[1])
        for line in client.get("/metrics").text.splitlines()
        if line.startswith("vledit_batch_size_")
    ]
    assert max(sizes) > 1


def test_429_tells_when_to_come_back(make: Make):
    with TestClient(
        make(limits=Limits(waiting=1, batch=1)), client=("127.0.0.1", 1), base_url="http://127.0.0.1"
    ) as client:
        body = {"model": "tiny-pocket", "messages": [message(QUESTION)], "max_tokens": 2}
        with ThreadPoolExecutor(8) as pool:
            small().lock.acquire()
            calls = [pool.submit(client.post, "/v1/chat/completions", json=body) for _ in range(6)]
            time.sleep(1)
            small().lock.release()
            answers = [call.result() for call in calls]
    busy = [one for one in answers if one.status_code == 429]
    assert busy
    assert all(int(one.headers["retry-after"]) >= 1 for one in busy)
    assert {one.status_code for one in answers} == {200, 429}


def test_two_replicas_on_one_store_answer_alike_within_a_second(make: Make, where: str):
    here = TestClient(make(store=where), client=("127.0.0.1", 1), base_url="http://127.0.0.1")
    with here as one, TestClient(make(store=where), client=("127.0.0.1", 1), base_url="http://127.0.0.1") as other:
        before = answer(other)
        edited(one)
        began = time.monotonic()
        while answer(other) == before and time.monotonic() < began + 5:
            pass
        assert answer(other) == "golden tea"
        assert time.monotonic() - began < 1.5  # with the time of the answers themselves
        # a draft that was made at one can be committed at the other
        job = finished(one, one.post("/v1/edits", json={**EDIT, "id": "cat", "answer": "a cat", "preview": True}))
        done = other.post(f"/v1/edits/jobs/{job['id']}/commit", json={}).json()
        assert done["result"]["relation"]["replaces"] == ["tea"], done
        assert one.get(f"/v1/edits/jobs/{job['id']}").json()["status"] == "done"
        assert answer(other) == "a cat"
        other.post("/v1/edits/cat/remove", json={})
        other.post("/v1/edits/tea/remove", json={})
        time.sleep(1)
        assert answer(one) == before


def test_health_readiness_and_figures(client: TestClient):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready", "revision": 0}
    answer(client)
    figures = client.get("/metrics").text
    assert 'vledit_requests_total{method="POST",route="/v1/chat/completions",status="200"} 1.0' in figures
    assert 'vledit_answers_total{by="base"} 1.0' in figures
    client.app.state.service.draining = True  # type: ignore[attr-defined]
    assert client.get("/readyz").status_code == 503


def test_a_log_line_is_json_without_questions_and_pictures(client: TestClient, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="vledit.serve")
    asked(client, message("A very secret question?", data_url()))
    (record,) = [one for one in caplog.records if one.getMessage() == "request"]
    line = json.loads(JsonLines().format(record))
    assert (line["event"], line["route"], line["status"], line["by"]) == (
        "request",
        "/v1/chat/completions",
        200,
        "local",
    )
    assert "secret question" not in caplog.text


def test_spans_tell_of_requests_and_batches_but_not_of_questions(client: TestClient):
    told = []

    class Span:
        def set_attribute(self, name: str, value: object) -> None:
            told.append((name, value))

    class Tracer:
        @contextmanager
        def start_as_current_span(self, name: str, attributes: dict):
            told.append((name, attributes))
            yield Span()

    tracing.use(Tracer())
    try:
        asked(client, message("A very secret question?"))
    finally:
        tracing.use(None)
    assert ("batch", {"size": 1, "edited": True}) in told
    assert ("route", "/v1/chat/completions") in told
    assert ("status", 200) in told
    assert "secret" not in str(told)


def test_what_runs_when_it_is_stopped_is_answered(make: Make):
    app = make()
    with ThreadPoolExecutor(1) as pool:
        with running(app) as address:
            held, stopped = threading.Event(), threading.Event()

            def hold() -> None:
                with small().lock:
                    held.set()
                    stopped.wait(30)
                    time.sleep(0.3)

            threading.Thread(target=hold).start()
            held.wait(10)
            body = json.dumps({"model": "tiny-pocket", "messages": [message(QUESTION)], "max_tokens": 2}).encode()
            request = urllib.request.Request(
                f"{address}/v1/chat/completions", body, {"content-type": "application/json"}
            )
            call = pool.submit(lambda: urllib.request.urlopen(request, timeout=60).status)
            while not app.state.service.batcher.running:
                time.sleep(0.01)
            stopped.set()  # the stop comes before the answer
        assert call.result(60) == 200


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_terminal_that_is_closed_stops_it_as_any_signal_does_and_the_log_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lines: list[tuple[str, object]] = []
    traced: list[object] = []
    monkeypatch.setattr(run_module.logs, "set_up", lambda *_: None)
    monkeypatch.setattr(run_module.log, "warning", lambda text, extra: lines.append((text, extra)))
    monkeypatch.setattr(run_module.faulthandler, "enable", traced.append)
    before = signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    statuses: list[int] = []

    def hang_up(address: str) -> None:
        def later() -> None:
            until = time.monotonic() + 60
            while not statuses and time.monotonic() < until:
                try:
                    with urllib.request.urlopen(f"{address}/readyz", timeout=10) as response:
                        statuses.append(response.status)
                except OSError:
                    time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGHUP)

        threading.Thread(target=later, daemon=True).start()

    try:
        settings = ServeSettings(store=str(tmp_path / "store.db"), port=0)
        run_module.run(settings, EditedModel(small()), hang_up)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert statuses == [200]
    assert ("about to stop", {"signal": "SIGHUP"}) in lines
    assert traced  # a crash of the interpreter would show where
