"""How a new fact relates to what is there, asked of `relate` itself; the codebook's own tests are in test_codebook_book.py."""

from __future__ import annotations

import numpy as np
import pytest
from codebook_samples import entry, scope, span

from vledit.codebook import Router
from vledit.codebook.facts import FactIndex
from vledit.codebook.relation import BACK, Fact, Relation, conflict, relate, related_by_record
from vledit.errors import InputError

SHARED = span()
ASKED = "What brand is this computer?"


def edit(id, key=(0.0, 0.0), radius=2.0, d_positive=0.5, question=ASKED, **more):
    one = scope(np.asarray(key, dtype=np.float32), radius, d_positive=d_positive)
    return entry(id, one, transformation=SHARED, question=question, **more)


def related(entries, key, question, answer="dell", d_positive=0.5, **more):
    fact = Fact(question, answer, "sha256:1")
    found = relate(Router(entries), entries, np.asarray(key, dtype=np.float32), fact, d_positive, **more)
    return found.kind, found.inside, found.retires


def test_by_the_record_alone_a_near_key_is_no_conflict():
    """Also of entries that nobody has chosen by their question before."""
    assert related([edit("a")], (0.1, 0), "Who made it?") == ("overlap", "a", ())
    assert related([edit("a")], (0.1, 0), "Who made it?", same_fact="distance") == ("conflict", None, ("a",))
    assert related([edit("a")], (0.1, 0), ASKED) == ("conflict", None, ("a",))


def test_the_nearest_is_retired_first():
    entries = [edit("far", (1.5, 0)), edit("near", (0.5, 0)), edit("middle", (1, 0))]
    assert related(entries, (0, 0), ASKED) == ("conflict", None, ("near", "middle", "far"))


def test_keys_of_another_site_are_not_compared_but_the_record_counts():
    entries = [edit("here", (0.1, 0)), edit("there", (0.1, 0), site="5.mlp.out")]
    by_distance = {"site": "3.mlp.out", "same_fact": "distance"}
    assert related(entries, (0, 0), "Who made it?", **by_distance) == ("conflict", None, ("here",))
    assert related(entries, (0, 0), "Who made it?", **{**by_distance, "site": "5.mlp.out"})[2] == ("there",)
    # where no distance can be told it counts as none
    assert related(entries, (0, 0), ASKED, **by_distance) == ("conflict", None, ("there", "here"))


def test_distances_up_to_the_rephrasings_are_the_same_fact():
    """The edge itself counts, the larger of both distances decides, and no distance given is one of 0."""
    by_distance = {"same_fact": "distance"}
    assert related([edit("a", d_positive=0.25)], (0.5, 0), "Who?", d_positive=0.5, **by_distance)[0] == "conflict"
    assert related([edit("a", d_positive=0.5)], (0.5, 0), "Who?", d_positive={}, **by_distance)[0] == "conflict"
    assert related([edit("a", d_positive=0.25)], (0.5, 0), "Who?", d_positive={}, **by_distance)[0] == "overlap"
    one = [edit("a", d_positive=0.25)]
    found = relate(Router(one), one, np.array([0.5, 0]), Fact("Who?", "dell"), same_fact="distance")
    assert found.kind == "overlap"
    bare = entry("bare", scope(np.zeros(2, np.float32), 2.0), transformation=SHARED)
    object.__setattr__(bare.scopes[0], "anchors", None)
    assert related([bare], (0.5, 0), "Who?", d_positive=0.25, **by_distance)[0] == "overlap"
    assert related([bare], (0.5, 0), "Who?", d_positive=0.5, **by_distance)[0] == "conflict"


def test_what_is_outside_of_one_scope_is_no_conflict_however_near_a_rephrasing_lies():
    scopes = (scope([0.0, 0.0], 2.0, name="picture"), scope([1.0, 0.0], 1.0, name="question"))
    one = [entry("a", *scopes, transformation=SHARED)]
    asked = {"picture": np.zeros((1, 2)), "question": np.array([[5.0, 0.0]])}
    far = {"picture": 9.0, "question": 9.0}
    found = relate(Router(one), one, asked, Fact("Who?", "dell"), far, same_fact="distance")
    assert (found.kind, found.retires) == ("new", ())


def test_one_fact_at_a_time():
    with pytest.raises(InputError, match="not 2 rows"):
        related([edit("a")], [(0, 0), (1, 0)], ASKED)


def test_a_return_to_what_the_base_says_retires_and_needs_no_entry():
    found = conflict(("a", "b"), "under").reverted()
    assert (found.kind, found.inside, found.retires, found.same) == ("revert", None, ("a", "b"), None)
    assert found.explanation == f"The base gives this answer: 'a', 'b' retired, no edit is needed. {BACK}"


def test_by_record_without_keys():
    entries = [edit("a"), edit("b", question="Who made it?", answer="Dell")]
    assert related_by_record(entries, Fact(ASKED, "dell", "sha256:1")).retires == ("a",)
    assert related_by_record(entries, Fact(ASKED, "LENOVO", "sha256:1")).same == "a"
    assert related_by_record(entries, Fact(ASKED, "dell", "sha256:2")) == Relation(
        "new", None, (), "Nobody has asked this."
    )


def test_the_index_gives_all_that_asks_the_same_by_any_wording_and_nothing_that_is_gone():
    worded = edit("worded", question="Which?", notes={"rephrases": [ASKED, "Whose?"]})
    index = FactIndex([edit("a"), worded, edit("text", image_key=None)])
    assert index.candidates(Fact(f" {ASKED.upper()} ", "", "sha256:1")) == ["a", "worded"]
    assert index.candidates(Fact("Who?", "", "sha256:1", ("whose?",))) == ["worded"]
    assert index.candidates(Fact(ASKED, "")) == ["text"]
    index.discard(edit("a"))
    assert index.candidates(Fact(ASKED, "", "sha256:1")) == ["worded"]
    index.discard(worded)
    assert index.candidates(Fact("Whose?", "", "sha256:1", (ASKED,))) == []
    index.discard(worded)  # what is not there is left out without a word
    assert index.candidates(Fact(ASKED, "")) == ["text"]
    assert list(index._ids) == [(None, ASKED.casefold())]
