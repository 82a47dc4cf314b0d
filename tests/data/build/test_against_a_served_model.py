"""`vledit serve` as the language model and as the verifier of a build: the way there and back, over a real socket.

The model is tiny and random: as a language model nothing it says can be used, so what is tested is that a build asks it, asks
again with the reason, names every record and asks nothing twice.  As a verifier it is taught one picture by the edits API.
"""

from __future__ import annotations

import json
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
pytest.importorskip("openai", reason="the extra 'build' is not installed")

from tests.cli.conftest import Cli, cli  # noqa: F401
from tests.serve.conftest import Make, make, running  # noqa: F401
from tests.vlm.models import build
from vledit.cli import data_build_okedit
from vledit.data.build import chat
from vledit.data.build.verifying import _jpeg_uri
from vledit.editors.edited_model import EditedModel
from vledit.serve.app import create_app
from vledit.serve.settings import ServeSettings
from vledit.vlm import VLM

from .scripted_server import serving
from .world import QUESTION, SameMeaning, write_source

SETTINGS = {"steps": 400, "learning_rate": 0.05, "rephrase": "supplied", "common_directions": 4}
SERVED = "tiny-pocket"


@pytest.fixture(autouse=True)
def _same_meaning(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(data_build_okedit, "_meaning", lambda *_: SameMeaning())


def roomy() -> VLM:
    """A tiny random model that takes prompts as long as a build's."""
    return build("pocket", max_position_embeddings=4096)


def arguments(folder: Path, llm: str, name: str, pictures: str, verifier: str, *more: object) -> list[Any]:
    return [
        "data", "build", "okedit", "--source", folder / "source/squares.csv", "--out", folder / "out",
        "--store", folder / "store", "--llm", llm, "--llm-model", name, "--image-model", pictures,
        "--verifier", verifier, "--picture-size", 24, "--rephrasings", 2, "--pictures", 1, "--near", 1, "--tries", 1, *more,
    ]  # fmt: skip


def called(address: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}{path}", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        text = response.read().decode()
        return json.loads(text) if response.headers.get_content_type() == "application/json" else text


def answered(address: str) -> float:
    """How many questions the server has answered."""
    figures = called(address, "/metrics").splitlines()
    return sum(float(line.split()[-1]) for line in figures if line.startswith("vledit_answers_total{"))


@pytest.mark.filterwarnings("ignore:question. its prompt has")
def test_a_served_model_is_asked_again_with_the_reason_and_no_reply_is_asked_for_twice(
    cli: Cli,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(chat, "Endpoint", partial(chat.Endpoint, max_tokens=16))  # nothing longer would be of more use
    write_source(tmp_path / "source", 2)
    app = create_app(ServeSettings(store=str(tmp_path / "store.db")), EditedModel(roomy()))
    with running(app) as address, serving() as painter:
        own = f"{address}/v1"
        words = arguments(tmp_path, own, SERVED, f"{painter.url}#painter", f"{own}#{SERVED}", "--keep-unknown")
        first = cli(*words)
        asked = answered(address)
        again = cli(*words)
        assert answered(address) == asked
    assert asked >= 2 * (1 + 3)  # for each of two records its own picture, and a text three times
    assert first.code == again.code == 2
    said = " ".join(first.err.split())
    assert said[said.index("error:") :] == " ".join(again.err.split())[-len(said[said.index("error:") :]) :]
    for record in ("s0", "s1"):
        assert f"{record}, counterfactual: no usable reply after asking 3 times" in said


def test_a_served_model_verifies_and_knows_what_it_was_just_taught(cli: Cli, make: Make, tmp_path: Path):  # noqa: F811
    write_source(tmp_path / "source", 2)
    with running(make()) as address, serving() as script:
        picture = _jpeg_uri(tmp_path / "source/0.png")  # as the verifier sends it
        edit = {
            "question": f"{QUESTION} Answer in a few words.",  # and as it asks
            "answer": "red",
            "image": picture,
            "probes": "none",
            "rephrases": ["Say its colour."],
            "settings": SETTINGS,
        }
        job = called(address, "/v1/edits", edit)
        until = time.monotonic() + 60
        while job["status"] in ("queued", "running") and time.monotonic() < until:
            time.sleep(0.05)
            job = called(address, f"/v1/edits/jobs/{job['id']}")
        assert job["status"] == "done", job["error"]
        verifier = f"{address}/v1#{SERVED}"
        ran = cli(*arguments(tmp_path, script.url, "scripted", f"{script.url}#painter", verifier))
    said = " ".join(ran.err.split())
    assert ran.code in (0, 2)
    if ran.code == 0:
        rejected = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
        said += " ".join(f"{one['record']}, {one['step']}:" for one in rejected)
    assert "s1, known:" in said  # a random model does not know the second square
    assert "s0, known:" not in said
