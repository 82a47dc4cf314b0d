"""What callers have switched on around us, and what they do with a model: answers, edits and files are the same within it."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch

import vledit
from tests.vlm.models import QUESTIONS, build, picture
from vledit import EditRequest, loading
from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError, ModelMismatchError

PICTURE = picture(0)
REQUEST = EditRequest(PICTURE, QUESTIONS[0], "two cups", rephrases=("What can be seen?",))
LATER = EditRequest(PICTURE, QUESTIONS[2], "a red house", rephrases=("Who has made it?",))
FIT = {"steps": 200, "learning_rate": 0.05}
METHODS = {
    "full": ("balancedit", {**FIT, "rephrase": "supplied"}),
    "span": ("balancedit", {**FIT, "rephrase": "supplied", "transformation": "span", "learning_rate": 1.0}),
    "ft": ("ft", FIT),
}


class Default:
    """A default dtype or device for the time of a block."""

    def __init__(self, set_it, value, before):
        self.set_it, self.value, self.before = set_it, value, before

    def __enter__(self):
        self.set_it(self.value)

    def __exit__(self, *_):
        self.set_it(self.before)


AROUND = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default device": lambda: Default(torch.set_default_device, "meta", "cpu"),
    **{
        f"default {dtype}": lambda dtype=dtype: Default(torch.set_default_dtype, dtype, torch.float32)
        for dtype in (torch.float64, torch.float16)
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny LLaVA."""
    folder = tmp_path_factory.mktemp("model")
    vlm = build("llava")
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return folder


def everything(vlm, method: str, tmp_path) -> dict[str, object]:
    """What every public call says, with edits made one upon the other, kept, loaded and undone."""
    editor, settings = METHODS[method]
    model = EditedModel(vlm)
    said: dict[str, object] = {"base": model.answer(PICTURE, QUESTIONS[0], 6).text}
    made = model.edit(REQUEST, editor, **settings)
    said["edited"] = [answer.text for answer in model.answers([PICTURE, None], [QUESTIONS[0]] * 2, 6)]
    said["verified"] = model.verify([PICTURE], [QUESTIONS[0]], ["two cups"]).exact.tolist()
    said["routed"] = [decision.fired for decision in model.route([PICTURE], [QUESTIONS[0]])]
    said["generated"] = model.generate([PICTURE], [QUESTIONS[0]], max_new_tokens=4, do_sample=False).tolist()
    model.save_pretrained(tmp_path)
    again = EditedModel.from_pretrained(vlm, tmp_path)
    said["loaded"] = again.answer(PICTURE, QUESTIONS[0]).text
    again.edit(LATER, editor, **settings)
    said["upon"] = [again.answer(PICTURE, question).text for question in (QUESTIONS[0], QUESTIONS[2])]
    again.codebook.close()
    with model.disable():
        said["disabled"] = model.answer(PICTURE, QUESTIONS[0], 6).text
    model.remove(made.id)
    said["removed"] = model.answer(PICTURE, QUESTIONS[0], 6).text
    return said


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    """By method: what is said with nothing around."""
    made = {method: everything(build("llava"), method, tmp_path_factory.mktemp(method)) for method in METHODS}
    for said in made.values():
        assert said["edited"][0] == said["loaded"] == "two cups"
        assert said["upon"][1] == "a red house"
        assert said["removed"] == said["base"] == said["disabled"] != "two cups"
    return made


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("around", AROUND)
def test_all_calls_work_alike_within(around, method, ordinary, tmp_path):
    vlm = build("llava")
    with AROUND[around]():
        said = everything(vlm, method, tmp_path)
    if around == "autocast":  # it computes in bfloat16: what the edit was made to say, and undo, are the same
        assert said["edited"][0] == said["loaded"] == "two cups"
        assert said["upon"][1] == "a red house"
        assert said["removed"] == said["base"] == said["disabled"]
    else:
        assert said == ordinary[method]


@pytest.mark.parametrize("around", ["inference_mode", "default device"])
def test_a_model_can_be_loaded_within_and_edited_outside(around, folder, ordinary):
    with AROUND[around]():
        model = vledit.load(folder)
        mine = None if around == "default device" else build("llava")  # loaded by the caller's own code
    for each in (model, EditedModel(mine) if mine is not None else model):
        each.edit(REQUEST, **METHODS["full"][1])
        assert each.answer(PICTURE, QUESTIONS[0]).text == "two cups"
    assert model.vlm.fingerprint == build("llava").fingerprint


