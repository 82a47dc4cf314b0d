"""Always-on edits: how they add up, and that a folder gives them back or says what is wrong with it."""

import json

import pytest
import torch

from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.data.case import EditRequest
from vledit.editors import weights
from vledit.editors.edited_model import EditedModel
from vledit.editors.registry import editor
from vledit.errors import CodebookError, InputError, ModelMismatchError

from .test_editing import REQUEST, logits, settings

OTHER = EditRequest(picture(5), QUESTIONS[1], "the beach", ("Which one is it?",))
ASKED = ((REQUEST.image, REQUEST.question), (OTHER.image, OTHER.question))


@pytest.fixture
def small():
    return tiny("minigpt4")


def trained(vlm, request, **more):
    return editor("ft", **{**settings("ft", "full"), **more}).edit(vlm, request)


def with_edits(vlm, *edits):
    model = EditedModel(vlm)
    for edit in edits:
        model.add(edit)
    return model


def same(first: EditedModel, second: EditedModel) -> bool:
    return all(torch.equal(logits(first, *row), logits(second, *row)) for row in ASKED)


def test_edits_made_by_themselves_add_up(small):
    site = str(small.default_site)
    edits = [trained(small, REQUEST), trained(small, OTHER)]
    both = with_edits(small, *edits)
    total = weights.changes(both.weights)[site].weight_delta
    assert torch.equal(total, edits[0].weights[site].weight_delta + edits[1].weights[site].weight_delta)
    both.remove(edits[0].id)  # nothing was built on it
    assert same(both, with_edits(small, edits[1]))


def test_an_edit_on_top_of_others_holds_them(small):
    model = with_edits(small, trained(small, REQUEST))
    later = model.edit(OTHER, "ft", **settings("ft", "full"))
    site = str(small.default_site)
    assert later.parent == next(iter(model.weights))
    assert torch.equal(weights.changes(model.weights)[site].weight_delta, later.weights[site].weight_delta)
    with pytest.raises(InputError, match="on top of"):
        with_edits(small, later)


def test_edits_of_different_sites_act_together(small):
    lower = trained(small, REQUEST, site="0.mlp.up")
    upper = trained(small, OTHER)
    model = with_edits(small, lower, upper)
    merged = EditedModel(type(small)(model.merge(), small.processor, small.family))
    for row in ASKED:
        assert torch.allclose(logits(model, *row), logits(merged, *row), atol=1e-4)
        assert not torch.allclose(logits(model, *row), logits(with_edits(small, upper), *row), atol=1e-4)


def test_entries_of_different_sites_answer_one_batch(small):
    model = EditedModel(small)
    chosen = settings("balancedit", "full") | {"alpha": 1.0}
    model.edit(REQUEST, **chosen, site="0.mlp.up")
    model.edit(OTHER, **chosen)
    images, questions = zip(*ASKED, (None, QUESTIONS[2]), strict=True)
    answers = model.answers(images, questions, 6)
    assert [answer.decision.site for answer in answers[:2]] == ["0.mlp.up", str(small.default_site)]
    assert [answer.text for answer in answers] == [
        REQUEST.answer,
        OTHER.answer,
        EditedModel(small).answer(None, QUESTIONS[2], 6).text,
    ]
    assert model.generate(images, questions, max_new_tokens=2).shape[0] == 3


@pytest.fixture
def kept(small, tmp_path):
    """A model with two weight edits, and the folder that it was written to."""
    model = with_edits(small, trained(small, REQUEST))
    model.edit(OTHER, "ft", **settings("ft", "full"))
    model.save_pretrained(tmp_path)
    return model, tmp_path


def test_a_folder_gives_the_edits_back(kept, small, tmp_path_factory):
    model, folder = kept
    again = EditedModel.from_pretrained(small, folder)
    assert same(model, again)
    assert list(again.weights) == list(model.weights)
    newest = list(again.weights)[-1]
    assert again.weights[newest].parent == next(iter(model.weights))
    assert again.weights[newest].request.answer == OTHER.answer
    # what was read can be written again, without the pictures that only the first had
    second = tmp_path_factory.mktemp("second")
    again.save_pretrained(second)
    assert (second / weights.CONFIG_FILE).read_bytes() == (folder / weights.CONFIG_FILE).read_bytes()
    again.remove(newest)
    again.remove(next(iter(again.weights)))
    assert same(again, EditedModel(small))
    again.save_pretrained(second)
    assert not (second / weights.CONFIG_FILE).exists()
    assert not EditedModel.from_pretrained(small, second).weights


def test_another_models_weight_edits_are_refused(kept):
    with pytest.raises(ModelMismatchError, match="tiny-minigpt4"):
        EditedModel.from_pretrained(tiny("pocket"), kept[1])


def _cut(folder):
    path = folder / weights.WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-9])


def _flip(folder):
    path = folder / weights.WEIGHTS_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def _newer(folder):
    path = folder / weights.CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": weights.SCHEMA + 1}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_cut, "damaged"),
        (_flip, "damaged"),
        (_newer, "upgrade"),
        (lambda folder: (folder / weights.WEIGHTS_FILE).unlink(), "cannot be read"),
        (lambda folder: (folder / weights.CONFIG_FILE).write_text("{"), "cannot be read"),
        (lambda folder: (folder / weights.CONFIG_FILE).write_text("[]"), "cannot be read"),
        (lambda folder: (folder / "codebook.vledit").unlink(), "there is no codebook"),
    ],
    ids=["cut off", "a flipped bit", "a newer schema", "no weights", "half a file", "another file", "no codebook"],
)
def test_a_damaged_folder_is_told(kept, small, harm, message):
    harm(kept[1])
    with pytest.raises(CodebookError, match=message):
        EditedModel.from_pretrained(small, kept[1])
