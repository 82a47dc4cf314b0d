"""De-VQA's pairs: which record is taken for T2, and what each of the 16 cells asks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from vledit import retrieval
from vledit.data.case import EditCase, EditRequest, Probe
from vledit.data.devqa import ADVERSARIAL, CELLS, CLASSES, EDIT, LOCALITY_CELLS, DevQA, index_of, lacking, questions
from vledit.retrieval import Index

from .words_encoder import WordsEncoder


def record(
    id: str,
    question: str,
    answer: str,
    base: str,
    image: object | None = "",
    rephrases: tuple[str, ...] = (),
    **tags: str,
) -> EditCase:
    """A case with one probe of every kind; its picture is named after it."""
    picture = f"{id}.png" if image == "" else image
    return EditCase(
        EditRequest(picture, question, answer, rephrases, id),
        {"image": (Probe(f"{id}-other.png", question),)} if picture else {},
        {
            "text": (Probe(None, f"text of {id}?", "yes"),),
            "random_image": (Probe(f"{id}-random.png", f"random of {id}?", "motocross"),),
        },
        base_answer=base,
        tags=tags,
    )


def wrapper(*pool: EditCase) -> DevQA:
    return DevQA(pool, Index(WordsEncoder()))


SHOES = record("shoes", "What color are the shoes?", "black", "green", rephrases=("The shoes are of which color?",))
HAT = record("hat", "What color is the hat?", "red", "blue")
DOG = record("dog", "Which animal is this?", "dog", "cat")


def asked(case: EditCase, cell: str) -> tuple[object, str]:
    (probe,) = case.locality[cell]
    return probe.image, probe.question


def test_every_cell_pairs_its_text_with_its_picture():
    wrapped = wrapper(SHOES, HAT, DOG).wrap(SHOES)
    texts = {
        "T1": SHOES.request.question,
        "T2": HAT.request.question,
        "T3": "random of shoes?",
        "T4": "text of shoes?",
    }
    pictures = {"I1": "shoes.png", "I2": "hat.png", "I3": "shoes-random.png", "I4": None}
    assert len(CELLS) == 16
    for cell in CELLS:
        if cell != EDIT:
            assert asked(wrapped, cell) == (pictures[cell[2:]], texts[cell[:2]])
    assert EDIT not in wrapped.locality
    assert wrapped.locality["text"] == SHOES.locality["text"]  # what the benchmark asks by itself stays
    assert [wrapped.locality[c][0].answer for c in ("T3I3", "T4I4", "T1I2")] == ["motocross", "yes", None]


def test_classes_are_those_of_the_paper():
    assert set(ADVERSARIAL) == {"T1I3", "T3I1", "T1I4", "T2I4", "T1I2", "T2I1", "T2I2"}
    assert CLASSES["image"] == ("T3I3",)
    assert CLASSES["text"] == ("T4I4",)


@pytest.mark.parametrize(
    "unfit",
    [
        record("near", "What color are the big shoes?", "black", "blue"),
        record("near", "What color are the big shoes?", "green", "blue"),
        record("near", "What color are the big shoes?", "red", "Black."),
        record("near", "What color are the big shoes?", "red", "GREEN"),
        record("near", "What color are the shoes?", "red", "blue"),
        record("near", "what color are the shoes", "red", "blue"),
        record("near", "The shoes are of which color?", "red", "blue"),
        record("near", "What color are the big shoes?", "red", "blue", image=None),
        record("near", "What color are the big shoes?", "red", "blue", image="shoes.png"),
        record("near", "What color are the big shoes?", "red", "blue", image="shoes-other.png"),
    ],
    ids=[
        "new-new",
        "new-old",
        "old-new",
        "old-old",
        "same",
        "same-typed",
        "rephrased",
        "no-picture",
        "picture",
        "other",
    ],
)
def test_what_is_not_taken_although_it_is_nearest(unfit: EditCase):
    fit = record("fit", "What color are the big shoes?", "red", "blue")
    assert wrapper(SHOES, unfit, HAT).choose(SHOES).record == "hat"
    assert wrapper(SHOES, fit, HAT).choose(SHOES).record == "fit"


def test_a_wording_that_two_records_share_joins_all_of_theirs():
    other = record("other", "The shoes have what color?", "red", "blue", rephrases=("the shoes are of which color",))
    assert wrapper(SHOES, other, HAT).choose(SHOES).record == "hat"
    unclean = record("other", "The shoes have what color?", "red", "blue")
    broken = Probe("x.png", "the shoes are of which color", tags={"wording": "unclean"})
    unclean = EditCase(unclean.request, {"text": (broken,)}, unclean.locality, base_answer="blue")
    assert wrapper(SHOES, unclean, HAT).choose(SHOES).record == "other"


def test_a_picture_of_the_same_thing_or_of_the_new_answer_is_not_taken():
    edit = record("gorilla/name", "What is this thing?", "boar", "gorilla", concept="gorilla")
    same = record("gorilla/group", "What is this kind?", "fish", "mammal", concept="gorilla")
    target = record("boar/group", "What is this kind?", "bird", "mammal", concept="boar")
    names = record("boar/name", "What is this thing?", "fox", "boar", concept="boar")
    far = record("crab/spanish", "How do Spaniards say it?", "pato", "cangrejo", concept="crab")
    assert wrapper(edit, same, target, names, far).choose(edit).record == "crab/spanish"
    assert wrapper(edit, same, target, far).choose(edit).record == "boar/group"


def test_ranking_against_a_slow_reference():
    draw = random.Random(5)
    words = ["what", "color", "is", "the", "hat", "cup", "dog", "of", "this", "big", "animal", "where", "who"]
    answers = ["red", "blue", "two", "dog", "yes"]
    pool = [
        record(f"r{n}", " ".join(draw.choices(words, k=4)) + "?", *draw.sample(answers, 2))
        for n in range(60)
    ]  # fmt: skip
    made = wrapper(*pool)
    encode = WordsEncoder().encode
    for case in pool:
        best = max(
            (
                float(
                    encode([case.request.question])[0].astype(float) @ encode([other.request.question])[0].astype(float)
                )
                for other in pool
                if other.request.question != case.request.question
                and not {other.request.answer, other.base_answer} & {case.request.answer, case.base_answer}
            ),
            default=None,
        )
        chosen = made.choose(case)
        assert best is not None
        assert chosen.similarity == pytest.approx(best, abs=1e-5)


def test_the_order_of_the_pool_does_not_matter_and_equals_are_drawn():
    hats = [record(f"hat{n}", "What color is the hat?", "red", "blue") for n in range(12)]
    shoes = [record(f"shoes{n}", "What color are the shoes?", "black", "green") for n in range(8)]
    forward = [wrapper(*shoes, *hats).choose(one).record for one in shoes]
    backward = [wrapper(*reversed(hats), *reversed(shoes)).choose(one).record for one in shoes]
    assert forward == backward
    assert len(set(forward)) > 3


def test_an_edit_without_a_picture_has_the_cells_that_it_can_have():
    edit = record("capital", "What is the capital of Peru?", "Cusco", "Lima", image=None)
    wrapped = wrapper(edit, HAT).wrap(edit)
    missing = {cell for cell in LOCALITY_CELLS if cell not in wrapped.locality}
    assert missing == {"T1I4", "T2I1", "T3I1", "T4I1"}
    assert asked(wrapped, "T1I2") == ("hat.png", edit.request.question)


def test_a_pool_without_anything_fit_leaves_cells_out():
    wrapped = wrapper(SHOES).wrap_all([SHOES])
    assert set(lacking(wrapped)) == {cell for cell in LOCALITY_CELLS if "2" in cell}


def test_what_the_benchmark_lacks_is_drawn_from_the_pool():
    bare = EditCase(SHOES.request, {}, {}, base_answer="green")
    wrapped = wrapper(bare, HAT, DOG).wrap(bare)
    assert lacking([wrapped]) == {}
    assert asked(wrapped, "T3I3") in [(f"{id}-random.png", f"random of {id}?") for id in ("hat", "dog")]
    assert asked(wrapped, "T4I4")[1] in ("text of hat?", "text of dog?")
    text = Probe(None, "text of hat?")
    plain = [EditCase(one.request, {}, {"text": (text,)}, base_answer=one.base_answer) for one in (HAT, DOG)]
    assert asked(wrapper(bare, *plain).wrap(bare), "T3I3") == ("dog.png", DOG.request.question)


def test_the_index_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    encoder = WordsEncoder()
    monkeypatch.setattr(retrieval, "encoder", lambda name: encoder)
    pool = [SHOES, HAT, DOG]
    first = DevQA(pool, index_of(pool, folder=tmp_path)).wrap_all(pool)
    assert encoder.calls == questions(pool)
    again = DevQA(pool, index_of(pool, folder=tmp_path)).wrap_all(pool)
    assert encoder.calls == questions(pool)
    assert first == again
