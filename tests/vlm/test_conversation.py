"""Conversations are written as each family writes a question; what is spoken is heard token by token."""

from __future__ import annotations

import pytest
import torch

from vledit.errors import InputError
from vledit.vlm.conversation import Turn, encode_conversations
from vledit.vlm.spoken import spoken

from .models import picture, tiny

FAMILIES = ("pocket", "qwen2_vl", "llava", "minigpt4")
QUESTION = "Which animal is this?"


@pytest.mark.parametrize("family", FAMILIES)
def test_one_turn_is_the_prompt_itself(family: str):
    vlm = tiny(family)
    alone = vlm.encode([picture(1)], [QUESTION])
    told = encode_conversations(vlm, [[Turn(QUESTION, (picture(1),))]])
    assert alone.model_inputs.keys() == told.model_inputs.keys()
    assert all(torch.equal(alone.model_inputs[name], told.model_inputs[name]) for name in alone.model_inputs)
    assert torch.equal(alone.question_mask, told.question_mask)


@pytest.mark.parametrize(
    ("family", "end"),
    [
        ("pocket", "a cat<|im_end|>\n<|im_start|>user\nWhich animal is this?<|im_end|>\n<|im_start|>assistant\n"),
        ("qwen2_vl", "a cat<|im_end|>\n<|im_start|>user\nWhich animal is this?<|im_end|>\n<|im_start|>assistant\n"),
        ("llava", "ASSISTANT: a cat</s> USER: Which animal is this? ASSISTANT:"),
        ("minigpt4", "###Assistant: a cat###Human: Which animal is this? ###Assistant:"),
    ],
)
def test_turns_follow_each_other_as_the_template_has_them(family: str, end: str):
    vlm = tiny(family)
    turns = [Turn("What is it?", (picture(1), picture(2)), "a cat"), Turn(QUESTION, ())]
    encoded = encode_conversations(vlm, [turns])
    assert vlm.tokenizer.decode(encoded.input_ids[0]).endswith(end)
    assert int(encoded.visual_mask.sum()) > 0


def test_an_answer_is_wanted_in_every_turn_but_the_last():
    for turns in ([], [Turn("a"), Turn("b")], [Turn("a", answer="b")]):
        with pytest.raises(InputError, match="turns"):
            encode_conversations(tiny("pocket"), [turns])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_heard_is_what_is_answered(family: str):
    vlm = tiny(family)
    settled: list[list[str]] = [[], []]

    def heard(said) -> None:
        for row in range(2):
            settled[row].append(said.settled(row))

    with spoken(vlm, 2, heard) as said:
        answers = vlm.answer([picture(1), None], [QUESTION, QUESTION], 12)
    assert answers == [said.text(0), said.text(1)]
    assert all(answer.startswith(text) for row, answer in enumerate(answers) for text in settled[row])
