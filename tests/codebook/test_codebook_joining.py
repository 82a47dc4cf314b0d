"""Joining and comparing codebooks, on constructed ones whose outcome is known."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from codebook_samples import bits, entry, scope, tensor

from vledit.codebook import Codebook, differences, join, merge
from vledit.errors import CodebookError, InputError, ModelMismatchError, UnknownNameError


def made(id: str, question: str, answer: str, seed: int, day: int = 1, **more):
    key = scope(tensor(4, seed=seed))
    created = f"2026-01-{day:02}T00:00:00.000000+00:00"
    return entry(id, key, seed=seed, question=question, answer=answer, created=created, **more)


@pytest.fixture
def ancestor(tmp_path: Path) -> Path:
    """A codebook with two entries, from which two colleagues start."""
    path = tmp_path / "ancestor.vledit"
    with Codebook.create(path, "model", "tiny") as book:
        book.add(made("cup", "What is it?", "a cup", 1))
        book.add(made("tea", "What is in it?", "tea", 2))
    return path


@pytest.fixture
def colleagues(ancestor: Path, tmp_path: Path) -> tuple[Path, Path]:
    """`a` edits "who" and replaces "cup"; `b` edits "who" otherwise, removes "tea", and uses an id that `a` uses."""
    a, b = (Path(shutil.copy(ancestor, tmp_path / f"{name}.vledit")) for name in "ab")
    with Codebook.open(a) as book:
        book.add(made("mug", "What is it?", "a mug", 3, day=2), ["cup"])
        book.add(made("who", "Who made it?", "Ann", 4, day=3))
        book.add(made("mine", "Where is it?", "here", 5, day=4))
        book.add(made("equal", "How old is it?", "new", 6, day=4))
    with Codebook.open(b) as book:
        book.add(made("who", "who made  it?", "Bob", 7, day=5))
        book.add(made("old", "How old is it?", "New", 8, day=5))
        book.add(made("theirs", "When?", "now", 9, day=6, parent="who"))
        book.remove("tea")
    return a, b


def by_id(path: Path) -> dict:
    with Codebook.open(path, readonly=True) as book:
        return {one.id: bits(one) for one in book.entries()}


def states(path: Path) -> dict[str, tuple]:
    with Codebook.open(path, readonly=True) as book:
        return {one.id: (one.answer, one.status, one.retired_by, one.parent) for one in book.entries()}


def test_conflicts_are_named_and_nothing_is_written(colleagues, tmp_path):
    with pytest.raises(InputError, match=r"1 facts.*\n.*'Ann' \(first, entry 'who'\) or 'Bob' \(second, entry 'who'\)"):
        merge(*colleagues, tmp_path / "c.vledit")
    assert not (tmp_path / "c.vledit").exists()


@pytest.mark.parametrize(
    ("prefer", "winner", "loser"), [("first", "who", "who-2"), ("second", "who-2", "who"), ("newest", "who-2", "who")]
)
def test_joined_codebooks_hold_everything_once(colleagues, tmp_path, prefer, winner, loser):
    out = tmp_path / "c.vledit"
    found = merge(*colleagues, out, prefer)
    assert states(out) == {
        "cup": ("a cup", "retired", "mug", None),
        "tea": ("tea", "removed", None, None),  # the later change counts
        "mug": ("a mug", "active", None, None),
        "who": ("Ann", *(("active", None) if winner == "who" else ("retired", winner)), None),
        "mine": ("here", "active", None, None),
        "equal": ("new", "active", None, None),
        "who-2": ("Bob", *(("active", None) if winner == "who-2" else ("retired", winner)), None),
        "theirs": ("now", "active", None, "who-2"),
    }
    assert found.same == [("equal", "old")]
    assert found.renamed == {"who": "who-2"}
    assert found.statuses == {"cup": "retired", "tea": "removed"}
    assert sorted(found.shared) == ["cup", "tea"]
    with Codebook.open(out) as book:
        assert book.verify() == 8
        book.remove("theirs")  # it was made on top of the other "who"
        book.remove(winner)  # the loser comes back, as with every retired entry
        assert book.get(loser).status == "active"
        actions = [event.action for event in book.history()]
        assert actions.count("added") == 2 + 4 + 3  # the ancestor's once


def test_tensors_keys_and_notes_are_kept_bit_for_bit(colleagues, tmp_path):
    out = tmp_path / "c.vledit"
    merge(*colleagues, out, "first")
    mine, theirs, joined = map(by_id, (*colleagues, out))
    for id in ("mug", "who", "mine", "equal"):
        assert joined[id] == mine[id]
    names = ("notes", "scopes", "transformation")
    for id, source in (("theirs", "theirs"), ("who-2", "who")):
        assert [joined[id][name] for name in names] == [theirs[source][name] for name in names]


def test_a_codebook_joined_with_itself_is_itself(colleagues, tmp_path):
    a, _ = colleagues
    copy = Path(shutil.copy(a, tmp_path / "copy.vledit"))
    found = merge(a, copy, tmp_path / "c.vledit")
    assert (found.added, found.conflicts, found.same) == ([], [], [])
    assert by_id(tmp_path / "c.vledit") == by_id(a)


def test_what_the_second_retired_by_a_renamed_entry(ancestor, tmp_path):
    """`b` replaces "cup" by an entry whose id `a` has given to another fact."""
    a, b = (Path(shutil.copy(ancestor, tmp_path / f"{name}.vledit")) for name in "ab")
    with Codebook.open(a) as book:
        book.add(made("new", "Where is it?", "here", 5, day=2))
    with Codebook.open(b) as book:
        book.add(made("new", "What is it?", "a mug", 3, day=2), ["cup"])
    merge(a, b, tmp_path / "c.vledit")
    assert states(tmp_path / "c.vledit")["cup"] == ("a cup", "retired", "new-2", None)


def test_other_models_other_rules_and_paths_are_refused(colleagues, tmp_path):
    a, b = colleagues
    with Codebook.create(tmp_path / "other.vledit", "another", "large"):
        pass
    with pytest.raises(ModelMismatchError, match=r"tiny.*large"):
        merge(a, tmp_path / "other.vledit", tmp_path / "c.vledit")
    with pytest.raises(UnknownNameError, match="newest"):
        merge(a, b, tmp_path / "c.vledit", "newset")
    with pytest.raises(InputError, match="is one of the codebooks"):
        merge(a, b, b, "first", overwrite=True)
    with pytest.raises(CodebookError, match="exists already"):
        merge(a, b, tmp_path / "other.vledit", "first")


def test_join_in_memory_changes_neither(colleagues):
    with Codebook.open(colleagues[0]) as a, Codebook.open(colleagues[1]) as b:
        before = [bits(one) for book in (a, b) for one in book.entries()]
        found = join(a, b)
        assert [(one.first.answer, one.second.answer, one.kept) for one in found.conflicts] == [("Ann", "Bob", "")]
        assert [bits(one) for book in (a, b) for one in book.entries()] == before


def test_differences(colleagues):
    with Codebook.open(colleagues[0]) as a, Codebook.open(colleagues[1]) as b:
        found = differences(a, b)
        assert [one.id for one in found.only_first] == ["mine"]
        assert [one.id for one in found.only_second] == ["theirs"]
        assert [(one.answer, other.answer) for one, other in found.changed] == [("a mug", "a cup"), ("Ann", "Bob")]
        assert [(one.id, other.id) for one, other in found.remade] == [("equal", "old")]
        assert [(one.id, one.status, two.status) for one, two in found.statuses] == [
            ("cup", "retired", "active"),
            ("tea", "active", "removed"),
        ]
        assert found.equal == 0
        assert found
        assert not differences(a, a)
        assert differences(a, a).equal == len(a)
