"""What every editor must do, on every family: the edit fires, undo is exact, kept edits come back, rows do not mix."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.vlm.models import QUESTIONS, picture
from vledit.codebook import Codebook
from vledit.data.case import EditRequest
from vledit.editors.edited_model import EditedModel
from vledit.editors.registry import editor, editor_class, known
from vledit.errors import EditFailedError, InputError, ModelMismatchError, UnknownNameError

SETTINGS = {"steps": 200, "learning_rate": 0.05, "margin": 1.0, "rephrase": "supplied", "common_directions": 4}
METHODS = [("balancedit", "full"), ("balancedit", "span"), ("ft", "full"), ("ft", "span")]
REQUEST = EditRequest(picture(1), QUESTIONS[0], "two cups", ("What can be seen in the picture?",))


def settings(name: str, transformation: str) -> dict:
    chosen = {**SETTINGS, "transformation": transformation}
    if transformation == "span":
        chosen["learning_rate"] = 1.0
    return chosen if name == "balancedit" else {k: v for k, v in chosen.items() if k != "rephrase"}


def made(vlm, name="balancedit", transformation="full", request=REQUEST, **more):
    model = EditedModel(vlm)
    model.edit(request, name, **{**settings(name, transformation), **more})
    return model


def logits(model: EditedModel, image, question: str) -> torch.Tensor:
    """First-token logits of the edited model for one request."""
    out = model.generate(
        [image], [question], max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    return out.logits[0]


@pytest.mark.parametrize(("name", "transformation"), METHODS)
def test_the_edit_fires_and_undo_is_bit_exact(vlm, name, transformation):
    model = EditedModel(vlm)
    before = logits(model, REQUEST.image, REQUEST.question)
    weights = {n: p.clone() for n, p in vlm.model.state_dict().items()}
    edit = model.edit(REQUEST, name, **settings(name, transformation))
    assert model.answer(REQUEST.image, REQUEST.question).text == "two cups"
    assert not torch.equal(before, logits(model, REQUEST.image, REQUEST.question))
    with model.disable():
        assert torch.equal(before, logits(model, REQUEST.image, REQUEST.question))
    model.remove(edit.id)
    assert torch.equal(before, logits(model, REQUEST.image, REQUEST.question))
    assert all(torch.equal(weights[n], p) for n, p in vlm.model.state_dict().items())


def test_a_request_outside_the_radius_is_answered_by_the_base(vlm):
    model = made(vlm, alpha=1.0)
    far = (picture(9), QUESTIONS[2])
    decision = model.route([far[0]], [far[1]])[0]
    assert not decision.fired
    assert decision.distance > decision.radius
    base = EditedModel(vlm)
    assert torch.equal(logits(model, *far), logits(base, *far))


@pytest.mark.parametrize("transformation", ["full", "span"])
def test_saved_edits_come_back_with_the_same_logits(vlm, transformation, tmp_path):
    model = made(vlm, transformation=transformation)
    model.save_pretrained(tmp_path)
    again = EditedModel.from_pretrained(vlm, tmp_path)
    assert torch.equal(logits(model, REQUEST.image, REQUEST.question), logits(again, REQUEST.image, REQUEST.question))


def test_removed_entries_are_restored_bit_for_bit(vlm):
    model = made(vlm)
    id = model.codebook.active()[0].id
    before = logits(model, REQUEST.image, REQUEST.question)
    model.remove(id)
    model.restore(id)
    assert torch.equal(before, logits(model, REQUEST.image, REQUEST.question))


def test_rows_of_a_mixed_batch_are_answered_as_one_by_one(vlm):
    model = made(vlm, alpha=1.0)
    rows = [
        (REQUEST.image, REQUEST.question),
        (picture(9), QUESTIONS[2]),
        (None, QUESTIONS[1]),
        (picture(4), QUESTIONS[1]),
    ]
    together = model.answers([image for image, _ in rows], [question for _, question in rows], max_new_tokens=6)
    alone = [model.answer(image, question, max_new_tokens=6) for image, question in rows]
    assert [a.text for a in together] == [a.text for a in alone]
    assert [a.decision.fired for a in together] == [a.decision.fired for a in alone]
    assert together[0].decision.fired


def test_beams_keep_the_routing_of_the_prompt(vlm):
    model = made(vlm)
    out = model.generate([REQUEST.image], [REQUEST.question], num_beams=3, max_new_tokens=8, do_sample=False)
    assert "two cups" in vlm.tokenizer.decode(out[0], skip_special_tokens=True)


def test_the_cache_changes_nothing(vlm):
    model = made(vlm)
    sequences = [
        model.generate([REQUEST.image], [REQUEST.question], use_cache=use, max_new_tokens=6, do_sample=False)
        for use in (True, False)
    ]
    assert torch.equal(*sequences)


def test_a_new_answer_to_the_same_question_retires_the_old_entry(vlm):
    model = made(vlm)
    old = model.codebook.active()[0].id
    other = EditRequest(REQUEST.image, REQUEST.question, "the beach", REQUEST.rephrases)
    edit = model.edit(other, **settings("balancedit", "full"))
    assert edit.relation is not None
    assert edit.relation.kind == "conflict"
    assert model.codebook.get(old).status == "retired"
    assert model.answer(REQUEST.image, REQUEST.question).text == "the beach"
    model.remove(edit.id)  # and the old fact is back
    assert model.answer(REQUEST.image, REQUEST.question).text == "two cups"


def test_the_same_fact_with_the_same_answer_changes_nothing(vlm):
    model = made(vlm)
    again = model.edit(replace(REQUEST, answer=" Two  CUPS"), **settings("balancedit", "full"))
    assert again.relation is not None
    assert again.relation.kind == "same"
    assert again.id == model.codebook.active()[0].id
    assert len(model.codebook.entries()) == 1
    assert "already" in again.relation.explanation


NEAR = EditRequest(REQUEST.image, REQUEST.question + " Say it.", "a cat", ("Say what is shown.",))


def made_wide(vlm):
    """A model whose one entry holds every request within its radius."""
    model = EditedModel(vlm)
    edit = editor("balancedit", **settings("balancedit", "full")).edit(vlm, REQUEST)
    scope = replace(edit.entry.scopes[0], radius=1e6)
    model.add(replace(edit, entry=replace(edit.entry, scopes=(scope,))))
    return model, edit.id


def test_what_remains_is_as_if_what_was_removed_had_never_been(vlm):
    """An edit inside another's radius does not hold that one's change: bit for bit, in any order of removal."""
    model, first = made_wide(vlm)
    near, options = NEAR, settings("balancedit", "full")
    edit = model.edit(near, **options)
    assert edit.relation is not None
    assert edit.relation.kind == "overlap"
    both = logits(model, near.image, near.question)
    model.remove(first)
    alone = EditedModel(vlm)
    alone.edit(near, **options)
    assert torch.equal(logits(model, near.image, near.question), logits(alone, near.image, near.question))
    assert torch.equal(logits(model, REQUEST.image, REQUEST.question), logits(alone, REQUEST.image, REQUEST.question))
    model.restore(first)
    assert torch.equal(logits(model, near.image, near.question), both)


def test_the_papers_warm_start_keeps_the_older_edit_from_being_removed_alone(vlm):
    model, first = made_wide(vlm)
    edit = model.edit(NEAR, **settings("balancedit", "full"), start="nearest")
    assert edit.entry is not None
    assert edit.entry.parent == first
    with pytest.raises(InputError, match="cannot be removed alone"):
        model.remove(first)


def test_strict_refuses_what_breaks_an_older_edit(vlm):
    model = EditedModel(vlm)
    model.edit(REQUEST, "ft", **settings("ft", "full"))
    other = EditRequest(REQUEST.image, REQUEST.question, "the beach")
    before = logits(model, REQUEST.image, REQUEST.question)
    with pytest.raises(InputError, match="no longer answer its own request"):
        model.edit(other, "ft", strict=True, **settings("ft", "full"))
    assert len(model.weights) == 1
    assert torch.equal(logits(model, REQUEST.image, REQUEST.question), before)
    assert model.edit(other, "ft", **settings("ft", "full")).breaks == tuple(model.weights)[:1]


def test_an_edit_without_a_picture(vlm):
    request = EditRequest(None, QUESTIONS[2], "tea", ("Who has made this?",))
    model = made(vlm, request=request)
    assert model.answer(None, QUESTIONS[2]).text == "tea"


def test_nothing_accumulates_over_many_edits_and_undos(vlm):
    model = EditedModel(vlm)
    before = logits(model, REQUEST.image, REQUEST.question)
    for _ in range(5):
        edit = model.edit(REQUEST, **settings("balancedit", "span"))
        model.remove(edit.id)
        model.codebook.purge(edit.id)
    assert torch.equal(before, logits(model, REQUEST.image, REQUEST.question))
    assert not model.codebook.entries()


def test_merging_gives_the_weights_that_the_edit_stands_for(vlm):
    model = made(vlm, "ft")
    merged = model.merge()
    encoded = vlm.encode([REQUEST.image], [REQUEST.question])
    with torch.no_grad():
        expected = merged(**encoded.model_inputs).logits[0, -1]
    found = logits(model, REQUEST.image, REQUEST.question)[0]
    assert torch.allclose(found, expected, atol=1e-4)
    with pytest.raises(InputError, match="cannot be merged"):
        made(vlm).merge()


def test_weight_edits_follow_each_other(vlm):
    model = made(vlm, "ft")
    second = EditRequest(picture(5), QUESTIONS[1], "the beach")
    model.edit(second, "ft", **settings("ft", "full"))
    assert model.answer(second.image, second.question).text == "the beach"
    first, newest = model.weights
    with pytest.raises(InputError, match=newest):
        model.remove(first)
    model.remove(newest)
    assert model.answer(REQUEST.image, REQUEST.question).text == "two cups"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"site": "99.mlp.out"}, "layer"),
        ({"site": "0.mlp.middle"}, "mlp"),
        ({"alpha": 2.0}, "alpha"),
        ({"distance": "euclid"}, "euclidean"),
        ({"negative": "blakc"}, "black"),
        ({"stepps": 3}, "steps"),
        ({"transformation": "ful"}, "full"),
    ],
)
def test_unfit_settings_are_refused_by_name(vlm, changes, message):
    with pytest.raises(InputError, match=message):
        made(vlm, **changes)


@pytest.mark.parametrize("name", ["balancedit", "ft"])
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("transformation", "ful"),
        ("steps", 0),
        ("learning_rate", -1.0),
        ("learning_rate", float("nan")),
        ("margin", -1.0),
        ("margin", float("nan")),
        ("common_directions", -1),
    ],
)
def test_unfit_settings_of_the_transformation_are_refused_by_every_editor_that_trains_one(name, setting, value):
    with pytest.raises(InputError, match=setting):
        editor(name, **{setting: value})


@pytest.mark.parametrize(("answer", "message"), [("", "answer"), ("   ", "answer"), ("tea " * 200, "answer")])
def test_unfit_answers_are_refused(vlm, answer, message):
    model = EditedModel(vlm)
    with pytest.raises(InputError, match=message):
        model.edit(EditRequest(picture(1), QUESTIONS[0], answer, ("What is it?",)), rephrase="supplied")
    assert not model.codebook.entries()


def test_an_answer_that_is_not_learnt_is_an_error_and_leaves_nothing(vlm):
    model = EditedModel(vlm)
    with pytest.raises(EditFailedError, match="learning_rate"):
        model.edit(REQUEST, steps=1, learning_rate=1e-9, rephrase="supplied")
    assert not model.codebook.entries()


def test_another_models_codebook_is_refused(tmp_path):
    from tests.vlm.models import tiny

    made(tiny("blip2")).save_pretrained(tmp_path)
    with pytest.raises(ModelMismatchError):
        EditedModel.from_pretrained(tiny("minigpt4"), tmp_path)


def test_unknown_editors_suggest_the_near_miss():
    with pytest.raises(UnknownNameError, match="Did you mean 'balancedit'"):
        editor("balancedt")
    assert {"balancedit", "ft"} <= set(known())
    assert editor_class("ft").name == "ft"


def test_the_key_never_sees_the_answer(vlm):
    """Two edits that differ in the answer alone have the same key and radius, up to rounding: it stands behind the prompt."""

    def made(answer, key_tokens):
        request = EditRequest(REQUEST.image, REQUEST.question, answer, REQUEST.rephrases)
        return editor("balancedit", **settings("balancedit", "span") | {"key_tokens": key_tokens}).edit(vlm, request)

    def away(key_tokens):
        first, second = (made(answer, key_tokens).entry for answer in ("two cups", "the beach on a"))
        key = np.linalg.norm(first.key - second.key) / np.linalg.norm(first.key)
        return max(float(key), abs(first.radius - second.radius) / first.radius)

    assert away("mean") < 1e-5
    assert away("prompt+answer") > 1e-2  # what a look at the answer would do


def test_a_codebook_in_memory_knows_its_model(vlm):
    assert isinstance(EditedModel(vlm).codebook, Codebook)
    assert EditedModel(vlm).codebook.fingerprint == vlm.fingerprint
