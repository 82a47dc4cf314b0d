"""Scope shares, on cases whose scope is known by construction."""

import math

import pytest

from vledit.evaluate import scope_shares
from vledit.evaluate.metrics import table
from vledit.evaluate.outcomes import Outcome

GIVEN = {"changed_new_token": math.nan, "changed_same_token": math.nan, "distance": math.nan, "radius": math.nan}


def outcome(family: str, cell: str, index: int, right: bool, case: str = "a") -> Outcome:
    wanted = {"changed_new": right, "changed_same": None}
    if family == "locality":
        wanted = {"changed_new": False, "changed_same": right}
    return Outcome(case, "ft", family, cell, index, False, 0.0, fired=True, **wanted, **GIVEN)


def edit(succeeds: bool, text: list[bool], near: list[bool], far: list[bool], case: str = "a") -> dict:
    found = [outcome("reliability", "edit", 0, succeeds, case)]
    for family, cell, rights in (
        ("generality", "text", text),
        ("locality", "near_image", near),
        ("locality", "random_image", far),
    ):
        found += [outcome(family, cell, index, right, case) for index, right in enumerate(rights)]
    return {"case": case, "variant": "ft", "base_answer": "", "edit": None, "outcomes": found}


@pytest.mark.parametrize(
    ("text", "near", "far", "expected"),
    [
        ([True, False], [True, False], [True], "scope_right"),  # half is enough
        ([True, False, False], [True], [True], "scope_too_narrow"),
        ([True], [False, False, True], [True], "scope_too_wide"),
        ([True], [True], [False], "scope_too_wide"),  # one cell of a family is enough
        ([False], [False], [True], "scope_both"),
    ],
)
def test_each_kind_is_told(text, near, far, expected):
    assert scope_shares.scope_of(edit(True, text, near, far)["outcomes"]) == expected


def test_an_edit_that_fails_or_has_one_family_alone_has_no_scope():
    assert scope_shares.scope_of(edit(False, [True], [True], [True])["outcomes"]) is None
    assert scope_shares.scope_of(edit(True, [], [True], [True])["outcomes"]) is None
    assert scope_shares.scope_of([]) is None


def test_shares_add_up_to_one_over_the_edits_that_succeed():
    records = [
        edit(True, [True], [True], [True], "a"),
        edit(True, [False], [True], [True], "b"),
        edit(True, [True], [True], [False], "c"),
        edit(True, [True], [True], [True], "d"),
        edit(False, [True], [True], [True], "e"),
    ]
    found = table(records)
    assert {name: found[name].mean for name in scope_shares.NAMES} == {
        "scope_right": 0.5,
        "scope_too_narrow": 0.25,
        "scope_too_wide": 0.25,
        "scope_both": 0.0,
    }
    assert all(found[name].n == 4 for name in scope_shares.NAMES)
