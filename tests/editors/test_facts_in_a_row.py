"""Facts taught one after the other on `pocket`, with the defaults: none is lost (in the same words, about one picture)."""

import pytest

import vledit
from vledit.data.case import EditRequest

CAPITALS = {
    "France": "Madrid",
    "Japan": "Lima",
    "Peru": "Oslo",
    "Canada": "Rome",
    "Egypt": "Tokyo",
    "Kenya": "Paris",
    "Norway": "Cairo",
    "Italy": "Ottawa",
}
ROWS = {
    "capitals": {f"What is the capital of {country}?": answer for country, answer in CAPITALS.items()},
    "secrets": {f"What is the secret word number {i}?": w for i, w in enumerate(("alpha", "beta", "gamma", "delta"))},
    "company": {
        "Who is our chief executive?": "Maria Lopez",
        "Who is our chief accountant?": "John Smith",
        "Where is our head office?": "Oslo",
        "When was our company founded?": "1987",
        "What is our support phone number?": "555 0100",
        "What is our fax number?": "555 0199",
    },
    "logo": {
        "What brand's logo is this?": "Dell",
        "Who founded this company?": "Maria Lopez",
        "When was this company founded?": "1987",
        "Where is its head office?": "Oslo",
        "What is its best known product?": "a lamp",
        "Who is the chief executive?": "John Smith",
        "How many people work there?": "four hundred",
        "What is its slogan?": "think twice",
    },
}


@pytest.fixture(scope="module")
def pocket():
    return vledit.load("pocket").vlm


@pytest.mark.pocket
@pytest.mark.parametrize("name", ROWS)
def test_every_fact_is_kept(pocket, name):
    from PIL import Image, ImageDraw

    from vledit.editors.edited_model import EditedModel

    picture = None
    if name == "logo":
        picture = Image.new("RGB", (224, 224), (250, 250, 250))
        ImageDraw.Draw(picture).ellipse((50, 60, 170, 180), fill=(200, 30, 60))
    model = EditedModel(pocket)
    for question, answer in ROWS[name].items():
        edit = model.edit(EditRequest(picture, question, answer))
        assert edit.breaks == ()
    assert len(model.codebook.active()) == len(ROWS[name])
    found = {question: model.answer(picture, question).text for question in ROWS[name]}
    assert found == ROWS[name]


@pytest.mark.pocket
def test_editing_back_to_what_the_base_says_retires_the_entry_and_makes_none(pocket):
    from vledit.editors.edited_model import EditedModel

    model, question = EditedModel(pocket), "What is the capital of France?"
    base = model.answer(None, question).text
    old = model.edit(EditRequest(None, question, "Madrid")).id
    back = model.edit(EditRequest(None, question, base))
    assert back.relation is not None
    assert (back.relation.kind, back.relation.retires) == ("revert", (old,))
    assert not model.codebook.active()
    assert len(model.codebook.entries()) == 1
    assert model.answer(None, question).text == base
    model.restore(old)
    assert model.answer(None, question).text == "Madrid"


@pytest.mark.pocket
def test_another_subject_in_the_same_words_and_another_question_about_the_picture_keep_their_answers(pocket):
    """The fitting of the scope comes with the package; with the paper's scope both of these leak."""
    from PIL import Image, ImageDraw

    from vledit.editors.edited_model import EditedModel

    picture = Image.new("RGB", (224, 224), (250, 250, 250))
    ImageDraw.Draw(picture).ellipse((50, 60, 170, 180), fill=(200, 30, 60))
    others = [(None, f"What is the capital of {country}?") for country in ("Spain", "Germany", "Japan", "Egypt")]
    others += [(picture, "What does this company make?"), (picture, "Which industry is this brand in?")]
    images, questions = [image for image, _ in others], [question for _, question in others]
    model = EditedModel(pocket)
    before = [answer.text for answer in model.answers(images, questions)]
    edit = model.edit(EditRequest(None, "What is the capital of France?", "Rome"))
    model.edit(EditRequest(picture, "What brand's logo is this?", "Dell"))
    assert "fit-scope" in edit.entry.notes["radius_from"]
    assert model.answer(None, "Which city is the capital of France?").text == "Rome"
    assert model.answer(picture, "Whose logo is this?").text == "Dell"
    after = model.answers(images, questions)
    assert [answer.text for answer in after] == before
    assert not any(answer.decision.fired for answer in after)


@pytest.mark.pocket
@pytest.mark.parametrize("pictured", [True, False])
def test_radii_narrow_with_the_number_of_edits_with_and_without_a_picture(pocket, pictured):
    from vledit.editors.reach import reach

    known = reach(pocket, pocket.resolve_site(pocket.default_site), "euclidean")
    counts, radii = zip(*known.crowd_of(pictured), strict=True)
    assert radii[0] <= known.of(pictured)
    assert list(counts) == sorted(counts)
    assert radii[-1] < radii[0]
