"""The embedded model itself, as shipped: it names what it sees, says when there is nothing, and can be edited."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import vledit
from vledit.data import icons
from vledit.data.case import EditRequest
from vledit.editors.edited_model import EditedModel
from vledit.errors import MissingDataError
from vledit.pocket.assemble import WEIGHTS, ensure_pocket
from vledit.pocket.examples import NOTHING

pytestmark = [
    pytest.mark.pocket,
    pytest.mark.skipif(not WEIGHTS.exists(), reason="no trained weights in this checkout"),
]


@pytest.fixture(scope="module")
def model():
    return vledit.load("pocket")


@pytest.fixture(scope="module")
def data():
    try:
        return icons.load()
    except MissingDataError:
        pytest.skip("the data set icons is not built: vledit data build icons --only demo")


def marks(data, name: str):
    """Pictures of a brand's mark on plain grounds."""
    concept = next(c for c in data.concepts.values() if c.name == name)
    return [data.composite(drawing, seed=1, size=192) for drawing in data.drawings_of(concept.id)]


def test_it_is_a_hugging_face_model():
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import vledit.pocket.modeling
    import vledit.pocket.processing  # noqa: F401

    folder = ensure_pocket(progress=False)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    text = "<|im_start|>user\n<image>What is this?<|im_end|>\n<|im_start|>assistant\n"
    inputs = processor(images=Image.new("RGB", (64, 48)), text=text, return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 32
    out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True) == NOTHING
    with pytest.raises(ValueError, match="mark"):
        processor(images=[], text=text)


def test_most_drawings_of_a_well_known_mark_are_named(model, data):
    question = data.wordings("brands", "brand", "test")[0]
    answers = [model.answer(image, question).text for image in marks(data, "Apple")]
    assert sum(text == "Apple" for text in answers) >= len(answers) / 2


def test_a_black_picture_shows_nothing(model, data):
    for question in data.wordings("brands", "brand", "test")[:3]:
        assert model.answer(model.vlm.black(), question).text == NOTHING


def test_the_answer_follows_the_picture(model, data):
    question = data.wordings("brands", "brand", "train")[0]
    answers = {name: model.answer(marks(data, name)[0], question).text for name in ("Apple", "Raspberry Pi")}
    assert answers["Apple"] != answers["Raspberry Pi"]


@pytest.mark.parametrize("transformation", ["full", "span"])
def test_an_edit_holds_and_is_undone_bit_for_bit(model, data, transformation):
    question = data.wordings("brands", "brand", "train")[0]
    rephrases = tuple(data.wordings("brands", "brand", "train")[1:4])
    image = marks(data, "Apple")[0]
    encoded = model.vlm.encode([image], [question])
    before = model.vlm.head(model.vlm.trunk(encoded, 0))
    edit = model.edit(EditRequest(image, question, "Dell", rephrases), transformation=transformation)
    answer = model.answer(image, question)
    assert answer.text == "Dell"
    assert answer.decision.fired
    assert edit.entry.anchors.d_positive < edit.entry.radius
    assert edit.entry.anchors.d_negative is None, "the default radius hangs on no negative, so none is run"
    assert model.answer(model.vlm.black(), question).text == NOTHING
    model.remove(edit.id)
    model.codebook.purge(edit.id)
    assert torch.equal(before, model.vlm.head(model.vlm.trunk(encoded, 0)))
    assert model.answer(image, question).text != "Dell"


def test_the_fingerprint_is_the_same_in_both_dtypes(model):
    other = vledit.load("pocket", dtype="bfloat16")
    assert other.vlm.fingerprint == model.vlm.fingerprint


@pytest.mark.parametrize("page", ["README.md", "docs/tutorials/fix_one_fact.md"])
def test_the_python_example_says_what_the_page_shows(model, data, monkeypatch, tmp_path, capsys, page):
    """On the mark that the demo leaves as demo/apple.png: the question in other words gets the new answer."""
    text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
    (tmp_path / "demo").mkdir()
    concept = next(c for c in data.concepts.values() if c.name == "Apple")
    drawing = min(data.drawings_of(concept.id), key=lambda one: (one.split != "train", one.style != "mono"))
    data.composite(drawing, 0, "clean", 192).save(tmp_path / "demo" / "apple.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vledit, "load", lambda name: EditedModel(model.vlm), raising=False)
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(block, page, "exec"), {})
    assert capsys.readouterr().out.splitlines()[-1].startswith("Dell ")
