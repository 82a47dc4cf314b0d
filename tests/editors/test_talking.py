"""Streams give the answer piece by piece and leave nothing behind; messages are the conversation that they say."""

from __future__ import annotations

import base64
import io
import threading

import pytest

from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.data.case import EditRequest
from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError, PictureError
from vledit.vlm.conversation import Turn, encode_conversations
from vledit.vlm.messages import read_messages

SETTINGS = {"steps": 200, "learning_rate": 0.05, "margin": 1.0, "rephrase": "supplied", "alpha": 1.0}
FAMILIES = ("pocket", "qwen2_vl", "llava", "minigpt4")


@pytest.fixture(scope="module")
def edited():
    model = EditedModel(tiny("pocket"))
    model.edit(EditRequest(picture(2), QUESTIONS[0], "two cups of tea", ("What can be seen?",), "cups"), **SETTINGS)
    return model


def user(text, *images):
    return {
        "role": "user",
        "content": [*({"type": "image", "image": one} for one in images), {"type": "text", "text": text}],
    }


def threads():
    return [one for one in threading.enumerate() if one.name == "vledit-stream"]


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_put_together_are_the_answer(family):
    model = EditedModel(tiny(family))
    pieces = list(model.stream(picture(1), QUESTIONS[0], 12))
    assert "".join(pieces) == model.answer(picture(1), QUESTIONS[0], 12).text
    assert len(pieces) > 1


def test_pieces_come_while_the_model_speaks_and_the_answer_explains_itself(edited):
    stream = edited.stream(picture(2), QUESTIONS[0])
    assert next(stream) != "two cups of tea"
    assert stream.answer is None
    list(stream)
    assert stream.answer.text == "two cups of tea"
    assert stream.answer.decision.entry == "cups"
    assert not threads()


def test_a_stream_that_is_left_ends_the_answer(edited):
    heard = []
    for piece in (stream := edited.stream(picture(1), QUESTIONS[0], 64)):
        heard.append(piece)
        break
    stream.close()
    assert not threads()
    assert stream.answer is None
    assert len(heard) == 1
    assert edited.answer(picture(2), QUESTIONS[0]).text == "two cups of tea"  # the model is free again
    assert not edited.vlm.anatomy.lm_head._forward_hooks


def test_a_stream_within_disable_is_the_bases(edited):
    with edited.disable():
        text = "".join(edited.stream(picture(2), QUESTIONS[0], 12))
        assert text == edited.answer(picture(2), QUESTIONS[0], 12).text
    assert text != "two cups of tea"


def test_errors_reach_whoever_listens(edited):
    with pytest.raises(PictureError, match=r"no file"):
        list(edited.stream("nowhere.png", QUESTIONS[0]))
    with pytest.raises(InputError, match="messages"):
        edited.stream_chat([])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_chat_is_the_conversation_in_the_familys_template(family):
    model = EditedModel(tiny(family))
    messages = [
        {"role": "system", "content": "Answer in one word."},
        user("What is it?", picture(1)),
        {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]},
        user("And this?", picture(2), picture(3)),
        {"role": "assistant", "content": "two cups"},
        user("Who made them?"),
    ]
    turns = [
        Turn("What is it?", (picture(1),), "a cat", "Answer in one word."),
        Turn("And this?", (picture(2), picture(3)), "two cups"),
        Turn("Who made them?"),
    ]
    wanted = model.vlm.answer_encoded(encode_conversations(model.vlm, [turns]), 8)[0]
    assert model.chat(messages, max_new_tokens=8).text == wanted
    assert "".join(model.stream_chat(messages, max_new_tokens=8)) == wanted


def test_an_edit_answers_in_a_conversation_as_it_does_alone(edited):
    chat = [user("Is there a cup?", picture(1)), {"role": "assistant", "content": "no"}, user(QUESTIONS[0], picture(2))]
    answer = edited.chat(chat)
    assert (answer.decision.entry, answer.decision.fired) == ("cups", True)
    assert edited.chat(chat[2:]).text == "two cups of tea"  # one turn is the question itself
    whole = edited.chat(chat, look_up="conversation")
    assert whole.decision.distance > answer.decision.distance
    with edited.disable():
        assert not edited.chat(chat).decision.fired
    with pytest.raises(InputError, match="look_up"):
        edited.chat(chat, look_up="all")


def test_text_put_into_the_prompt_stands_around_the_last_question(monkeypatch, edited):
    from vledit.editors import talking
    from vledit.editors.effect import Effect, Insert, decided

    effect = Effect(decided("demo", "a demonstration"), insert=Insert("Known: a cup. ", " Say it."))
    monkeypatch.setattr(EditedModel, "effects", lambda self, images, questions: [effect])
    seen = []
    real = talking.encode_conversations
    monkeypatch.setattr(talking, "encode_conversations", lambda vlm, rows: seen.append(rows) or real(vlm, rows))
    edited.chat([user("A?"), {"role": "assistant", "content": "b"}, user("C?")], max_new_tokens=2)
    assert [turn.question for turn in seen[0][0]] == ["A?", "Known: a cup. C? Say it."]


def test_pictures_in_every_form_that_messages_have():
    stream = io.BytesIO()
    picture(1).save(stream, "PNG")
    text = base64.b64encode(stream.getvalue()).decode()
    parts = [
        {"type": "image", "image": picture(1)},
        {"type": "image", "url": f"data:image/png;base64,{text}"},
        {"type": "image", "base64": text},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}},
        {"type": "image", "path": "cup.png"},
        {"type": "image"},
        {"type": "text", "text": "What?"},
    ]
    (turn,) = read_messages([{"role": "user", "content": parts}], images=["waiting.png"])
    assert turn.images == (picture(1), *[stream.getvalue()] * 3, "cup.png", "waiting.png")
    assert turn.question == "What?"


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("Who?", "messages: a list"),
        ([{"role": "user"}], "messages.0: a mapping"),
        ([{"role": "robot", "content": "a"}], "messages.0.role: 'robot'"),
        ([{"role": "user", "content": 3}], "messages.0.content: a text or a list"),
        ([{"role": "user", "content": []}], "messages.0.content: no text"),
        ([{"role": "user", "content": [{"type": "video"}]}], "messages.0.content.0.type: 'video'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages.0.content.0.text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "there is no picture"),
        ([{"role": "user", "content": [{"type": "image", "url": "https://x.org/a.png"}]}], "not fetched"),
        ([{"role": "user", "content": [{"type": "image", "base64": "!"}]}], "not valid base64"),
        ([{"role": "assistant", "content": "a"}], "must follow a user's"),
        ([user("a"), {"role": "system", "content": "b"}], "must stand before all others"),
        ([user("a"), {"role": "assistant", "content": "b"}], "the last message must be a user's"),
        (
            [{"role": "system", "content": [{"type": "image", "image": 1}, {"type": "text", "text": "a"}]}],
            "only users'",
        ),
    ],
)
def test_messages_that_are_refused(messages, words):
    with pytest.raises(InputError) as caught:
        read_messages(messages)
    assert words in str(caught.value)


def test_pictures_that_nobody_asks_for():
    with pytest.raises(InputError, match="1 more"):
        read_messages([user("a")], images=["b.png"])
