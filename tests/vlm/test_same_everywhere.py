"""Models answer alike everywhere: tiny ones are the same wherever they are built, convolutions on a GPU are exact; and a question
too long for a model gets a warning."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from vledit.vlm.exact import exact_convolutions

from .models import QUESTIONS, build, picture, tiny


def test_instructblip_is_built_the_same_twice_and_in_another_process():
    first = build("instructblip")
    assert build("instructblip").fingerprint == first.fingerprint
    code = "from tests.vlm.models import build; print(build('instructblip').fingerprint)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert other.strip() == first.fingerprint


def test_a_question_longer_than_the_training_gets_a_warning(recwarn):
    vlm = build("pocket")
    vlm._prompter.trained_tokens = 20
    vlm.prompt("What is it?", True)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="more than the 20 that the model was trained with"):
        vlm.prompt("What is it? " * 6, True)


def test_the_family_says_how_long_its_training_was():
    family = replace(tiny("pocket").family, trained_tokens=7)
    assert tiny("pocket")._prompter.trained_tokens == tiny("pocket").family.trained_tokens == 128
    assert family.trained_tokens == 7


@pytest.mark.parametrize("before", [True, False])
def test_convolutions_on_a_gpu_are_exact_within_a_call_and_as_the_caller_had_them_after_it(monkeypatch, before):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
    with exact_convolutions(torch.device("cpu")):
        assert torch.backends.cudnn.allow_tf32 is before
    with exact_convolutions(torch.device("cuda", 0)):
        assert torch.backends.cudnn.allow_tf32 is False
    assert torch.backends.cudnn.allow_tf32 is before


def test_a_model_asks_for_exact_convolutions_on_its_own_device_wherever_pictures_are_read(monkeypatch):
    asked = []
    for module in ("base", "running"):
        monkeypatch.setattr(
            f"vledit.vlm.{module}.exact_convolutions", lambda device: asked.append(device) or nullcontext()
        )
    vlm = tiny("pocket")
    vlm.trunk(vlm.encode([picture(0)], QUESTIONS[:1]), 1)
    assert asked
    assert set(asked) == {vlm.device}
