"""Every editor within what callers have switched on: edits, answers, files and exports are those of a call without it.

`tests/editors/test_habits.py` holds the same for everything that the first editors and the model itself offer.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch

from tests.editors.test_habits import AROUND
from tests.vlm.models import tiny
from vledit.editors.edited_model import EditedModel
from vledit.errors import VLEditError

from .rows import EDITORS, REQUEST
from .test_contract_attached import called

FAMILY = "llava"
CELLS = [(editor, around) for editor in EDITORS for around in AROUND]
CHOSEN = [
    (name, list(AROUND)[place % len(AROUND)])
    for place, name in enumerate(name for name, row in EDITORS.items() if not row.fitting or name == "mend")
]
"""Run without `--whole`: editors that need no long fitting once each, each thing around one or two of them."""


def everything(method, folder) -> dict[str, object]:
    """What every public call says of one edit, made here and now."""
    vlm = tiny(FAMILY)
    asked = REQUEST.image, REQUEST.question
    model = EditedModel(vlm)
    said: dict[str, object] = {"base": model.answer(*asked, 6).text}
    edit = model.add(model.make(method, REQUEST))
    said["edited"] = [answer.text for answer in model.answers([REQUEST.image, None], [REQUEST.question] * 2, 6)]
    said["verified"] = model.verify([REQUEST.image], [REQUEST.question], [REQUEST.answer]).exact.tolist()
    said["routed"] = [decision.fired for decision in model.route([REQUEST.image], [REQUEST.question])]
    said["generated"] = model.generate([REQUEST.image], [REQUEST.question], max_new_tokens=4, do_sample=False).tolist()
    said["attached"] = _or_why(lambda: _through_the_class(model))
    said["merged"] = _or_why(lambda: type(model.merge()).__name__)
    said["adapter"] = _or_why(lambda: sorted(model.export_peft(folder / "adapter").ranks.values()))
    said["folder"] = _or_why(
        lambda: sorted(one.name for one in model.export_merged(folder / "merged").folder.iterdir())
    )
    model.save_pretrained(folder / "edits")
    again = EditedModel.from_pretrained(vlm, folder / "edits")
    said["loaded"] = again.answer(*asked).text
    again.codebook.close()
    with model.disable():
        said["disabled"] = model.answer(*asked, 6).text
    model.remove(edit.id)
    said["removed"] = model.answer(*asked, 6).text
    return said


def _through_the_class(model: EditedModel) -> str:
    with (
        model.attached() as hf_model,
        torch.device("cpu"),
    ):  # transformers' own call makes tensors on the default device
        return called(model.vlm, hf_model, REQUEST.image, REQUEST.question)


def _or_why(call) -> object:
    """What a call gives, or the error that a user reads; another error than ours goes on."""
    try:
        return call()
    except VLEditError as error:
        return str(error)


@cache
def ordinary(name: str, folder) -> dict[str, object]:
    return everything(EDITORS[name].method(tiny(FAMILY)), folder)


@pytest.mark.parametrize(("name", "around"), CELLS)
def test_an_editor_works_alike_within(name, around, tmp_path_factory):
    expected = ordinary(name, tmp_path_factory.getbasetemp())
    method = EDITORS[name].method(tiny(FAMILY))
    with AROUND[around]():
        said = everything(method, tmp_path_factory.mktemp("within"))
    if around == "autocast":  # it computes in bfloat16: what can be done, and undo, are the same
        for what in ("merged", "adapter", "folder"):
            assert said[what] == expected[what]
        assert said["removed"] == said["base"] == said["disabled"]
    else:
        assert said == expected
    assert expected["removed"] == expected["base"] == expected["disabled"]


def test_the_choice_has_everything_around():
    assert {around for _, around in CHOSEN} == set(AROUND)
    assert {editor for editor, _ in CHOSEN} >= {name for name, row in EDITORS.items() if not row.fitting}
