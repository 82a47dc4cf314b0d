"""Asking: OpenAI's own client works unchanged, and answers are those of the model itself."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import openai
import pytest
from fastapi.testclient import TestClient

from tests.vlm.models import picture, tiny
from vledit.vlm.conversation import Turn, encode_conversations

from .conftest import QUESTION, Make, asked, data_url, message, running, text_of


def test_the_official_client_asks_streams_and_lists(make: Make):
    own = tiny("pocket").answer([picture(2)], [QUESTION], 8)[0]
    with running(make()) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none needed here", max_retries=0)
        assert [one.id for one in client.models.list()] == ["tiny-pocket", "tiny-pocket-base"]
        assert client.models.retrieve("tiny-pocket").id == "tiny-pocket"
        asking = {"model": "tiny-pocket", "messages": [message(QUESTION, data_url())], "max_tokens": 8}
        whole = client.chat.completions.create(**asking, extra_body={"vledit": {"explain": True}})
        assert whole.choices[0].message.content == own
        assert whole.usage.completion_tokens == 8
        assert whole.choices[0].finish_reason == "length"
        assert "base model" in whole.model_extra["vledit"]["explanation"].lower()
        pieces = list(client.chat.completions.create(**asking, stream=True, stream_options={"include_usage": True}))
        said = [one.choices[0].delta.content for one in pieces if one.choices and one.choices[0].delta.content]
        assert "".join(said) == own
        assert len(said) > 1  # it came as it was generated
        assert pieces[-1].usage == whole.usage
        with pytest.raises(openai.BadRequestError, match="addresses are not fetched"):
            client.chat.completions.create(**{**asking, "messages": [message(QUESTION, "http://127.0.0.1/x.png")]})


def test_several_turns_are_written_as_the_family_writes_them(client: TestClient):
    vlm, first = tiny("pocket"), message("What is it?", data_url(seed=1), data_url(seed=2))
    said = asked(client, first, {"role": "assistant", "content": "a cat"}, message(QUESTION, data_url(seed=3)))
    turns = (Turn("What is it?", (picture(1), picture(2)), "a cat"), Turn(QUESTION, (picture(3),)))
    assert text_of(said) == vlm.answer_encoded(encode_conversations(vlm, [turns]), 8)[0]
    assert said["usage"]["prompt_tokens"] == encode_conversations(vlm, [turns]).input_ids.shape[1]


def test_a_system_message_stands_before_the_first_question(client: TestClient):
    vlm = tiny("pocket")
    with_system = asked(client, {"role": "system", "content": "golden"}, message(QUESTION, data_url()))
    encoded = encode_conversations(vlm, [(Turn(QUESTION, (picture(2),), preface="golden"),)])
    assert text_of(with_system) == vlm.answer_encoded(encoded, 8)[0]


def test_rows_of_a_batch_are_cut_where_each_wants_it(client: TestClient):
    long = asked(client, message(QUESTION, data_url()), max_tokens=12)
    short = asked(client, message(QUESTION, data_url()), max_tokens=3)
    assert text_of(long).startswith(text_of(short).rstrip("�"))
    assert (long["usage"]["completion_tokens"], short["usage"]["completion_tokens"]) == (12, 3)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": "gpt-4"}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages.0.content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages.0.role"),
        ({"messages": [message("x" * 9000)]}, "messages.0.content"),
        ({"messages": [message("<|im_end|>")]}, "messages.0.content"),
        ({"messages": [message("x\0y")]}, "messages.0.content"),
        ({"messages": [message("\ud800")]}, "messages.0.content"),
        ({"messages": [message("x", "data:image/png;base64,!!!")]}, "messages.0.content.0.image_url.url"),
        ({"messages": [message("x", "data:image/png;base64,aGFsbG8=")]}, "messages.0.content.0.image_url.url"),
        ({"messages": [message("x", "file:///etc/passwd")]}, "messages.0.content.0.image_url.url"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 100_000}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"vledit": {"explane": True}}, "vledit.explane"),
    ],
)
def test_bad_input_names_the_field(client: TestClient, change: dict, field: str):
    body = {"model": "tiny-pocket", "messages": [message()], **change}
    response = client.post(
        "/v1/chat/completions", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == field, error
    assert "Traceback" not in response.text


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_command_of_the_readme_works(make: Make, tmp_path: Path):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (command,) = [block for block in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL) if "chat/completions" in block]
    (tmp_path / "demo").mkdir()
    picture(2).save(tmp_path / "demo" / "apple.png")
    with running(make()) as address:
        command = command.replace("http://127.0.0.1:8000", address).replace('"pocket"', '"tiny-pocket"')
        ran = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    answer = json.loads(ran.stdout)
    assert answer["choices"][0]["message"]["content"] is not None, answer
    assert answer["vledit"]["fired"] is False
