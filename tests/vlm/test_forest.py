"""Prompts and answers that share a row come out as if each had a row of its own."""

from __future__ import annotations

import pytest
import torch

from vledit.vlm.columns import UnpackableError
from vledit.vlm.encoded import Encoded
from vledit.vlm.forest import PER_BATCH, Forest, _batches
from vledit.vlm.picture_inputs import PictureInputs
from vledit.vlm.prompts import Prompt
from vledit.vlm.speaking import speak
from vledit.vlm.tree import Tree

from .models import ANSWERS, FIRST, QUESTIONS, picture, tiny

READ_BOTH_WAYS = ("gemma3", "paligemma", "paligemma2")
PICTURE = picture(1)
IMAGES = [PICTURE, PICTURE, None, picture(2), PICTURE]
ASKED = [QUESTIONS[0], QUESTIONS[1], QUESTIONS[1], QUESTIONS[2], QUESTIONS[2]]
TEXTS = [ANSWERS[: 1 + row % 3] for row in range(len(ASKED))]
CHOSEN = [(0, 0), (1, 1), (2, 2), (3, 0), (4, 1)]
CLOSE = 1e-5
KEPT = 10**9


def away(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max())


def needed(encoded: Encoded) -> torch.Tensor:
    """(B, T) bool: all tokens but the answers' last, which predict nothing."""
    mask = encoded.attention_mask.bool()
    mask[:, -1] = False
    return mask


@pytest.mark.parametrize("family", [name for name in FIRST if name not in READ_BOTH_WAYS])
@pytest.mark.parametrize("layer", [0, 1, -1])
def test_a_cut_trunk_is_the_plain_one(family: str, layer: int) -> None:
    vlm = tiny(family)
    found = Forest.grow(vlm, layer, IMAGES, ASKED, TEXTS).trunk(CHOSEN)
    encoded = vlm.encode(IMAGES, ASKED, [ANSWERS[answer] for _, answer in CHOSEN])
    plain = vlm.trunk(encoded, layer)
    tokens = needed(encoded)
    assert torch.equal(found.encoded.input_ids, encoded.input_ids)
    assert torch.equal(found.encoded.prompt_mask, encoded.prompt_mask)
    assert away(plain.hidden[tokens], found.hidden[tokens]) < CLOSE
    positions = encoded.predict_mask
    assert away(vlm.head(plain, positions=positions), vlm.head(found, positions=positions)) < CLOSE


@pytest.mark.parametrize("family", [name for name in FIRST if name not in READ_BOTH_WAYS])
@pytest.mark.parametrize("layer", [0, 1, -1])
def test_what_is_said_is_what_generate_says_and_stays_in_the_forest(family: str, layer: int) -> None:
    vlm, rows = tiny(family), [0, 1, 2, 4]
    forest = Forest.grow(vlm, layer, IMAGES, ASKED, TEXTS, keep_bytes=KEPT)
    said = speak(forest, rows, 7)
    images, questions = [IMAGES[row] for row in rows], [ASKED[row] for row in rows]
    assert [said[row].text for row in rows] == vlm.answer(images, questions, 7)
    found = forest.trunk([(row, said[row].answer) for row in rows])
    pictures = [vlm.read_pictures(image, question) for image, question in zip(images, questions, strict=True)]
    suffixes = [forest.suffixes[row][said[row].answer] for row in rows]
    plain = vlm.trunk(vlm.assemble([forest.prompts[row] for row in rows], suffixes, pictures), layer)
    tokens = needed(plain.encoded)
    assert away(plain.hidden[tokens], found.hidden[tokens]) < CLOSE
    positions = plain.encoded.predict_mask
    assert away(vlm.head(plain, positions=positions), vlm.head(found, positions=positions)) < CLOSE


@pytest.mark.parametrize("family", READ_BOTH_WAYS)
def test_prompts_that_are_read_both_ways_do_not_share_a_row(family: str) -> None:
    with pytest.raises(UnpackableError, match="causal"):
        Forest.grow(tiny(family), -1, IMAGES, ASKED, TEXTS)


def test_a_picture_goes_through_the_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm, seen = tiny("pocket"), []
    looked = vlm.model.get_image_features
    monkeypatch.setattr(
        vlm.model, "get_image_features", lambda **given: seen.append(len(given["pixel_values"])) or looked(**given)
    )
    Forest.grow(vlm, -1, IMAGES, ASKED, TEXTS)
    assert sum(seen) == 2  # three rows have one, a fourth another