class TestCopies:
    def test_a_deep_copy_has_edits_of_its_own_and_the_same_base(self):
        model = EditedModel(build("llava"))
        model.edit(REQUEST, **METHODS["full"][1])
        other = copy.deepcopy(model)
        assert other.vlm is model.vlm
        assert other.answer(PICTURE, QUESTIONS[0]).text == "two cups"
        other.edit(LATER, **METHODS["full"][1])
        assert len(other.codebook) == 2
        assert len(model.codebook) == 1
        for entry in other.codebook.active():
            other.remove(entry.id)
        assert model.answer(PICTURE, QUESTIONS[0]).text == "two cups"
        assert other.answer(PICTURE, QUESTIONS[0]).text != "two cups"

    def test_a_deep_copy_of_a_file_lives_in_memory(self, tmp_path):
        model = EditedModel(build("llava"))
        made = model.edit(REQUEST, **METHODS["span"][1])
        model.save_pretrained(tmp_path)
        held = EditedModel.from_pretrained(model.vlm, tmp_path)
        other = copy.deepcopy(held)
        held.codebook.close()
        assert other.codebook.path is None
        assert other.answer(PICTURE, QUESTIONS[0]).text == "two cups"
        assert [event.action for event in other.codebook.history()] == [e.action for e in model.codebook.history()]
        other.remove(made.id)
        assert len(EditedModel.from_pretrained(model.vlm, tmp_path).codebook) == 1

    def test_weight_edits_are_copied(self):
        model = EditedModel(build("llava"))
        made = model.edit(REQUEST, "ft", **FIT)
        other = copy.deepcopy(model)
        other.remove(made.id)
        assert model.answer(PICTURE, QUESTIONS[0]).text == "two cups" != other.answer(PICTURE, QUESTIONS[0]).text

    def test_a_shallow_copy_has_the_same_edits(self):
        model = EditedModel(build("llava"))
        other = copy.copy(model)
        model.edit(REQUEST, **METHODS["full"][1])
        assert other.answer(PICTURE, QUESTIONS[0]).text == "two cups"

    def test_a_deep_copy_of_a_base_has_weights_of_its_own(self):
        vlm = build("llava")
        other = copy.deepcopy(vlm)
        assert other.model is not vlm.model
        assert other.fingerprint == vlm.fingerprint
        assert other.lock is not vlm.lock

    @pytest.mark.parametrize("method", ["full", "ft"])
    def test_a_pickle_loads_the_base_again(self, folder, method):
        model = vledit.load(folder)
        editor, settings = METHODS[method]
        model.edit(REQUEST, editor, **settings)
        data = pickle.dumps(model)
        assert len(data) < 400_000  # the edits, not the base
        again = pickle.loads(data)
        assert again.vlm is not model.vlm
        assert again.answer(PICTURE, QUESTIONS[0]).text == "two cups"
        assert again.vlm.fingerprint == model.vlm.fingerprint
        assert isinstance(again.vlm.lock, type(threading.RLock()))

    def test_a_pickle_of_a_model_of_the_callers_own_says_what_to_do(self):
        model = EditedModel(build("llava"))
        with pytest.raises(InputError, match=r"was not loaded by vledit\.load.*save_pretrained\(folder\)"):
            pickle.dumps(model)

    def test_a_pickle_does_not_take_another_model_for_its_own(self, folder, tmp_path):
        for file in folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        data = pickle.dumps(loading.load_vlm(tmp_path))
        other = build("llava")
        with torch.no_grad():
            other.anatomy.lm_head.weight.add_(1.0)
        other.model.save_pretrained(tmp_path)
        with pytest.raises(ModelMismatchError, match="another model here"):
            pickle.loads(data)


class TestPaths:
    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ("file", "is a file, or lies below one"),
            ("file/below", "is a file, or lies below one"),
            ("/proc/nowhere", "cannot be made"),
            ("", "the path is empty"),
            ("a\0b", "NUL"),
        ],
    )
    def test_save_pretrained_names_the_path_and_the_fix(self, given, says, tmp_path):
        (tmp_path / "file").write_text("")
        path = str(tmp_path / given) if given.startswith("file") else given
        with pytest.raises(InputError, match=says):
            EditedModel(build("llava")).save_pretrained(path)

    def test_home_and_file_addresses_are_paths(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        model = EditedModel(build("llava"))
        model.edit(REQUEST, **METHODS["span"][1])
        model.save_pretrained("~/edits one")
        for path in (tmp_path / "edits one", "~/edits one", (tmp_path / "edits one").as_uri()):
            again = EditedModel.from_pretrained(model.vlm, path)
            assert len(again.codebook) == 1
            again.codebook.close()


def test_stop_strings_get_the_tokenizer():
    vlm = build("llava")
    model = EditedModel(vlm)
    model.edit(EditRequest(PICTURE, QUESTIONS[0], "cats 7 8 9", REQUEST.rephrases), **METHODS["full"][1])
    length = vlm.encode([PICTURE], QUESTIONS[:1]).input_ids.shape[1]
    out = model.generate([PICTURE], QUESTIONS[:1], stop_strings=["7"], do_sample=False)
    assert vlm.tokenizer.decode(out[0, length:]).strip() == "cats 7"
