"""IKE: what stands in the prompt, which edit is cited, and that no reference answer is seen."""

import numpy as np
import pytest
import torch

from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.data.case import EditCase, EditRequest, Probe
from vledit.editors.edited_model import EditedModel
from vledit.editors.ike import Ike, IkeFit, demonstrations_of, nearness, prefix
from vledit.editors.registry import editor
from vledit.editors.training.fitting import Fitting

REQUEST = EditRequest(picture(1), QUESTIONS[0], "two cups", ("What can be seen?",))
OTHER = EditRequest(None, QUESTIONS[1], "tea")


class Words:
    """A sentence encoder for tests: every question of `QUESTIONS` has an axis of its own."""

    dim, fingerprint = 4, "words"

    def encode(self, texts):
        rows = np.zeros((len(texts), 4), np.float32)
        for row, text in enumerate(texts):
            rows[row, next((i for i, q in enumerate(QUESTIONS[:3]) if q in text), 3)] = 1
        return rows


@pytest.fixture(autouse=True)
def words(monkeypatch):
    monkeypatch.setattr("vledit.editors.ike.encoder", lambda name: Words())


@pytest.fixture(params=["pocket", "blip2", "qwen2_5_vl"])
def vlm(request):
    return tiny(request.param)


def test_the_prompt_is_demonstrations_then_the_fact_then_the_question():
    made = prefix(["New Fact: a b\nPrompt: a b", "New Fact: c d\nPrompt: e f"], "Who?", "Ann")
    assert made == "New Fact: a b\nPrompt: a b\n\nNew Fact: c d\nPrompt: e f\n\nNew Fact: Who? Ann\nPrompt: "
    assert prefix(["x" * 50, "y" * 50], "Who?", "Ann", longest=90) == f"{'x' * 50}\n\nNew Fact: Who? Ann\nPrompt: "
    assert prefix(["x" * 50], "Who?", "Ann", longest=1) == "New Fact: Who? Ann\nPrompt: "


def test_a_request_is_answered_as_the_base_answers_the_longer_question(vlm):
    model = EditedModel(vlm)
    edit = model.edit(REQUEST, "ike")
    before = edit.payload.meta["before"]
    for image, question in ((picture(1), QUESTIONS[0]), (picture(9), QUESTIONS[2]), (None, QUESTIONS[1])):
        base = EditedModel(vlm).answer(image, before + question, 4).text
        assert model.answer(image, question, 4).text == base
    model.remove(edit.id)
    assert model.answer(picture(1), QUESTIONS[0], 4).text == EditedModel(vlm).answer(picture(1), QUESTIONS[0], 4).text


def test_the_picture_stays_in_the_prompt(vlm):
    model = EditedModel(vlm)
    model.edit(REQUEST, "ike")
    options = {"max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    found = [model.generate([picture(n)], [QUESTIONS[0]], **options).logits[0] for n in (1, 9)]
    assert not torch.equal(*found)


def test_the_nearest_edit_is_cited_by_question_and_picture(vlm):
    model = EditedModel(vlm)
    ids = [model.edit(one, "ike").id for one in (REQUEST, OTHER, EditRequest(picture(2), QUESTIONS[0], "a cat"))]
    asked = [(picture(1), QUESTIONS[0]), (None, QUESTIONS[1]), (picture(2), QUESTIONS[0])]
    assert [model.route([image], [question])[0].entry for image, question in asked] == ids
    assert [one.entry for one in model.route(*map(list, zip(*asked, strict=True)))] == ids


def test_a_gate_leaves_what_is_far_to_the_base(vlm):
    model = EditedModel(vlm)
    model.edit(OTHER, "ike", gate=0.9)
    assert model.answer(None, QUESTIONS[1], 3).decision.fired
    far = model.answer(None, QUESTIONS[2], 3)
    assert not far.decision.fired
    assert far.text == EditedModel(vlm).answer(None, QUESTIONS[2], 3).text


def test_nearness_is_the_mean_of_two_cosines(vlm):
    text = torch.tensor([1.0, 0, 0, 0])
    edits = [{"text": text}, {"text": text, "picture": editor("ike").edit(vlm, REQUEST).payload.tensors["picture"]}]
    found = nearness(vlm, edits, [picture(1), None], [QUESTIONS[0], QUESTIONS[0]], Words())
    assert found[0] == pytest.approx([0.5, 1.0], abs=1e-6)
    assert found[1] == pytest.approx([1.0, 0.5], abs=1e-6)


def test_demonstrations_are_collected_and_the_nearest_are_taken_but_not_the_edit_itself(vlm, tmp_path):
    def case(question, answer, id):
        probes = {"text": (Probe(None, QUESTIONS[2]),)}
        request = EditRequest(None, question, answer, (question + " Say.",), id)
        return EditCase(request=request, generality={}, locality=probes)

    cases = [case(QUESTIONS[0], "two cups", "one"), case(QUESTIONS[1], "tea", "two"), case("How?", "so", "three")]
    found = demonstrations_of(vlm, cases[0])
    assert [one["kind"] for one in found] == ["copy", "update", "retain"]
    assert found[1]["text"] == f"New Fact: {QUESTIONS[0]} two cups\nPrompt: {QUESTIONS[0]} Say. two cups"
    assert Ike.fit(Fitting(vlm, cases, tmp_path, IkeFit(), {}, False, None, None)) == tmp_path
    edit = editor("ike", demonstrations=2, fitted=str(tmp_path)).edit(vlm, REQUEST)
    assert edit.payload.meta["before"].count("New Fact:") == 3
    assert edit.payload.meta["before"].count(f"New Fact: {QUESTIONS[0]} two cups") == 1


def copies(prompt: str) -> str:
    """A model that can only copy: it says what the last new fact in its prompt says, whatever it is asked."""
    facts = [line for line in prompt.splitlines() if line.startswith("New Fact: ")]
    return next((answer for answer in ("two cups", "tea") if facts and facts[-1].endswith(answer)), "nothing")


def test_a_model_that_copies_is_edited_everywhere(vlm):
    """The prompt carries the fact, and nothing else holds an in-context edit back: reliability 1, locality 0."""
    model = EditedModel(vlm)
    model.edit(REQUEST, "ike")
    asked = [(REQUEST.image, REQUEST.question), (None, QUESTIONS[2]), (picture(9), QUESTIONS[1])]
    effects = model.effects(*map(list, zip(*asked, strict=True)))
    said = [copies(effect.insert.question(question)) for effect, (_, question) in zip(effects, asked, strict=True)]
    assert said == ["two cups"] * 3
    assert copies(QUESTIONS[2]) == "nothing"
