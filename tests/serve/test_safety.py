"""Who may do what, what is too much, and what a browser may be made to send."""

from __future__ import annotations

import base64
import io
import json
import logging
import sqlite3
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from vledit.cli.app import build
from vledit.serve.access import CSRF_HEADER, RateLimit
from vledit.serve.settings import Limits

from .conftest import QUESTION, Make, data_url, message

ASKING = {"model": "tiny-pocket", "messages": [message()], "max_tokens": 2}
EDITING = {"question": QUESTION, "answer": "tea", "probes": "none"}


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def token_of(client: TestClient, *scopes: str) -> str:
    """A new token, made by an administrator."""
    secret, _ = client.app.state.service.tokens.create("somebody", scopes)  # type: ignore[attr-defined]
    client.app.state.access._any = (0.0, False)  # type: ignore[attr-defined]
    return secret


def test_each_scope_may_do_what_those_before_it_may(client: TestClient):
    reader, writer, admin = (token_of(client, scope) for scope in ("read", "edit", "admin"))
    status = {
        (scope, what): send(bearer(token)).status_code
        for scope, token in (("read", reader), ("edit", writer), ("admin", admin))
        for what, send in (
            ("ask", lambda h: client.post("/v1/chat/completions", json=ASKING, headers=h)),
            ("edit", lambda h: client.post("/v1/edits", json={**EDITING, "preview": True}, headers=h)),
            ("admin", lambda h: client.get("/v1/tokens", headers=h)),
        )
    }
    assert {key for key, code in status.items() if code < 300} == {
        ("read", "ask"), ("edit", "ask"), ("edit", "edit"), ("admin", "ask"), ("admin", "edit"), ("admin", "admin"),
    }  # fmt: skip
    assert {code for code in status.values() if code >= 300} == {403}


def test_once_there_is_a_token_nobody_gets_in_without(client: TestClient):
    assert client.get("/v1/models").status_code == 200
    token = token_of(client, "read")
    assert client.get("/v1/models").status_code == 401
    assert client.get("/v1/models", headers=bearer("vle_wrong")).status_code == 401
    assert client.get("/v1/models", headers=bearer(token)).status_code == 200


@pytest.mark.parametrize("open_read", [False, True])
def test_beyond_loopback_nobody_may_edit_without_a_token(make: Make, open_read: bool):
    with TestClient(
        make(host="0.0.0.0", open_read=open_read), client=("192.0.2.7", 1), base_url="http://127.0.0.1"
    ) as client:
        assert client.post("/v1/chat/completions", json=ASKING).status_code == (200 if open_read else 401)
        assert client.post("/v1/edits", json=EDITING).status_code == 401
        assert client.post("/v1/history/rollback", json={"revision": 0}).status_code == 401
        assert client.get("/v1/tokens").status_code == 401


@pytest.mark.parametrize(
    "headers", [{"host": "evil.example"}, {"x-forwarded-for": "192.0.2.1"}, {"forwarded": "for=x"}]
)
def test_a_foreign_name_or_a_proxy_in_front_is_not_this_machine(client: TestClient, headers: dict):
    assert client.post("/v1/edits", json=EDITING, headers=headers).status_code == 401


def test_a_revoked_token_does_not_count(client: TestClient):
    secret, token = client.app.state.service.tokens.create("somebody", ["edit"])  # type: ignore[attr-defined]
    client.app.state.service.tokens.create("other", ["edit"])  # type: ignore[attr-defined]
    client.app.state.service.tokens.revoke(token.id)  # type: ignore[attr-defined]
    assert client.get("/v1/models", headers=bearer(secret)).status_code == 401


def test_only_a_hash_of_a_token_is_kept_and_none_is_logged(
    client: TestClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, logger="vledit.serve")
    secret = client.post("/v1/tokens", json={"name": "me", "scopes": ["edit"]}).json()["token"]
    assert client.get("/v1/models", headers=bearer(secret)).status_code == 200
    client.get("/v1/models", headers=bearer("vle_wrong-but-secret"))
    with sqlite3.connect(tmp_path / "store.db") as db:
        kept = "\n".join(db.iterdump())
    assert "somebody" not in kept
    assert "'me'" in kept
    assert secret not in kept
    logged = "\n".join(json.dumps(record.__dict__, default=str) for record in caplog.records)
    assert "/v1/models" in logged
    assert secret not in logged
    assert "wrong-but-secret" not in logged


