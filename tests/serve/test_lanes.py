"""Several batches at once: same weights, same answers, and an edit that comes meanwhile reaches all of them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

from tests.vlm.models import build, picture
from vledit import EditRequest
from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError
from vledit.serve import lanes
from vledit.serve.asks import Ask, Reply
from vledit.serve.batching import Batcher
from vledit.serve.fixed import Fixed
from vledit.serve.model import ServedModel
from vledit.vlm.conversation import Turn
from vledit.vlm.hooks import site_changed
from vledit.vlm.twin import twin

from .conftest import QUESTION, Make, asked, data_url, finished, message, small, text_of
from .test_edits import EDIT, SETTINGS, WORDINGS, edited

Q = "What is it?"


def test_a_twin_shares_the_weights_and_nothing_that_a_pass_changes():
    vlm = build("pocket")
    other = twin(vlm)
    assert other.fingerprint == vlm.fingerprint
    own = {tensor.data_ptr() for tensor in vlm.model.parameters()}
    assert all(tensor.data_ptr() in own for tensor in other.model.parameters())
    assert other.lock is not vlm.lock
    before = vlm.answer([picture(1)], [Q], 4)
    with site_changed(vlm, vlm.default_site, lambda x, y: y * 0 + 1e4):
        changed = vlm.answer([picture(1)], [Q], 4)
        assert other.answer([picture(1)], [Q], 4) == before  # the hook is on one of them
    assert changed != before


def test_lanes_at_once_answer_as_one_alone_and_never_with_each_others_edits():
    vlm = small()
    edited_model = EditedModel(vlm)
    alone = ServedModel(edited_model, lanes=1)
    served = ServedModel(edited_model, lanes=2)
    request = EditRequest(picture(2), QUESTION, "golden tea", tuple(WORDINGS))
    made = alone.make(request, "balancedit", SETTINGS)
    assert made.entry is not None
    for one in (alone, served):
        one.take_in(1, [(1, made.entry)])
    asks = [(QUESTION, 2), (QUESTION, 7), (Q, 3), (Q, 1), (QUESTION, 2), (Q, 5)]

    def ask(place: int, is_edited: bool = True) -> Ask:
        question, seed = asks[place % len(asks)]
        return Ask((Turn(question, (picture(seed),)),), 6, is_edited)

    wanted = {(i, e): alone.answer([ask(i, e)])[0].text for i in range(len(asks)) for e in (True, False)}
    assert wanted[0, True] == "golden tea" != wanted[0, False]
    start, wrong = threading.Barrier(2), []

    def work(lane: int) -> None:
        start.wait()
        for turn in range(6):
            is_edited = (turn + lane) % 2 == 0
            some = [turn, turn + 1, turn + 2][: 1 + turn % 3]
            replies = served.answer([ask(i, is_edited) for i in some], lane, 2)
            said = [one.text for one in replies]
            right = [wanted[i % len(asks), is_edited] for i in some]
            if said != right:
                wrong.append((lane, turn, said, right))

    threads = [threading.Thread(target=work, args=(lane,)) for lane in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not wrong


def test_an_edit_made_while_lanes_answer_reaches_all_of_them_and_goes_again(make: Make):
    with TestClient(make(workers=2), client=("127.0.0.1", 1), base_url="http://127.0.0.1") as client:
        assert len(client.app.state.service.model.lanes) == 2  # type: ignore[attr-defined]
        question = message(QUESTION, data_url())
        before = text_of(asked(client, question))
        over, said = threading.Event(), []

        def keep_asking() -> None:
            while not over.is_set():
                said.append(text_of(asked(client, question)))

        with ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(keep_asking) for _ in range(2)]
            edited(client)
            together = list(pool.map(lambda _: text_of(asked(client, question)), range(4)))
            assert set(together) == {"golden tea"}
            client.post("/v1/edits/tea/remove", json={})
            time.sleep(0.2)
            together = list(pool.map(lambda _: text_of(asked(client, question)), range(6)))
            over.set()
            for one in asking:
                one.result(60)
        assert set(together) == {before}
        assert set(said) <= {before, "golden tea"}
        # as an older edit comes back the codebook is made anew: all lanes look into the new one
        finished(client, client.post("/v1/edits", json={**EDIT, "id": "cat", "answer": "a cat"}))
        client.post("/v1/edits/cat/remove", json={})
        client.post("/v1/edits/tea/restore", json={})
        time.sleep(0.2)
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(lambda _: text_of(asked(client, question)), range(6))) == {"golden tea"}


def test_a_lone_batch_gets_all_threads_and_batches_beside_each_other_divide_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    took: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", took.append)
    served = ServedModel(EditedModel(small()), lanes=2)
    one = Ask((Turn(Q),), 2)
    served.answer([one], 0, 1)
    served.answer([one], 1, 2)
    assert took == [4, 2]


def test_threads_of_torch_belong_to_the_thread_that_sets_them():
    before = torch.get_num_threads()
    found: list[int] = []

    def set_other() -> None:
        torch.set_num_threads(before + 1)
        found.append(torch.get_num_threads())

    thread = threading.Thread(target=set_other)
    thread.start()
    thread.join()
    assert found == [before + 1]
    assert torch.get_num_threads() == before


def test_waiting_questions_are_divided_among_the_threads_and_each_says_how_many_run():
    batches: list[tuple[int, int, list[str]]] = []
    both, go_on = threading.Barrier(2), threading.Event()

    def answer(asks, worker, together):
        batches.append((worker, together, [ask.turns[-1].question for ask in asks]))
        if asks[0].turns[-1].question != "alone":
            both.wait(20)  # passes only where two batches run at once
        go_on.wait(20)
        return [Reply(ask.turns[-1].question, "stop", 1, 1, None, 0) for ask in asks]

    batcher = Batcher(answer, most=8, waiting=32, gather_seconds=0.2, workers=2)
    go_on.set()
    alone = Ask((Turn("alone"),), 4)
    batcher.submit(alone)
    assert alone.reply.result(20).text == "alone"
    assert batches.pop()[1:] == (1, ["alone"])
    asks = [Ask((Turn(str(number)),), 4) for number in range(6)]
    for one in asks:
        batcher.submit(one)
    assert [one.reply.result(20).text for one in asks] == [str(number) for number in range(6)]
    assert sorted(found for _, _, found in batches) == [["0", "1", "2"], ["3", "4", "5"]]
    assert {together for _, together, _ in batches} == {2}
    assert {worker for worker, _, _ in batches} == {0, 1}
    assert batcher.drain(10) is True


def test_who_gets_several_lanes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    vlm, none = small(), Fixed()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert lanes.usual_lanes(vlm, none) == 3
    monkeypatch.setattr(lanes, "SMALL", 10)
    assert lanes.usual_lanes(vlm, none) == 1  # a large model: its weights would be read several times
    memories = Fixed(memories={"grace": object()}, folder="my-edits")  # type: ignore[dict-item]
    with pytest.raises(InputError, match=r"--workers: 2 given, but 'my-edits' holds edits of grace"):
        ServedModel(EditedModel(vlm), memories, lanes=2)
