"""What holds for every editor that cites edits from a memory, on tiny models of some families: mechanics, no meaning.

The contract suite asks that an edit teaches a random model its answer; an edit that is read in context cannot do that, so what
the suite asks beyond it is asked here.
"""

import pytest
import torch

from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.data.case import EditRequest
from vledit.editors import features
from vledit.editors.edited_model import EditedModel
from vledit.editors.registry import editor
from vledit.errors import CodebookError, InputError, MissingDataError

from .retrieving import REQUEST, ROWS, Words, fitted, logits

EDITORS = {
    "hice": {"fit": {"features": 40}, "edit": {"gate": "edit", "demonstrations": 1}},
    "serac": {"fit": {"steps": 40, "scope_rate": 0.01, "layers": 2, "rank": 2, "width": 8}, "edit": {}},
    "lte": {"fit": {"steps": 3, "layers": 2, "rank": 2}, "edit": {}},
}
FAMILIES = ("blip2", "qwen2_5_vl", "llava")


@pytest.fixture(autouse=True)
def words(monkeypatch):
    monkeypatch.setattr(features, "encoder", lambda name: Words())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(editor, family) → the folder of its fitting, made once."""
    made = {}

    def folder(name, family):
        if (name, family) not in made:
            place = tmp_path_factory.mktemp(f"{name}-{family}")
            made[name, family] = fitted(name, tiny(family), place, **EDITORS[name]["fit"])
        return made[name, family]

    return folder


@pytest.fixture(params=EDITORS)
def name(request):
    return request.param


@pytest.fixture(params=FAMILIES)
def held(request, name, folders):
    """An edited model with one edit, which fires on its own request."""
    vlm = tiny(request.param)
    model = EditedModel(vlm)
    model.edit(REQUEST, name, fitted=str(folders(name, request.param)), **EDITORS[name]["edit"])
    assert model.route([REQUEST.image], [REQUEST.question])[0].fired
    return model


def test_the_edit_acts_where_it_is_cited_and_elsewhere_the_bases_bits_remain(held):
    base = EditedModel(held.vlm)
    seen = set()
    for decision, image, question in zip(held.route(*ROWS), *ROWS, strict=True):
        same = torch.equal(logits(held, image, question), logits(base, image, question))
        assert same != decision.fired
        seen.add(decision.fired)
    assert True in seen


def test_a_batch_is_its_rows_one_by_one_in_any_order(held):
    images, questions = ROWS
    order = [2, 0, 1]
    together = held.answers(images, questions, 4)
    turned = held.answers([images[i] for i in order], [questions[i] for i in order], 4)
    for place, row in enumerate(order):
        assert turned[place].text == together[row].text == held.answer(images[row], questions[row], 4).text
        assert turned[place].decision == together[row].decision


def test_removed_disabled_or_restored_every_bit_is_what_it_should_be(held):
    base = EditedModel(held.vlm)
    before, edited = logits(base, *_first()), logits(held, *_first())
    (id,) = held.edits()
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in held.vlm.model.modules())
    with held.disable():
        assert torch.equal(logits(held, *_first()), before)
    held.remove(id)
    assert torch.equal(logits(held, *_first()), before)
    held.restore(id)
    assert torch.equal(logits(held, *_first()), edited)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in held.vlm.model.modules()) == hooks
    with pytest.raises(InputError, match="cannot be merged"):
        held.merge()


def test_saved_edits_decide_and_answer_alike_without_the_folder_of_the_fitting(held, name, tmp_path):
    decisions, expected = held.route(*ROWS), logits(held, *_first())
    held.memories[name].settings["fitted"] = str(tmp_path / "gone")
    held.save_pretrained(tmp_path / "saved")
    again = EditedModel.from_pretrained(held.vlm, tmp_path / "saved")
    assert again.route(*ROWS) == decisions
    assert torch.equal(logits(again, *_first()), expected)
    data = (tmp_path / "saved" / "memories" / name / "memory.safetensors").read_bytes()
    (tmp_path / "saved" / "memories" / name / "memory.safetensors").write_bytes(data[:-1])
    with pytest.raises(CodebookError, match="damaged"):
        EditedModel.from_pretrained(held.vlm, tmp_path / "saved")


def test_with_a_cache_without_one_and_forced_the_answer_is_the_same(held):
    runs = []
    for use_cache in (True, False):
        options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "use_cache": use_cache}
        runs.append(held.generate([REQUEST.image], [REQUEST.question], **options).tolist())
    assert runs[0] == runs[1]
    text = held.answer(*_first(), 3).text
    if text:
        rivals = held.verify([REQUEST.image] * 2, [REQUEST.question] * 2, [text, "nothing at all"])
        assert not rivals.exact[1]


def test_the_same_fact_with_a_new_answer_wins_and_the_old_one_comes_back(held, name):
    model = held
    (old,) = model.edits()
    settings = dict(model.memories[name].settings)
    again = model.edit(REQUEST, name, **settings)
    assert again.relation.kind == "same"
    before = logits(model, *_first())
    newer = model.edit(EditRequest(REQUEST.image, REQUEST.question, "the beach"), name, **settings)
    assert newer.relation.retires == (old,)
    assert model.route([REQUEST.image], [REQUEST.question])[0].entry == newer.id
    model.remove(newer.id)
    assert torch.equal(logits(model, *_first()), before)


def test_no_decision_sees_an_answer(held):
    """Whatever is forced behind a prompt, the decision is that of the prompt alone."""
    images, questions = ROWS
    expected = held.route(images, questions)
    from vledit.editors.answering import forced

    for answers in (["two cups"] * 3, ["what is it", "a cat", "tea"]):
        found = {}
        for rows, _, _, decisions in forced(held.deciders(), images, questions, answers):
            found |= dict(zip(rows, decisions, strict=True))
        assert [found[row] for row in range(3)] == expected


def test_a_fact_without_a_picture_can_be_edited(name, folders):
    vlm = tiny("blip2")
    model = EditedModel(vlm)
    settings = {**EDITORS[name]["edit"], "fitted": str(folders(name, "blip2"))}
    model.edit(EditRequest(None, QUESTIONS[2], "tea"), name, **settings)
    assert model.route([None], [QUESTIONS[2]])[0].nearest is not None
    with pytest.raises(InputError, match="answer"):
        model.edit(EditRequest(picture(3), QUESTIONS[2], " "), name, **settings)


def test_without_a_fitting_the_error_says_how_to_make_one(name, tmp_path, monkeypatch):
    monkeypatch.setenv("VLEDIT_CACHE", str(tmp_path))
    with pytest.raises(MissingDataError, match=f"vledit fit --editor {name}"):
        editor(name, fitted=str(tmp_path / "nothing")).edit(tiny("blip2"), REQUEST)


def _first():
    return ROWS[0][0], ROWS[1][0]
