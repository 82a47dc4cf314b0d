"""Distances, radius, pooling and anchor pictures."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from codebook_samples import PATIENT, scope, tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from vledit.codebook.scope import DISTANCES, Anchors, Scope, anchor_picture, distance, pool_key, radius
from vledit.errors import InputError, UnknownNameError

NUMBERS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
TABLES = st.integers(1, 5).flatmap(
    lambda width: st.tuples(
        arrays(np.float32, st.tuples(st.integers(1, 6), st.just(width)), elements=NUMBERS),
        arrays(np.float32, st.tuples(st.integers(1, 4), st.just(width)), elements=NUMBERS),
    )
)


def slow_distance(a: np.ndarray, b: np.ndarray, kind: str) -> float:
    """By exact fractions as far as it goes."""
    a, b = [Fraction(float(x)) for x in a], [Fraction(float(x)) for x in b]
    if kind == "euclidean":
        return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))
    size = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    if size == 0:
        return 0.0 if not any(a) and not any(b) else 1.0
    return 1 - float(sum(x * y for x, y in zip(a, b, strict=True))) / size


@settings(**PATIENT, max_examples=50)
@given(TABLES, st.sampled_from(DISTANCES))
def test_distance_agrees_with_exact_arithmetic(tables, kind):
    keys, queries = tables
    found = distance(keys, queries, kind)
    assert found.shape == (len(queries), len(keys))
    for b, query in enumerate(queries):
        for n, key in enumerate(keys):
            assert found[b, n] == pytest.approx(slow_distance(key, query, kind), rel=1e-12, abs=1e-12)


@settings(**PATIENT, max_examples=50)
@given(TABLES, st.sampled_from(DISTANCES))
def test_distance_to_itself_is_zero_and_a_pair_decides_its_bits(tables, kind):
    keys, queries = tables
    assert (np.diagonal(distance(keys, keys, kind)) == 0).all()
    together = distance(keys, queries, kind)
    assert (together == distance(queries, keys, kind).T).all()
    for b in range(len(queries)):
        for n in range(len(keys)):
            assert distance(keys[n], queries[b], kind)[0, 0] == together[b, n]


def test_distance_keeps_its_digits_where_keys_share_a_large_direction():
    key = np.full(1536, 3000.0, dtype=np.float32)
    query = key.copy()
    query[7] += np.float32(0.25)
    assert distance(key, query)[0, 0] == 0.25
    assert 0 < distance(key, query, "cosine")[0, 0] < 1e-10


def test_distance_takes_tensors_of_any_dtype_and_lists():
    assert distance(torch.ones(2, 3, dtype=torch.bfloat16), [[1.0, 1.0, 3.0]]).tolist() == [[2.0, 2.0]]


def test_distance_refuses_other_widths_and_names():
    with pytest.raises(InputError, match="width 2 does not fit the keys' width 3"):
        distance(np.zeros((1, 3)), np.zeros((1, 2)))
    with pytest.raises(UnknownNameError, match="Did you mean 'euclidean'"):
        distance(np.zeros(3), np.zeros(3), "euclidian")


@settings(**PATIENT)
@given(st.floats(0, 1), st.floats(0, 1e6), st.floats(0, 1e6))
def test_radius_lies_between_the_anchors_and_alpha_one_is_the_positive(alpha, d_positive, d_negative):
    slack = 1e-9 * (d_positive + d_negative)
    assert min(d_positive, d_negative) - slack <= radius(alpha, d_positive, d_negative)
    assert radius(alpha, d_positive, d_negative) <= max(d_positive, d_negative) + slack
    assert radius(1, d_positive, d_negative) == d_positive
    assert radius(0, d_positive, d_negative) == d_negative


def test_radius_narrows_as_alpha_grows():
    assert radius(0.25, 1.0, 9.0) == 7.0  # Eq. 10, not Eq. 3 as printed, which would give 3
    with pytest.raises(InputError, match=r"alpha: 1\.5"):
        radius(1.5, 1.0, 2.0)
    with pytest.raises(InputError, match="d_negative: nan"):
        radius(0.5, 1.0, math.nan)


def _masks(*rows: str) -> dict[str, torch.Tensor]:
    """'.' padding, 'v' visual, 'q' question, 't' template, 'a' answer."""
    marks = [list(row) for row in rows]
    where = lambda kinds: torch.tensor([[mark in kinds for mark in row] for row in marks])  # noqa: E731
    return {
        "prompt_mask": where("vqt"),
        "visual_mask": where("v"),
        "question_mask": where("q"),
        "answer_mask": where("a"),
    }


@pytest.mark.parametrize(
    ("key_tokens", "tokens"),
    [
        ("mean", [1, 2, 3, 4, 5]),
        ("visual", [1, 2]),
        ("question", [3, 4]),
        ("last", [5]),
        ("prompt+answer", range(1, 8)),
    ],
)
def test_pool_key_takes_the_tokens_that_its_name_says(key_tokens, tokens):
    x, masks = tensor(1, 8, 3), _masks(".vvqqtaa")
    expected = x[0, list(tokens)].double().mean(0).float()
    assert torch.equal(pool_key(x, key_tokens=key_tokens, **masks)[0], expected)


@settings(**PATIENT, max_examples=25)
@given(st.integers(1, 40), st.integers(0, 30), st.sampled_from([torch.float32, torch.bfloat16]))
def test_pool_key_does_not_depend_on_padding_or_batch(length, padding, dtype):
    x = tensor(1, length, 7).to(dtype)
    alone = pool_key(x, torch.ones(1, length, dtype=torch.bool))
    padded = torch.cat([torch.full((1, padding, 7), math.inf, dtype=dtype), x], dim=1)
    mask = torch.arange(padding + length)[None] >= padding
    both = pool_key(padded.repeat(2, 1, 1), mask.repeat(2, 1))
    assert alone.dtype == torch.float32
    assert torch.equal(both, alone.repeat(2, 1))


def test_pool_key_says_what_is_wrong():
    x, masks = tensor(2, 4, 3), _masks("qqqt", "vvqt")
    assert pool_key(x, key_tokens="visual", **masks).isnan().all(dim=1).tolist() == [True, False]
    with pytest.raises(InputError, match="visual_mask: needed"):
        pool_key(x, masks["prompt_mask"], "visual")
    with pytest.raises(InputError, match="row 0 has no token"):
        pool_key(x, torch.zeros(2, 4, dtype=torch.bool))
    x[1, 2, 0] = math.inf
    with pytest.raises(InputError, match=r"row 1 is not finite.*float32"):
        pool_key(x, masks["prompt_mask"])
    with pytest.raises(InputError, match=r"\(B, T, H\)"):
        pool_key(x, masks["prompt_mask"][:1])


def test_anchor_pictures():
    picture = Image.new("RGB", (4, 4), (10, 20, 30))
    picture.paste((30, 20, 10), (0, 0, 2, 4))
    assert anchor_picture("black", (6, 5)).getextrema() == ((0, 0),) * 3
    assert anchor_picture("white", 6).getextrema() == ((255, 255),) * 3
    mean = anchor_picture("mean", (6, 5), image=picture)
    assert (mean.size, mean.mode, mean.getpixel((3, 3))) == ((6, 5), "RGB", (20, 20, 20))
    noise = anchor_picture("noise", 64, seed=3)
    assert noise.tobytes() == anchor_picture("noise", 64, seed=3).tobytes()
    assert noise.tobytes() != anchor_picture("noise", 64, seed=4).tobytes()
    assert abs(np.asarray(noise).mean() - 127.5) < 3
    other = Image.new("RGB", (3, 3), "red")
    for seed in range(4):
        assert anchor_picture("random", 6, picture, [picture.copy(), other], seed).tobytes() == other.tobytes()
    assert anchor_picture("random", 6, sampler=lambda draw: other).size == (3, 3)


def test_anchor_pictures_say_what_is_missing():
    with pytest.raises(UnknownNameError, match=r"unknown negative anchor 'blck'\. Did you mean 'black'"):
        anchor_picture("blck", 4)
    with pytest.raises(InputError, match="image: the 'mean' anchor"):
        anchor_picture("mean", 4)
    with pytest.raises(InputError, match="sampler: the 'random' anchor"):
        anchor_picture("random", 4)
    with pytest.raises(InputError, match="no picture other than"):
        anchor_picture("random", 4, Image.new("RGB", (2, 2)), [Image.new("RGB", (2, 2))])
    with pytest.raises(InputError, match="at least 1 pixel"):
        anchor_picture("black", (0, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": [1.0, math.nan]}, "Scope.key: element 1 is nan"),
        ({"key": [1e300, 1.0]}, "Scope.key: element 0 is inf"),
        ({"key": [[1.0], [2.0]]}, r"Scope.key: one vector \(H,\)"),
        ({"key": []}, r"Scope.key: one vector"),
        ({"key": ["a"]}, "Scope.key: not an array of numbers"),
        ({"key": [0.0, 0.0], "distance": "cosine"}, "Scope.key: all zeros"),
        ({"radius": -1}, "Scope.radius: -1.0 is not"),
        ({"radius": math.inf}, "Scope.radius: inf"),
        ({"radius": "wide"}, "Scope.radius: a number is expected"),
        ({"alpha": 2}, "Scope.alpha: 2.0"),
        ({"distance": "manhattan"}, "unknown distance 'manhattan'"),
        ({"key_tokens": "first"}, "unknown key_tokens 'first'"),
        ({"prompt": "half"}, "Scope.prompt"),
        ({"name": " "}, "Scope.name"),
        ({"anchors": {}}, "Scope.anchors"),
    ],
)
def test_scope_refuses_and_names_the_field(change, message):
    with pytest.raises(InputError, match=message):
        Scope(**{"name": "mean", "key": [1.0, 2.0], "radius": 1.0, **change})


def test_scope_keeps_its_own_copy_of_the_key():
    key = np.ones(3, dtype=np.float32)
    held = scope(key)
    key[0] = 7
    assert held.key.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        held.key[0] = 2


def test_anchors_name_where_the_positive_came_from():
    Anchors("plugin:paraphraser", "Which?", "black", 1.0, 2.0)
    for source in ("plugin:", "user", ""):
        with pytest.raises(InputError, match="positive_source"):
            Anchors(source, "Which?", "black", 1.0, 2.0)
    with pytest.raises(InputError, match="d_positive"):
        Anchors("backbone", "Which?", "black", -1.0, 2.0)


def test_anchors_may_have_no_negative_but_not_half_of_one():
    assert Anchors("backbone", "Which?", "", 1.0, None).d_negative is None
    with pytest.raises(InputError, match="d_negative: the distance to 'black' is missing"):
        Anchors("backbone", "Which?", "black", 1.0, None)
    with pytest.raises(InputError, match=r"Anchors\.negative: a text that is not empty"):
        Anchors("backbone", "Which?", "", 1.0, 2.0)


def test_a_radius_among_many_entries():
    key = np.ones(3, dtype=np.float32)
    crowded = Scope("last", key, 50.0, crowd=((1, 50.0), (100, 40.0), (1000, 20.0)))
    assert [crowded.radius_among(n) for n in (1, 10, 100, 1000, 100_000)] == pytest.approx([50, 45, 40, 20, 20])
    assert Scope("last", key, 50.0).radius_among(10**6) == 50.0
    assert Scope("last", key, 30.0, crowd=((10, 60.0), (100, 20.0))).radius_among(10) == 30.0
    with pytest.raises(InputError, match="crowd"):
        Scope("last", key, 50.0, crowd=((10, 40.0), (100, 41.0)))
    with pytest.raises(InputError, match="crowd"):
        Scope("last", key, 50.0, crowd=((100, 40.0), (10, 30.0)))


@pytest.mark.parametrize("kind", DISTANCES)
@pytest.mark.parametrize("block", [1, 7, 12, 1 << 22])
def test_many_keys_are_taken_in_blocks_and_no_row_is_left_out(monkeypatch, kind, block):
    monkeypatch.setattr("vledit.codebook.scope._BLOCK", block)
    keys, queries = tensor(11, 3).numpy(), tensor(2, 3).numpy() + 1
    found = distance(keys, queries, kind)
    for b, query in enumerate(queries):
        assert found[b].tolist() == pytest.approx([slow_distance(key, query, kind) for key in keys], rel=1e-6)


def test_a_key_without_a_direction_is_at_cosine_one_of_any_other_and_at_zero_of_itself():
    keys = [[0.0, 0.0], [3.0, 0.0], [0.0, 2.0], [-5.0, 0.0]]
    assert distance(keys, [3.0, 0.0], "cosine").tolist() == [[1.0, 0.0, 1.0, 2.0]]
    assert distance(keys, [0.0, 0.0], "cosine").tolist() == [[0.0, 1.0, 1.0, 1.0]]


def test_what_is_unusual_but_right_is_taken():
    assert Scope("mean", [0.0, 0.0], 1.0).width == 2  # without a direction, but Euclidean
    assert Scope("mean", [[1.0, 2.0, 3.0]], 0.0, "cosine", alpha=1.0).width == 3
    assert Scope("question", [1.0], 1.0, prompt="question", alpha=0).alpha == 0.0
    assert Anchors("backbone", "", "black", 0.0, 0.0).positive_question == ""
    assert Scope("last", [1.0], 9.0, crowd=((1, 9.0), (2, 9.0))).radius_among(2) == 9.0
    assert Scope("last", [1.0], 9.0, crowd=((2, 9.0), (4, 5.0))).radius_among(1) == 9.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crowd": ((10, 9.0), (10, 8.0))}, "have to rise"),
        ({"crowd": ((0, 9.0), (10, 8.0))}, "at least 1, not 0"),
        ({"crowd": ((1, -1.0),)}, "Scope.crowd: -1.0"),
        ({"alpha": -0.5}, "Scope.alpha: -0.5"),
        ({"name": 3}, "Scope.name: a text that is not empty is expected, not 3"),
        ({"name": "\ud800"}, "Scope.name: holds characters that UTF-8 cannot write"),
        ({"key": [[[1.0]]]}, r"Scope.key: shape \(N, D\)"),
    ],
)
def test_scope_refuses_what_is_at_the_edge(change, message):
    with pytest.raises(InputError, match=message):
        Scope(**{"name": "mean", "key": [1.0, 2.0], "radius": 9.0, **change})


def test_anchors_that_say_nothing_are_refused():
    for field, value in (("negative", " "), ("negative", None), ("positive_question", 1)):
        with pytest.raises(InputError, match=f"Anchors.{field}: a text"):
            Anchors(**{"positive_source": "supplied", "positive_question": "Which?", "negative": "black",
                       "d_positive": 1.0, "d_negative": 2.0, field: value})  # fmt: skip


def test_pool_key_takes_masks_of_its_own_shape_alone_and_padding_never_counts():
    x, masks = tensor(2, 4, 3), _masks("qqqt", "vvqt")
    for name in ("visual", "question"):
        wrong = {**masks, f"{name}_mask": masks[f"{name}_mask"][:, :3]}
        with pytest.raises(InputError, match=r"\(B, T, H\)"):
            pool_key(x, key_tokens=name, **wrong)
    with pytest.raises(InputError, match=r"\(B, T, H\)"):
        pool_key(x[0], masks["prompt_mask"])
    with pytest.raises(InputError, match="answer_mask: needed for key_tokens='prompt\\+answer'"):
        pool_key(x, masks["prompt_mask"], "prompt+answer")
    with pytest.raises(UnknownNameError, match="unknown key_tokens 'first'"):
        pool_key(x, masks["prompt_mask"], "first")
    with pytest.raises(InputError, match="row 0 has no token for key_tokens='last'"):
        pool_key(x, torch.zeros(2, 4, dtype=torch.bool), "last")
    found = pool_key(x.requires_grad_(), masks["prompt_mask"])
    assert (found.dtype, found.device.type, found.requires_grad) == (torch.float32, "cpu", False)


def test_noise_draws_every_value_of_every_channel_and_a_random_picture_is_a_full_colour_copy():
    noise = anchor_picture("noise", (90, 70))
    assert (noise.size, noise.mode, noise.getextrema()) == ((90, 70), "RGB", ((0, 255),) * 3)
    assert noise.tobytes() == anchor_picture("noise", (90, 70), seed=0).tobytes()
    grey = Image.new("L", (3, 2), 7)
    assert anchor_picture("random", 6, sampler=[grey]).mode == "RGB"
    assert anchor_picture("random", 6, sampler=lambda draw: grey).mode == "RGB"
    same_colour = Image.new("RGB", (2, 3), (7, 7, 7))
    assert anchor_picture("random", 6, grey, [same_colour]).size == (2, 3)  # as many bytes, another shape
    assert anchor_picture("black", 1).size == (1, 1)
    for size in ((4, 0), (-1, 4), 0):
        with pytest.raises(InputError, match="at least 1 pixel"):
            anchor_picture("black", size)
    three = [Image.new("RGB", (1, 1), colour) for colour in ("red", "green", "blue")]
    drawn = [anchor_picture("random", 6, sampler=three, seed=seed).tobytes() for seed in range(12)]
    assert len(set(drawn)) == 3
    assert drawn == [anchor_picture("random", 6, sampler=three, seed=seed).tobytes() for seed in range(12)]


def test_opposite_keys_are_at_cosine_two_and_never_beyond_by_rounding():
    keys = np.random.default_rng(0).normal(size=(300, 7)).astype(np.float32)
    found = np.array([distance(key, -key, "cosine")[0, 0] for key in keys])
    assert found.max() == 2.0
    assert found.min() == pytest.approx(2.0)


def test_the_radius_narrows_beyond_the_first_point_and_the_mean_colour_is_of_each_channel():
    assert Scope("last", [1.0], 50.0, crowd=((10, 40.0), (100, 20.0))).radius_among(10) == 50.0
    assert anchor_picture("mean", 2, image=Image.new("RGB", (3, 3), (10, 20, 30))).getpixel((0, 0)) == (10, 20, 30)