def test_a_page_of_another_site_cannot_make_this_machine_edit(client: TestClient):
    send = lambda **headers: client.post("/v1/edits", json=EDITING, headers=headers).status_code  # noqa: E731
    assert send(origin="https://evil.example") == 403
    assert send(**{"sec-fetch-site": "cross-site"}) == 403
    assert send(origin="http://127.0.0.1", **{"sec-fetch-site": "same-origin"}) == 403  # ours, but without its secret
    access = client.app.state.access  # type: ignore[attr-defined]
    cookie = access.open_session(None)
    client.cookies.set("vledit_session", cookie)
    assert send(origin="http://127.0.0.1") == 403
    secret = access.csrf(cookie.split(".")[0])
    assert send(origin="http://127.0.0.1", **{CSRF_HEADER: secret}) == 202
    client.cookies.set("vledit_session", cookie[:-1] + ("1" if cookie.endswith("0") else "0"))
    assert send(origin="http://127.0.0.1", **{CSRF_HEADER: secret}) == 403


def test_responses_carry_the_headers_that_keep_browsers_in_check(client: TestClient):
    for path in ("/v1/models", "/healthz", "/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-request-id"]


def test_bodies_and_pictures_that_are_too_large_are_refused(make: Make):
    limits = Limits(body_bytes=200_000, picture_bytes=50_000, picture_megapixels=1, pictures=2)
    with TestClient(make(limits=limits), client=("127.0.0.1", 1), base_url="http://127.0.0.1") as client:
        ask = lambda *urls: client.post("/v1/chat/completions", json={**ASKING, "messages": [message("x", *urls)]})  # noqa: E731
        assert ask("data:image/png;base64," + "A" * 300_000).status_code == 413
        pieces = (b"x" * 10_000 for _ in range(50))
        assert client.post("/v1/chat/completions", content=pieces).status_code == 413  # without a length
        assert (
            "picture has more than 50000 bytes"
            in ask("data:image/png;base64," + "A" * 100_000).json()["error"]["message"]
        )
        assert "megapixels" in ask(data_url(Image.new("L", (4000, 4000)))).json()["error"]["message"]
        assert "more than 2 pictures" in ask(*[data_url()] * 3).json()["error"]["message"]


def test_formats_that_pillow_hands_to_other_programs_are_refused(client: TestClient):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "EPS")

    url = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    response = client.post("/v1/chat/completions", json={**ASKING, "messages": [message("x", url)]})
    assert response.status_code == 400
    assert "not a picture" in response.json()["error"]["message"]


def test_too_many_requests_a_minute_are_told_when_to_come_back(make: Make):
    with TestClient(
        make(limits=Limits(requests_per_minute=8)), client=("127.0.0.1", 1), base_url="http://127.0.0.1"
    ) as client:
        answers = [client.get("/v1/models") for _ in range(4)]
        assert [one.status_code for one in answers[:2]] == [200, 200]
        assert answers[3].status_code == 429
        assert int(answers[3].headers["retry-after"]) >= 1


def test_a_bucket_fills_up_again(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr("vledit.serve.access.time.monotonic", lambda: now[0])
    rate = RateLimit(60)
    assert [rate.wait("me") for _ in range(15)] == [0.0] * 15
    assert rate.wait("me") == pytest.approx(1.0)
    assert rate.wait("you") == 0.0
    now[0] += 1
    assert rate.wait("me") == 0.0


def test_tokens_are_made_listed_and_revoked_on_the_command_line(tmp_path: Path, make: Make):
    store = str(tmp_path / "store.db")
    run = lambda *arguments: CliRunner().invoke(build(), ["token", *arguments, "--store", store])  # noqa: E731
    secret = run("create", "CI", "--scope", "read").stdout.strip()
    with TestClient(make(), client=("127.0.0.1", 1), base_url="http://127.0.0.1") as client:
        assert client.get("/v1/models", headers=bearer(secret)).status_code == 200
        assert client.get("/v1/models").status_code == 401
    (token,) = json.loads(run("list", "--json").stdout)
    assert (token["name"], token["scopes"]) == ("CI", ["read"])
    assert secret not in run("list").stdout
    assert run("revoke", token["id"]).exit_code == 0
    assert run("create", "x", "--scope", "write").exit_code == 2
