"""Edits of every editor behind the server: given at its start, read-only, beside those that are made while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.vlm.models import picture
from vledit.data.case import EditRequest
from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError
from vledit.serve.fixed import Fixed

from .conftest import LONGEST, QUESTION, Make, asked, data_url, finished, message, small, text_of
from .test_edits import EDIT

OTHER = "Who made this?"
WAYS: dict[str, dict[str, Any]] = {
    "balancedit": {"steps": 200, "learning_rate": 0.05, "rephrase": "supplied", "common_directions": 4},
    "ft": {"steps": 200, "learning_rate": 0.05},
    "grace": {"site": "-1.mlp", "steps": 30, "unlearnt": "keep"},
    "ike": {},
}


@cache
def saved_in(folder: Path, editor: str) -> EditedModel:
    """A model with one edit of this editor, saved into the folder."""
    model = EditedModel(small())
    model.edit(EditRequest(picture(3), OTHER, "blue", ("By whom is it?",), "given"), editor, **WAYS[editor])
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module", params=list(WAYS))
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.getbasetemp() / f"saved-{request.param}"
    saved_in(folder, request.param)
    return request.param, folder


@pytest.fixture
def client(make: Make, saved: tuple[str, Path]) -> Iterator[TestClient]:
    app = make(edits=str(saved[1]))
    with TestClient(app, client=("127.0.0.1", 1), base_url="http://127.0.0.1") as found:
        yield found


def said(client: TestClient, question: str, seed: int, **more: Any) -> str:
    return text_of(asked(client, message(question, data_url(seed=seed)), max_tokens=LONGEST, **more))


def test_a_saved_model_answers_as_in_python_and_takes_new_edits_beside_it(client: TestClient, saved: tuple[str, Path]):
    editor, folder = saved
    model = saved_in(folder, editor)
    requests = [(OTHER, 3), (QUESTION, 2), (QUESTION, 7)]
    expected = [model.answer(picture(seed), question, LONGEST).text for question, seed in requests]
    assert [said(client, *one) for one in requests] == expected
    with model.disable():
        base = [model.answer(picture(seed), question, LONGEST).text for question, seed in requests]
    assert [said(client, *one, model="tiny-pocket-base") for one in requests] == base
    assert expected[0] != base[0]

    job = finished(client, client.post("/v1/edits", json=EDIT))
    if editor == "ike" and job["status"] == "failed":  # its retrieval answers this question, too: that is said
        assert "fixed edit 'given'" in job["error"]["message"]
        return
    assert job["status"] == "done", job["error"]
    assert said(client, QUESTION, 2) == "golden tea"
    assert said(client, OTHER, 3) == expected[0]
    client.post("/v1/edits/tea/remove", json={})
    assert [said(client, *one) for one in requests] == expected


def test_what_is_fixed_is_listed_and_its_codebook_is_in_the_store(client: TestClient, saved: tuple[str, Path]):
    editor, _ = saved
    fixed, kept = (client.get(path).json()["data"] for path in ("/v1/fixed", "/v1/edits"))
    if editor == "balancedit":
        assert (fixed, [one["id"] for one in kept]) == ([], ["given"])
        return
    assert kept == []
    (one,) = fixed
    acts = "on every request" if editor == "ft" else "on the requests it is for"
    assert (one["id"], one["editor"], one["question"], one["answer"], one["acts"]) == (
        "given", editor, OTHER, "blue", acts,
    )  # fmt: skip
    refused = client.post("/v1/edits", json={**EDIT, "id": "given"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "id")
    other = client.post("/v1/edits", json={**EDIT, "editor": editor, "settings": {}})
    assert "--edits FOLDER" in other.json()["error"]["message"]
    assert "Fixed edits" in client.get("/edits").text


def test_a_conversation_and_a_stream_are_answered_as_in_python(client: TestClient, saved: tuple[str, Path]):
    editor, folder = saved
    model = saved_in(folder, editor)
    content = [{"type": "image", "image": picture(3)}, {"type": "text", "text": OTHER}]
    talk = [{"role": "system", "content": "Be short."}, {"role": "user", "content": content}]
    expected = model.chat(talk, max_new_tokens=LONGEST).text
    words = ({"role": "system", "content": "Be short."}, message(OTHER, data_url(seed=3)))
    assert text_of(asked(client, *words, max_tokens=LONGEST)) == expected
    body = {"model": "tiny-pocket", "messages": list(words), "max_tokens": LONGEST, "stream": True}
    lines = client.post("/v1/chat/completions", json=body).text
    assert "[DONE]" in lines


def test_an_edit_that_would_not_be_heard_beside_a_fixed_one_is_refused_by_name(tmp_path: Path):
    wanted, other = (EditRequest(picture(3), OTHER, answer) for answer in ("blue", "red"))
    for editor in ("ft", "ike"):
        saved_in(tmp_path / editor, editor)
    always = Fixed.read(small(), tmp_path / "ft")
    always.check_answers(always.model(small()), wanted, None)  # the base need not answer so: what acts does
    with pytest.raises(InputError, match=r"answer: .*a fixed edit \(always acting"):
        always.check_answers(always.model(small()), other, None)
    first = Fixed.read(small(), tmp_path / "ike")
    with pytest.raises(InputError, match=r"the fixed edit 'given' .* before the codebook is asked"):
        first.check_answers(first.model(small()), other, "new")
    Fixed().check_answers(EditedModel(small()), other, None)