def test_keys_and_values_are_kept_as_far_as_they_may() -> None:
    vlm = tiny("pocket")
    whole = Forest.grow(vlm, -1, IMAGES, ASKED, TEXTS, KEPT)
    assert all(whole.remembers(row) for row in range(len(ASKED)))
    some = Forest.grow(vlm, -1, IMAGES, ASKED, TEXTS, whole.kept - 1)
    remembered = [row for row in range(len(ASKED)) if some.remembers(row)]
    assert 0 < len(remembered) < len(ASKED)
    assert speak(some, remembered, 4).keys() == set(remembered)
    forgotten = next(row for row in range(len(ASKED)) if row not in remembered)
    with pytest.raises(UnpackableError, match="kept"):
        speak(some, [forgotten], 4)
    assert not Forest.grow(vlm, -1, IMAGES, ASKED, TEXTS).remembers(0)


def test_questions_without_a_picture_lie_in_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm, rows = tiny("pocket"), []
    run = vlm.trunk
    monkeypatch.setattr(vlm, "trunk", lambda encoded, layer: rows.append(len(encoded)) or run(encoded, layer))
    Forest.grow(vlm, -1, [None] * 3, QUESTIONS[:3], [ANSWERS[:1]] * 3)
    assert rows == [1]


def test_an_answer_that_is_empty_is_told_without_a_column_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = tiny("pocket")
    forest = Forest.grow(vlm, -1, [None], QUESTIONS[:1], [[]], keep_bytes=KEPT)
    end = vlm._prompter.end_ids[0]
    with monkeypatch.context() as patched:
        patched.setattr(type(vlm), "after_projection", lambda _, logits: torch.eye(logits.shape[-1])[[end]])
        said = speak(forest, [0], 4)[0]
    assert (said.text, said.ids) == ("", [])
    found = forest.trunk([(0, said.answer)])
    plain = vlm.trunk(vlm.assemble([forest.prompts[0]], [[end]], [PictureInputs()]), -1)
    assert away(plain.hidden[needed(plain.encoded)], found.hidden[needed(plain.encoded)]) < CLOSE


def test_trees_are_put_together_so_that_little_is_filled_up() -> None:
    def tree(length: int) -> Tree:
        prompt = Prompt("", list(range(length)), [False] * length, [False] * length, 0)
        return Tree.of(PictureInputs(), {0: prompt}, {0: []})

    def lengths(most: int, *trees: int) -> list[list[int]]:
        return [[len(one) for one in batch] for batch in _batches([tree(length) for length in trees], most)]

    apart = 10 + PER_BATCH + 1
    assert lengths(1000, apart, 10) == [[10], [apart]]  # one more token filled up than a batch costs
    assert lengths(1000, apart - 2, 10) == [[10, apart - 2]]
    assert sorted(lengths(100, 50, 50, 50)) == [[50], [50, 50]]
    assert lengths(100, 400, 30) == [[30], [400]]  # longer than allowed: by itself
    found = lengths(1024, *[58] * 16, 64, 391)
    assert sorted(length for batch in found for length in batch) == [58] * 16 + [64, 391]
    assert [391] in found  # not with the one of 64, which would be filled up to as much


def test_columns_of_a_tree_see_their_own_way_to_the_root() -> None:
    def prompt(*ids: int) -> Prompt:
        return Prompt("", list(ids), [False] * len(ids), [False] * len(ids), 0)

    suffixes = {0: [[6, 0], [7, 8, 0]], 1: [[9, 0]]}
    tree = Tree.of(PictureInputs(), {0: prompt(1, 2, 3), 1: prompt(1, 2, 4, 5)}, suffixes)
    assert tree.ids == [1, 2, 3, 6, 7, 8, 4, 5, 9]
    assert tree.depths == [0, 1, 2, 3, 3, 4, 2, 3, 4]
    seen = {column: row.nonzero().flatten().tolist() for column, row in enumerate(tree.sees())}
    assert seen[5] == [0, 1, 2, 4, 5]  # 8: behind 1 2 3 7, not behind 6
    assert seen[8] == [0, 1, 6, 7, 8]  # 9: behind 1 2 4 5, not behind 3


def test_prompts_that_are_equal_share_all_their_columns() -> None:
    prompt = Prompt("", [1, 2], [False] * 2, [False] * 2, 0)
    tree = Tree.of(PictureInputs(), {0: prompt, 1: prompt}, {0: [[3, 0]], 1: [[4, 0]]})
    assert tree.ids == [1, 2, 3, 4]
    assert tree.prompts == {0: [0, 1], 1: [0, 1]}
