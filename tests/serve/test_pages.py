"""The pages in a real browser: everything is done by keyboard, nothing is blocked by the page's own policy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.codebook.codebook_samples import entry as make_entry
from tests.codebook.codebook_samples import scope
from tests.vlm.models import picture
from vledit.serve.pages.keymap import SIDE, key_map

from .conftest import QUESTION, Make, data_url, running
from .test_edits import edited
from .test_safety import token_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: apt install chromium)")
    with sync.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page on a phone's screen that fails the test where its own policy or a script's error gets in the way."""
    context = browser.new_context(viewport={"width": 390, "height": 780}, color_scheme="dark")
    found = context.new_page()
    troubles: list[str] = []
    found.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
    found.on("pageerror", lambda error: troubles.append(str(error)))
    yield found
    context.close()
    assert not troubles


def press(page: Any, selector: str, key: str = "Enter") -> None:
    page.focus(selector)
    page.keyboard.press(key)


def test_an_edit_is_made_tried_shipped_and_taken_back_by_keyboard(page: Any, make: Make, tmp_path: Path):
    picture(2).save(tmp_path / "picture.png")
    app = make()
    with running(app) as address:
        page.goto(address)
        page.set_input_files("#picture", tmp_path / "picture.png")
        page.wait_for_selector(".drop img")  # visible, once the browser has read the file
        page.focus("#question")
        page.keyboard.type(QUESTION)
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".said")
        before = page.inner_text(".said")
        assert "the same" in page.inner_text("#answer")
        press(page, "text=Keep as a probe")
        page.wait_for_selector("text=1 probe")
        # a random model takes no edit of default strength: its work is done here, the page's is looked at
        model = app.state.service.model
        real = model.make
        strong = {"steps": 200, "learning_rate": 0.05, "margin": 1.0, "rephrase": "supplied", "common_directions": 4}
        model.make = lambda request, editor, settings: real(request, editor, strong)
        page.focus("#new")
        page.keyboard.type("golden tea")
        press(page, "summary")
        page.focus("#rephrases")
        page.keyboard.type("What is seen here?")
        press(page, "#edit button[value=preview]")
        page.wait_for_selector("text=1 of 1 probes change", timeout=20_000)
        assert before in page.inner_text(".job")
        press(page, ".job >> text=Make it live")
        page.wait_for_selector("text=revision 1")
        page.focus("#question")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".said:has-text('golden tea')")
        page.click("#answer a")
        page.wait_for_selector("#radius")
        one = page.url
        inside = page.inner_text("#inside")
        press(page, "#radius", "Home")
        assert page.inner_text("output") == "0"
        assert "1 of 1" in inside
        press(page, "text=Disable")
        page.wait_for_selector("text=Enable")
        page.goto(f"{address}/history")
        page.on("dialog", lambda dialog: dialog.accept())
        press(page, "tr:has(th:text-is('1')) button")
        page.wait_for_selector("text=rolled back to 1")
        page.goto(f"{address}/edits?search=tea")
        assert "active" in page.inner_text(".cards")
        page.focus("#search")
        page.keyboard.type("xyz")
        page.wait_for_selector("text=Nothing fits")
        page.goto(f"{address}/map")
        assert page.locator(".map a").count() == 1
        for place in (address, one, *(f"{address}/{name}" for name in ("edits", "map", "probes", "history"))):
            page.goto(place)  # nothing sticks out of a phone's screen
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, place


def test_a_bad_question_is_said_on_the_page(browser: Any, make: Make):
    with running(make()) as address:
        page = browser.new_page()
        page.goto(address)
        page.fill("#question", "<|im_end|>")
        page.click("#ask button[type=submit]")
        page.wait_for_selector("#trouble:not([hidden])")
        assert page.inner_text("#trouble").startswith("question:")
        page.close()


def test_with_tokens_the_pages_ask_for_one(client: TestClient):
    made = edited(client)
    writer = token_of(client, "edit")
    page = {"accept": "text/html"}
    assert client.get("/", headers=page, follow_redirects=False).headers["location"] == "/login"
    assert client.post("/login", data={"token": "vle_wrong"}).status_code == 401
    entered = client.post("/login", data={"token": writer}, follow_redirects=False)
    cookie = entered.headers["set-cookie"]
    assert all(word in cookie.lower() for word in ("httponly", "samesite=strict"))
    assert writer not in cookie
    assert "golden tea" in client.get("/edits", headers=page).text
    done = client.get(f"/ui/jobs/{made['id']}")
    assert (done.status_code, "There are no probes to try it on" in done.text) == (200, True)
    assert client.post("/ui/edits/tea/remove", headers={"origin": "http://127.0.0.1"}).status_code == 403


def test_what_is_asked_and_answered_is_escaped(client: TestClient):
    client.post("/v1/probes", json={"question": "<script>alert(1)</script>", "image": data_url()})
    text = client.get("/probes").text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_the_map_keeps_distances_where_a_plane_can():
    rng = np.random.default_rng(3)
    flat = np.zeros((6, 5), dtype=np.float32)
    flat[:, 1:3] = rng.normal(size=(6, 2))
    entries = [make_entry(f"e{i}", scope(key, radius=0.3)) for i, key in enumerate(flat)]
    found = key_map(entries)
    points = np.array([(spot.x, spot.y) for spot in found.spots])
    scale = found.spots[0].radius / 0.3
    true = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    assert np.allclose(np.linalg.norm(points[:, None] - points[None], axis=-1), true * scale, atol=1e-3 * SIDE)
    assert found.share == pytest.approx(1.0)
    assert all(0 <= c <= SIDE for spot in found.spots for c in (spot.x, spot.y))


def test_a_map_of_nothing_and_of_one():
    assert key_map([]).spots == ()
    (spot,) = key_map([make_entry("one")]).spots
    assert (spot.x, spot.y) == (SIDE / 2, SIDE / 2)
