"""Tiny models are the same wherever and however often they are built; a question too long for a model gets a warning."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from .models import build, tiny


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
