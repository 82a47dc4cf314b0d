"""Routing: Eq. 1, alone or in a batch, over one scope or several."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from codebook_samples import PATIENT, entry, scope, span
from hypothesis import given, settings
from hypothesis import strategies as st

from vledit.codebook import Query, Router
from vledit.codebook.index import KeyIndex
from vledit.codebook.router import Reading
from vledit.codebook.scope import distance
from vledit.errors import InputError

SHARED = span()


def edit(id, key, radius=1.0, **more):
    placed = {name: more.pop(name) for name in ("site", "key_site", "answer", "question", "status") if name in more}
    return entry(id, scope(np.asarray(key, dtype=np.float32), radius, **more), transformation=SHARED, **placed)


def slow_nearest(keys: dict[str, np.ndarray], query: np.ndarray, kind: str) -> tuple[str | None, float]:
    """A full search; `keys` oldest first, so that of equals the newest stays."""
    best: tuple[str | None, float] = (None, math.inf)
    for id, key in keys.items():
        found = float(distance(key, query, kind)[0, 0])
        if found <= best[1]:
            best = (id, found)
    return best


def test_the_nearest_key_decides_and_its_own_radius_counts():
    router = Router([edit("narrow", [0, 0], 1.0), edit("wide", [10, 0], 100.0)])
    decisions = router.decide(np.array([[1.0, 0], [3, 0], [9, 0]], dtype=np.float32))
    assert [d.entry for d in decisions] == ["narrow", None, "wide"]
    assert [d.nearest for d in decisions] == [
        "narrow",
        "narrow",
        "wide",
    ]  # 'wide' would hold the second, but is not nearest
    assert [d.distance for d in decisions] == [1.0, 3.0, 1.0]  # at the radius is inside
    assert [d.fired for d in decisions] == [True, False, True]


def test_of_equally_near_keys_the_newest_answers():
    router = Router([edit("old", [0, 0]), edit("new", [0, 0])])
    assert router.decide([0.0, 0.0])[0].entry == "new"
    router.remove("new")
    assert router.decide([0.0, 0.0])[0].entry == "old"
    router.add(edit("again", [0, 0]), rank=-1)
    assert router.decide([0.0, 0.0])[0].entry == "old"


def test_inactive_entries_never_fire():
    router = Router([edit("a", [0, 0], status="retired", answer="x"), edit("b", [0, 0], status="removed", answer="x")])
    assert len(router) == 0
    decision = router.decide([0.0, 0.0])[0]
    assert (decision.entry, decision.nearest, decision.distance, decision.radius) == (None, None, None, None)
    assert not decision.fired
    assert "no active entry" in decision.explanation
    with pytest.raises(InputError, match="is retired"):
        router.add(edit("a", [0, 0], status="retired"))


COORDINATES = st.one_of(
    st.integers(-3, 3).map(float),
    st.floats(-1e3, 1e3, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)
POINTS = st.lists(COORDINATES, min_size=3, max_size=3)


@settings(**PATIENT, max_examples=70)
@given(st.data(), st.sampled_from(["euclidean", "cosine"]), st.sampled_from([0.0, 1e4, 3e7]))
def test_index_agrees_with_a_full_search_while_keys_come_and_go(data, kind, offset):
    """Also where all keys share a large direction, and near the ends of float32."""
    index, keys, number = KeyIndex(3, kind), {}, 0
    point = POINTS.map(lambda p: (np.array(p) + offset).clip(-3e38, 3e38).astype(np.float32))
    for new in data.draw(st.lists(point, min_size=1, max_size=40)):
        if kind == "euclidean" or new.any():
            keys[f"k{number}"] = new
            index.add(f"k{number}", new, number)
            number += 1
    for gone in data.draw(st.lists(st.sampled_from(sorted(keys)), unique=True)) if keys else []:
        index.remove(gone)
        del keys[gone]
    queries = np.array([*data.draw(st.lists(point, min_size=1, max_size=6)), *list(keys.values())[:2]])
    found = index.nearest(queries)
    assert found == [slow_nearest(keys, query, kind) for query in queries]
    assert found == [index.nearest(query[None])[0] for query in queries]


@settings(**PATIENT, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(1, 12), st.sampled_from(["euclidean", "cosine"]))
def test_a_row_is_decided_the_same_alone_and_in_a_batch(seed, count, width, kind):
    draw = np.random.default_rng(seed)
    common = draw.standard_normal(width) * 100
    keys = (common + draw.standard_normal((count, width))).astype(np.float32)
    router = Router(edit(f"e{n}", key, 0.5, distance=kind) for n, key in enumerate(keys))
    rows = np.concatenate([keys[:3], (common + draw.standard_normal((5, width))).astype(np.float32)])
    together = router.decide(torch.from_numpy(rows))
    assert together == [router.decide(row[None])[0] for row in rows]
    assert together[::-1] == router.decide(rows[::-1])
    held = {f"e{n}": key for n, key in enumerate(keys)}
    assert [(d.nearest, d.distance) for d in together] == [slow_nearest(held, row, kind) for row in rows]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", ["two tight clusters", "a sphere around the query"])
def test_the_nearest_is_right_where_float32_cannot_tell(shape, seed):
    draw = np.random.default_rng(seed)
    if shape == "two tight clusters":  # |u|² + |t|² - 2 u·t is off by 0.1, the squared distances are 1e-5
        ends = np.where(np.arange(200)[:, None] % 2, 1.0, -1.0) * draw.standard_normal(8) * 300
        keys = (ends + 1e-3 * draw.standard_normal((200, 8))).astype(np.float32)
    else:  # rounding after centring moves each key by more than the distances differ
        directions = draw.standard_normal((200, 2))
        directions[1::2] = -directions[::2]  # so that their mean, the index's centre, is the sphere's
        keys = (1000 * directions / np.linalg.norm(directions, axis=1, keepdims=True) + 1 / 3).astype(np.float32)
    index = KeyIndex(keys.shape[1], "euclidean")
    for number, key in enumerate(keys):
        index.add(str(number), key, number)
    queries = (
        keys[1:9] + 1e-3 if shape == "two tight clusters" else np.float32([index._centre] * 8) + draw.normal(0, 1e-5, 2)
    )
    queries = queries.astype(np.float32)
    held = {str(number): key for number, key in enumerate(keys)}
    assert index.nearest(queries) == [slow_nearest(held, query, "euclidean") for query in queries]


@pytest.mark.parametrize("kind", ["euclidean", "cosine"])
@pytest.mark.parametrize("few_directions", [True, False])
def test_short_forms_rule_out_nothing_that_is_nearest(kind, few_directions):
    """Wide keys in great number are searched by their largest directions; also where they have none (even noise)."""
    draw, width, count = np.random.default_rng(1), 320, 2_500
    mix = draw.standard_normal((20, width)) * 30 if few_directions else np.eye(width)
    keys = (100 + draw.standard_normal((count, len(mix))) @ mix + draw.standard_normal((count, width))).astype(
        np.float32
    )
    index, held = KeyIndex(width, kind), {}
    for number, key in enumerate(keys):
        if number in (
            1_000,
            2_200,
        ):  # before and after the keys are shortened; both stay right as more come and some go
            index.nearest(key[None])
        index.add(str(number), key, number)
        held[str(number)] = key
    for gone in ("7", "2300"):
        index.remove(gone)
        del held[gone]
    queries = np.concatenate([keys[[7, 2300, 40]] + draw.normal(0, 0.1, (3, width)), keys[:2] * 3]).astype(np.float32)
    index.compared = 0
    assert index.nearest(queries) == [slow_nearest(held, query, kind) for query in queries]
    assert index._ready().axes is not None
    if few_directions:
        assert index.compared < count  # of five searches over all keys


def test_ten_thousand_keys_cost_one_matrix_product():
    draw = np.random.default_rng(0)
    keys = (50 + 3 * draw.standard_normal((10_000, 192))).astype(np.float32)
    index = KeyIndex(192, "euclidean")
    for number, key in enumerate(keys):
        index.add(str(number), key, number)
    queries = keys[::500] + draw.standard_normal((20, 192)).astype(np.float32)
    start = time.process_time()
    found = index.nearest(queries)
    seconds = (time.process_time() - start) / len(queries)
    assert [id for id, _ in found] == [str(n) for n in range(0, 10_000, 500)]
    assert index.compared <= 50 * len(queries)  # of 10,000 each
    assert seconds < 0.2  # some ms; the room is for a busy machine


def test_many_removals_keep_the_index_small():
    index = KeyIndex(2, "euclidean")
    for number in range(1000):
        index.add(str(number), np.array([number, 0], dtype=np.float32), number)
        if number >= 10:
            index.remove(str(number - 10))
    assert len(index) == 10
    assert len(index._norms) <= 256
    assert index.nearest(np.array([[0, 0]], dtype=np.float32)) == [("990", 990.0)]


def two_factor(id, picture, question, answer="lenovo"):
    scopes = (
        scope(np.asarray(picture, dtype=np.float32), 2.0, name="picture", key_tokens="last"),
        scope(np.asarray(question, dtype=np.float32), 1.0, name="question", prompt="question", distance="cosine"),
    )
    return entry(id, *scopes, transformation=SHARED, answer=answer)


def test_every_scope_must_be_inside():
    router = Router([two_factor("e", [0, 0], [1, 0, 0])])
    assert router.queries() == (
        Query("3.mlp.out", "picture", "full", "last"),
        Query("3.mlp.out", "question", "question", "mean"),
    )
    picture = np.array([[1, 0], [1, 0], [9, 0]], dtype=np.float32)
    question = np.array([[1, 0.1, 0], [-1, 0, 0], [1, 0, 0]], dtype=np.float32)
    inside, other_question, other_picture = router.decide({"picture": picture, "question": question})
    assert (inside.entry, other_question.entry, other_picture.entry) == ("e", None, None)
    assert [r.inside for r in other_question.readings] == [True, False]
    assert other_question.explanation == (
        "The base model answers. The nearest edit is 'e' ('What brand is this computer?' → 'lenovo'), but euclidean "
        "distance 1 is within its radius 2 in 'picture'; cosine distance 2 is outside of its radius 1 in 'question'."
    )


def test_two_edits_of_one_picture_need_not_hide_each_other():
    edits = [two_factor("brand", [0, 0], [1, 0, 0]), two_factor("colour", [0, 0.1], [-1, 0, 0])]
    asked = {"picture": [[0, 0.1], [0, 0.1], [0, 9]], "question": [[1, 0, 0], [-1, 0, 0], [1, 0, 0]]}
    assert [d.entry for d in Router(edits).decide(asked)] == [None, "colour", None]
    assert [d.entry for d in Router(edits, compete="inside").decide(asked)] == ["brand", "colour", None]
    assert [d.nearest for d in Router(edits, compete="inside").decide(asked)] == ["brand", "colour", "colour"]


@settings(**PATIENT, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_competing_inside_agrees_with_a_full_search(seed):
    draw = np.random.default_rng(seed)
    pairs = [(draw.integers(-3, 4, 2), draw.integers(1, 4, 3)) for _ in range(20)]
    edits = [two_factor(f"e{n}", picture, question) for n, (picture, question) in enumerate(pairs)]
    for one in edits:
        object.__setattr__(one.scopes[1], "radius", 0.05)
    asked = {"picture": draw.integers(-4, 5, (6, 2)), "question": draw.integers(1, 4, (6, 3))}
    for row, decision in enumerate(Router(edits, compete="inside").decide(asked)):
        fits = [e for e in edits if distance(e.scopes[1].key, asked["question"][row], "cosine")[0, 0] <= 0.05]
        expected, found = slow_nearest({e.id: e.key for e in fits}, asked["picture"][row], "euclidean")
        assert decision.entry == (expected if found <= 2.0 else None)


def test_a_request_without_such_tokens_is_inside_nothing():
    router = Router([edit("e", [0, 0], 5.0, key_tokens="visual")])
    text_only, with_picture = router.decide([[math.nan, math.nan], [0, 1]])
    assert (text_only.fired, text_only.nearest, text_only.distance) == (False, "e", math.inf)
    assert "no visual tokens" in text_only.explanation
    assert with_picture.fired
    with pytest.raises(InputError, match=r"row 1 of 'mean'.* is not finite"):
        router.decide([[0, 0], [0, math.inf]])
    with pytest.raises(InputError, match=r"row 0 of 'mean'.* is not finite"):
        router.decide([[0, math.nan]])


def test_sites_and_distances_are_kept_apart():
    router = Router(
        [
            edit("a", [0, 0], 4.0, site="3.mlp.out"),
            edit("b", [0, 1, 0], 1.0, site="5.mlp.out"),
            edit("c", [1, 0, 0], 0.1, site="5.mlp.out", distance="cosine"),
        ]
    )
    first, second = Query("3.mlp.out", "mean", "full", "mean"), Query("5.mlp.out", "mean", "full", "mean")
    assert router.queries() == (first, second)
    decisions = router.decide({first: [[2, 0], [9, 9]], second: [[0, 1.25, 0], [7, 0, 0.1]]})
    assert [d.entry for d in decisions] == ["b", "c"]  # a at 0.5 of its radius, b at 0.25
    assert [d.site for d in decisions] == ["5.mlp.out", "5.mlp.out"]
    assert router.decide([2.0, 0], site="3.mlp.out")[0].entry == "a"
    assert router.decide([0, 1.25, 0], site="5.mlp.out", exclude=["b"])[0].nearest == "c"
    with pytest.raises(InputError, match="'mean' may be any of"):
        router.decide({"mean": [[2, 0]]})
    with pytest.raises(InputError, match="give a mapping"):
        router.decide([2.0, 0])


def test_keys_that_are_read_at_one_site_compete_wherever_the_edits_act():
    router = Router(
        [
            edit("a", [0, 0], 4.0, site="3.mlp.out", key_site="1.layer"),
            edit("b", [3, 0], 4.0, site="5.mlp.out", key_site="1.layer"),
        ]
    )
    assert router.queries() == (Query("1.layer", "mean", "full", "mean"),)
    assert router.queries("3.mlp.out") == ()
    assert router.sites() == ("3.mlp.out", "5.mlp.out")
    found = router.decide(np.array([[1.0, 0], [2, 0]], dtype=np.float32), site="1.layer")
    assert [(one.entry, one.site) for one in found] == [("a", "3.mlp.out"), ("b", "5.mlp.out")]
    router.remove("a")
    assert router.sites() == ("5.mlp.out",)
    assert router.decide(np.array([[1.0, 0]], dtype=np.float32))[0].entry == "b"
    with pytest.raises(InputError, match=r"Entry\.key_site: '-1\.layer'"):
        edit("c", [0, 0], key_site="-1.layer")


def test_queries_that_do_not_fit_are_named():
    router = Router([two_factor("e", [0, 0], [1, 0, 0])])
    with pytest.raises(InputError, match=r"'question' \(mean tokens of the question prompt at 3.mlp.out\) is missing"):
        router.decide({"picture": [[0, 0]]})
    with pytest.raises(InputError, match="one number of rows"):
        router.decide({"picture": [[0, 0]], "question": [[1, 0, 0]] * 2})
    with pytest.raises(InputError, match="has width 3, the entries' keys have 2"):
        router.decide({"picture": [[0, 0, 0]], "question": [[1, 0, 0]]})
    with pytest.raises(InputError, match="has width 4, others have 2"):
        router.add(two_factor("f", [0, 0, 0, 0], [1, 0, 0]))
    with pytest.raises(InputError, match="is in the router already"):
        router.add(two_factor("e", [0, 0], [1, 0, 0]))
    router.remove("e")
    router.add(two_factor("f", [0, 0, 0, 0], [1, 0, 0]))


def test_the_explanation_reads_well():
    decision = Router([edit("hp-1", [0, 0], 2.5)]).decide([1.0, 0])[0]
    assert decision.explanation == (
        "Edit 'hp-1' ('What brand is this computer?' → 'lenovo') answers: "
        "euclidean distance 1 is within its radius 2.5."
    )
    decision = Router([edit("hp-1", [0, 0], 2.5)]).decide([0, 3.14159])[0]
    assert decision.explanation == (
        "The base model answers. The nearest edit is 'hp-1' ('What brand is this computer?' → 'lenovo'), but "
        "euclidean distance 3.142 is outside of its radius 2.5."
    )


def test_a_radius_narrows_with_the_number_of_entries_and_widens_again():
    crowd = ((1, 10.0), (4, 2.0))
    router = Router([edit("one", [0, 0], 10.0, crowd=crowd)])
    asked = np.array([[5.0, 0]], dtype=np.float32)
    assert router.decide(asked)[0].entry == "one"
    for number in range(3):
        router.add(edit(f"far {number}", [1000.0 + number, 0], 10.0, crowd=crowd))
    found = router.decide(asked)[0]
    assert (found.entry, found.nearest, found.radius) == (None, "one", 2.0)
    assert router.decide(np.zeros((1, 2), dtype=np.float32))[0].entry == "one"
    router.remove("far 1")
    router.remove("far 2")
    assert router.decide(asked)[0].radius == pytest.approx(6.0)
    assert router.decide(asked)[0].entry == "one"


def test_the_share_of_the_radius_decides_between_sites_not_the_distance():
    asked = {Query(site, "mean", "full", "mean"): [[2.0, 0]] for site in ("3.mlp.out", "5.mlp.out")}
    wide = edit("wide", [0, 0], 8.0, site="3.mlp.out")  # 2 of 8
    narrow = edit("narrow", [1, 0], 2.0, site="5.mlp.out")  # 1 of 2
    for entries in ([wide, narrow], [narrow, wide]):
        assert Router(entries).decide(asked)[0].entry == "wide"
    outside = edit("outside", [2.5, 0], 0.4, site="5.mlp.out")  # nearer, and outside
    assert Router([wide, outside]).decide(asked)[0].entry == "wide"
    ratios = [Reading("mean", away, radius).ratio for away, radius in ((1, 2), (0, 2), (0, 0), (1, 0), (1, 0.5))]
    assert ratios == [0.5, 0.0, 0.0, math.inf, 2.0]
    assert Reading("mean", 1.0, 1.0).inside
    assert not Reading("mean", 1.0, 0.9).inside


def test_of_two_sites_alike_the_newest_answers():
    asked = {Query(site, "mean", "full", "mean"): [[1.0, 0]] for site in ("3.mlp.out", "5.mlp.out")}
    first, second = edit("first", [0, 0], 2.0, site="3.mlp.out"), edit("second", [0, 0], 2.0, site="5.mlp.out")
    assert Router([first, second]).decide(asked)[0].entry == "second"
    assert Router([second, first]).decide(asked)[0].entry == "first"


def test_a_rank_says_how_new_and_what_follows_is_newer():
    router = Router([edit("old", [0, 0])])
    router.add(edit("ranked", [0, 0]), rank=7)
    router.add(edit("newest", [0, 0]))
    assert router.decide([0.0, 0.0])[0].entry == "newest"
    assert router.decide([0.0, 0.0], exclude=["newest"])[0].entry == "ranked"
    assert router.decide([math.nan, math.nan])[0].nearest == "newest"
    assert router.decide([math.nan, math.nan], exclude=["newest"])[0].nearest == "ranked"
    assert router.decide([math.nan, math.nan], exclude=["old", "ranked", "newest"])[0].nearest is None


def test_what_is_taken_out_leaves_no_query_behind():
    router = Router([edit("a", [0, 0]), edit("b", [1, 0])])
    router.remove("a")
    assert [router.width(query) for query in router.queries()] == [2]
    assert ("a" in router, "b" in router, len(router.queries()), router.sites()) == (False, True, 1, ("3.mlp.out",))
    assert router.readings([1.0, 2.0], "b")[0][0].distance == 2.0
    router.remove("b")
    assert (len(router), router.queries(), router.sites()) == (0, (), ())
    router.add(edit("narrower", [0]))  # nothing is left to fit
    assert router.decide([[0.5]])[0].entry == "narrower"
    with pytest.raises(InputError, match="compete: 'none'"):
        Router(compete="none")


def test_what_lies_beyond_every_radius_is_not_named_for_its_other_scopes():
    edits = [two_factor("near", [0, 0], [-1, 0, 0]), two_factor("beyond", [0, 0.5], [1, 0, 0])]
    for one in edits:
        object.__setattr__(one.scopes[0], "radius", 0.1)
    found = Router(edits, compete="inside").decide({"picture": [[0, 0.05]], "question": [[1, 0, 0]]})[0]
    assert (found.entry, found.nearest) == (None, "near")


def test_of_three_scopes_both_others_have_to_hold_the_request():
    def three(id, picture, question, third):
        two = two_factor(id, picture, question).scopes
        more = scope(np.asarray(third, dtype=np.float32), 1.0, name="third", key_tokens="visual")
        return entry(id, *two, more, transformation=SHARED)

    edits = [three("near", [0, 0], [1, 0, 0], [9, 0]), three("fits", [0, 1], [1, 0, 0], [0, 0])]
    asked = {"picture": [[0, 0]], "question": [[1, 0, 0]], "third": [[0, 0]]}
    assert Router(edits, compete="inside").decide(asked)[0].entry == "fits"
    assert Router(edits).decide(asked)[0].entry is None
