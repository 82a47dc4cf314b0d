"""The rules of who acts are those of a codebook: the same steps lead to the same edits."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codebook.codebook_samples import entry as make_entry
from vledit.codebook import Codebook
from vledit.errors import VLEditError
from vledit.serve.store import facts as rules

IDS = ("a", "b", "c", "d")
STEPS = st.lists(
    st.tuples(st.sampled_from(("add", "remove", "restore")), st.sampled_from(IDS), st.sets(st.sampled_from(IDS), max_size=2)),
    max_size=14,
)  # fmt: skip


def step(state: dict, action: str, id: str, retires: set[str]) -> None:
    if action == "add":
        state |= rules.added(state, id, sorted(retires))
    elif action == "remove":
        state |= rules.removed(state, id)
    else:
        state |= rules.restored(state, id)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_facts_and_codebook_agree(steps):
    book, state = Codebook("f"), {}
    for action, id, retires in steps:
        before = dict(state)
        try:
            if action == "add":
                book.add(make_entry(id), sorted(retires))
            else:
                getattr(book, action)(id)
            done = True
        except VLEditError:
            done = False
        try:
            step(state, action, id, retires)
            did = True
        except VLEditError:
            did, state = False, before
        assert did == done, (action, id, retires)
        assert {id: rules.status(state, id) for id in state} == {e.id: e.status for e in book.entries()}


@settings(max_examples=100, deadline=None)
@given(STEPS, st.integers(0, 14))
def test_rolling_back_restores_every_status(steps, cut):
    state, states = {}, [{}]
    for action, id, retires in steps:
        try:
            step(state, action, id, retires)
        except VLEditError:
            continue
        states.append(dict(state))
    then = states[min(cut, len(states) - 1)]
    after = {**state, **rules.rolled_back(state, then)}
    assert {id: rules.status(after, id) for id in then} == {id: rules.status(then, id) for id in then}
    assert all(rules.status(after, id) == rules.REMOVED for id in after if id not in then)


def test_disabling_and_enabling_keep_what_was_replaced():
    state = {"a": rules.Facts()}
    state |= rules.added(state, "b", ["a"])
    state |= rules.switched(state, "b", on=False)
    assert (rules.status(state, "a"), rules.status(state, "b")) == ("retired", "disabled")
    state |= rules.removed(state, "b")
    assert rules.status(state, "a") == "active"
    state |= rules.restored(state, "b")
    assert (rules.status(state, "a"), rules.status(state, "b")) == ("retired", "disabled")
