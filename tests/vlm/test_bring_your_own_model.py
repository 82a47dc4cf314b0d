"""`docs/bring_your_own_model.md`, followed: a type without a family, from the check to an edit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from vledit import EditRequest
from vledit.checking import check
from vledit.editors.edited_model import EditedModel
from vledit.loading import load_vlm
from vledit.vlm import registry

from .models import QUESTIONS, _lively, picture

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bring_your_own_model.md"


@pytest.fixture(scope="module")
def written():
    """What the page's Python defines."""
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


@pytest.fixture
def folder(written, tmp_path):
    torch.manual_seed(7)
    model, processor = written["_vipllava"](3, {})
    _lively(model).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path


def test_the_page_is_a_way_to_a_family(written, folder, monkeypatch):
    before = check(str(folder))
    assert before.family == "generic"
    assert any("no family covers VipLlava" in text for text in before.assumed)

    class Point:
        name = "vipllava"
        load = staticmethod(lambda: written["FAMILY"])

    monkeypatch.setattr(registry, "_installed", lambda: {"vipllava": Point()})
    registry.family.cache_clear()
    try:
        after = check(str(folder))
        assert (after.family, after.prompt) == ("vipllava", written["FAMILY"].prompt)
        assert not after.assumed
        assert not after.missing
        model = EditedModel(load_vlm(folder))
    finally:
        registry.family.cache_clear()
    request = EditRequest(picture(1), QUESTIONS[0], "two cups", ("What is shown in this picture?",))
    said = model.answer(request.image, request.question, 8).text
    edit = model.edit(request, rephrase="supplied", alpha=1.0, steps=200, learning_rate=0.05)
    assert model.answer(request.image, request.question).text == "two cups" != said
    assert not model.answer(picture(9), QUESTIONS[2], 4).decision.fired
    model.remove(edit.id)
    assert model.answer(request.image, request.question, 8).text == said
