"""Editing over HTTP: order, preview, commit, look, switch off, take out, bring back, go back; and codebook files."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.vlm.models import picture, tiny
from vledit.codebook import Codebook
from vledit.data.case import EditRequest
from vledit.editors.edited_model import EditedModel
from vledit.serve.settings import Limits

from .conftest import LONGEST, QUESTION, Make, asked, data_url, finished, message, small, text_of

SETTINGS = {"steps": 200, "learning_rate": 0.05, "margin": 1.0, "rephrase": "supplied", "common_directions": 4}
WORDINGS = ["What is seen here?"]
EDIT = {
    "question": QUESTION,
    "answer": "golden tea",
    "image": data_url(),
    "reason": "it is tea",
    "id": "tea",
    "settings": SETTINGS,
    "rephrases": WORDINGS,
}


def answer(client: TestClient, model: str = "tiny-pocket") -> str:
    return text_of(asked(client, message(QUESTION, data_url()), model=model, max_tokens=LONGEST))


def edited(client: TestClient, **more: object) -> dict:
    job = finished(client, client.post("/v1/edits", json={**EDIT, **more}))
    assert job["status"] == "done", job["error"]
    return job


def test_an_edit_acts_once_its_job_is_done_and_is_the_one_that_python_makes(client: TestClient):
    before = answer(client)
    job = edited(client)
    assert answer(client) == "golden tea" != before
    assert answer(client, "tiny-pocket-base") == before
    own = EditedModel(tiny("pocket"))
    made = own.edit(EditRequest(picture(2), QUESTION, "golden tea", tuple(WORDINGS), "tea"), **SETTINGS)
    assert made.entry is not None
    assert job["result"]["entry"]["scopes"][0]["radius"] == pytest.approx(made.entry.radius, rel=1e-6)
    explained = asked(client, message(QUESTION, data_url()), vledit={"explain": True})["vledit"]
    assert (explained["entry"], explained["fired"], explained["revision"]) == ("tea", True, 1)
    line = client.get("/v1/history").json()["data"][0]
    assert (line["action"], line["edit"], line["author"], line["reason"]) == ("added", "tea", "local", "it is tea")


def test_a_preview_changes_nothing_until_it_is_committed(client: TestClient):
    before = answer(client)
    client.post("/v1/probes", json={"question": QUESTION, "image": data_url(), "note": "the same"})
    client.post("/v1/probes", json={"question": "Who made this?"})
    job = finished(client, client.post("/v1/edits", json={**EDIT, "preview": True}))
    assert job["status"] == "previewed"
    same, other = job["result"]["preview"]["rows"]
    assert (same["before"], same["after"], same["changed"], same["fires"]) == (before, "golden tea", True, "tea")
    assert other["changed"] is (other["before"] != other["after"])
    assert answer(client) == before
    assert client.get("/v1/edits").json()["total"] == 0
    done = client.post(f"/v1/edits/jobs/{job['id']}/commit", json={"reason": "looks right"}).json()
    assert (done["status"], done["result"]["revision"]) == ("done", 1)
    assert answer(client) == "golden tea"
    assert client.get("/v1/history").json()["data"][0]["reason"] == "looks right"
    assert client.post(f"/v1/edits/jobs/{job['id']}/commit", json={}).status_code == 400


def test_a_discarded_draft_is_gone(client: TestClient):
    job = finished(client, client.post("/v1/edits", json={**EDIT, "preview": True, "probes": "none"}))
    assert client.post(f"/v1/edits/jobs/{job['id']}/discard", json={}).json()["status"] == "discarded"
    assert client.get(f"/v1/edits/jobs/{job['id']}").json()["status"] == "discarded"
    assert client.post(f"/v1/edits/jobs/{job['id']}/commit", json={}).status_code == 400


def test_switching_off_taking_out_and_bringing_back_are_seen_by_the_next_question(client: TestClient):
    before = answer(client)
    edited(client)
    for action, status, said in (
        ("disable", "disabled", before),
        ("enable", "active", "golden tea"),
        ("remove", "removed", before),
        ("restore", "active", "golden tea"),
    ):
        changed = client.post(f"/v1/edits/tea/{action}", json={"reason": action})
        assert (changed.status_code, changed.json()["status"]) == (200, status)
        assert answer(client) == said, action
    assert [line["action"] for line in client.get("/v1/edits/tea").json()["history"]] == [
        "restored", "removed", "enabled", "disabled", "added",
    ]  # fmt: skip
    assert client.post("/v1/edits/tea/enable", json={}).status_code == 400
    assert client.post("/v1/edits/nothing/enable", json={}).status_code == 404


def test_a_new_answer_takes_the_old_ones_place_and_gives_it_back(client: TestClient):
    edited(client)
    edited(client, answer="a cat", id="cat")
    assert answer(client) == "a cat"
    assert {one["id"]: one["status"] for one in client.get("/v1/edits").json()["data"]} == {
        "cat": "active",
        "tea": "retired",
    }
    client.post("/v1/edits/cat/remove", json={})
    assert answer(client) == "golden tea"


def test_the_same_fact_twice_changes_nothing(client: TestClient):
    edited(client)
    again = edited(client, id="again")
    assert (again["result"]["edit"], again["result"]["relation"]["kind"], again["result"]["revision"]) == (
        "tea",
        "same",
        1,
    )
    assert client.get("/v1/edits").json()["total"] == 1


def test_rolling_back_makes_everything_as_it_was_and_can_be_taken_back(client: TestClient):
    before = answer(client)
    edited(client)
    edited(client, answer="a cat", id="cat")
    client.post("/v1/edits/cat/disable", json={})
    assert client.post("/v1/history/rollback", json={"revision": 1, "reason": "no cat"}).json()["revision"] == 4
    assert answer(client) == "golden tea"
    client.post("/v1/history/rollback", json={"revision": 0})
    assert answer(client) == before
    client.post("/v1/history/rollback", json={"revision": 2})
    assert answer(client) == "a cat"
    assert client.post("/v1/history/rollback", json={"revision": 99}).json()["error"]["param"] == "revision"


def test_a_radius_of_nothing_fires_for_nothing_else_and_back(client: TestClient):
    edited(client)
    client.post("/v1/probes", json={"question": QUESTION, "image": data_url()})
    client.post("/v1/probes", json={"question": QUESTION, "image": data_url(seed=7)})
    same, other = client.get("/v1/edits/tea/reach").json()["rows"]
    assert same["distance"] < 1e-3 < other["distance"]
    assert same["inside"] == "golden tea"
    narrow = client.post("/v1/edits/tea/radius", json={"radius": other["distance"] / 2}).json()
    assert narrow["radius_by_hand"] is True
    assert text_of(asked(client, message(QUESTION, data_url(seed=7)), max_tokens=LONGEST)) == other["outside"]
    client.post("/v1/edits/tea/radius", json={"radius": other["distance"] * 2})
    assert text_of(asked(client, message(QUESTION, data_url(seed=7)), max_tokens=LONGEST)) == other["inside"]
    assert client.post("/v1/edits/tea/radius", json={"radius": None}).json()["radius_by_hand"] is False


def test_codebook_files_go_out_and_come_in(client: TestClient, make: Make, tmp_path: Path):
    edited(client)
    file = tmp_path / "out.vledit"
    file.write_bytes(client.get("/v1/codebook").content)
    with Codebook.open(file, tiny("pocket").fingerprint) as book:
        assert [entry.id for entry in book.active()] == ["tea"]
    with TestClient(
        make(store=str(tmp_path / "other.db"), codebook=str(file)), client=("127.0.0.1", 1), base_url="http://127.0.0.1"
    ) as other:
        assert answer(other) == "golden tea"
        took = other.post("/v1/codebook", content=file.read_bytes()).json()
        assert (took["added"], took["known"]) == (0, 1)
    with TestClient(
        make(store=str(tmp_path / "third.db")), client=("127.0.0.1", 1), base_url="http://127.0.0.1"
    ) as third:
        assert third.post("/v1/codebook", content=file.read_bytes()).json()["added"] == 1
        assert answer(third) == "golden tea"
        assert third.post("/v1/codebook", content=b"no codebook").status_code == 400


def test_edits_are_there_after_a_restart(make: Make):
    with TestClient(make(), client=("127.0.0.1", 1), base_url="http://127.0.0.1") as first:
        edited(first)
    with TestClient(make(), client=("127.0.0.1", 1), base_url="http://127.0.0.1") as second:
        assert answer(second) == "golden tea"


def test_what_cannot_be_learnt_fails_with_its_reason(client: TestClient):
    job = finished(client, client.post("/v1/edits", json={**EDIT, "settings": {"steps": 1, "learning_rate": 1e-9}}))
    assert (job["status"], job["error"]["type"]) == ("failed", "EditFailedError")
    assert "does not answer" in job["error"]["message"]
    assert client.get("/v1/edits").json()["total"] == 0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"question": ""}, "question"),
        ({"answer": " "}, "answer"),
        ({"answer": "x " * 500}, "answer"),
        ({"image": "http://example.invalid/x.png"}, "image"),
        ({"editor": "ft"}, "editor"),
        ({"editor": "balancedt"}, None),
        ({"settings": {"alpa": 1}}, None),
        ({"settings": {"steps": "many"}}, None),
        ({"id": "a b"}, "id"),
        ({"reason": "x\0"}, "reason"),
        ({"probes": [{"question": ""}]}, "probes.0.question"),
        ({"quesion": "x"}, "quesion"),
    ],
)
def test_an_unfit_edit_is_refused_before_it_waits(client: TestClient, change: dict, field: str | None):
    response = client.post("/v1/edits", json={**EDIT, **change})
    assert response.status_code == 400, response.text
    assert field is None or response.json()["error"]["param"] == field, response.text


def test_a_full_queue_is_told_with_the_time_to_wait(make: Make):
    with TestClient(
        make(limits=Limits(waiting_edits=1)), client=("127.0.0.1", 1), base_url="http://127.0.0.1"
    ) as client:
        with small().lock:  # nothing can be made meanwhile
            answers = [client.post("/v1/edits", json={**EDIT, "id": f"e{number}"}) for number in range(4)]
        busy = [one for one in answers if one.status_code == 429]
        assert busy
        assert int(busy[0].headers["retry-after"]) >= 1


def test_the_openapi_schema_lists_every_route(client: TestClient):
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/edits", "/v1/history/rollback", "/v1/codebook", "/metrics"} <= set(paths)
