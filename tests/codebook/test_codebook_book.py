"""The life of entries: added, retired, removed, restored, purged; in memory and in a file alike."""

from __future__ import annotations

import json

import numpy as np
import pytest
from codebook_samples import PATIENT, bits, entry, scope, span, tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from vledit.codebook import Codebook
from vledit.errors import InputError, UnknownNameError


def edit(id, key=(0.0, 0.0), radius=2.0, d_positive=0.5, answer="lenovo", **more):
    return entry(id, scope(np.asarray(key, dtype=np.float32), radius, d_positive=d_positive), answer=answer, **more)


@pytest.fixture(params=["memory", "file"])
def book(request, tmp_path):
    made = (
        Codebook("f1", "pocket")
        if request.param == "memory"
        else Codebook.create(tmp_path / "a.vledit", "f1", "pocket")
    )
    with made:
        yield made


def test_iteration_goes_over_active_entries(book):
    for id in "abc":
        book.add(edit(id))
    book.remove("b")
    assert ([e.id for e in book], len(book), "a" in book, "b" in book) == (["a", "c"], 2, True, False)
    assert [e.id for e in book.entries()] == ["a", "b", "c"]
    assert book.get("b").status == "removed"
    assert book.nbytes == 3 * (8 + 80)
    with pytest.raises(UnknownNameError, match="unknown entry 'd'"):
        book.get("d")


def test_removing_an_edit_gives_the_earlier_behaviour_and_restoring_it_the_later(book):
    book.add(edit("a"))
    asked = tensor(5, 2).numpy()
    before, kept = book.decide(asked), bits(book.get("a"))
    book.add(edit("b", (0.1, 0.0), answer="dell"), retires=["a"])
    after, b = book.decide(asked), bits(book.get("b"))
    assert (book.get("a").status, book.get("a").retired_by) == ("retired", "b")
    assert before != after
    book.remove("b")
    assert book.decide(asked) == before
    book.restore("b")
    assert book.decide(asked) == after
    assert bits(book.get("b")) == b
    book.remove("b")
    changed = {"status": book.get("a").status, "retired_by": book.get("a").retired_by}
    assert bits(book.get("a")) == {**kept, **changed}
    assert book.get("a").status == "active"
    assert [(e.action, e.entry, e.detail) for e in book.history()] == [
        ("added", "a", "'What brand is this computer?' → 'lenovo'"),
        ("added", "b", "'What brand is this computer?' → 'dell'"),
        ("retired", "a", "by 'b'"),
        ("removed", "b", ""),
        ("restored", "a", "'b' was removed"),
        ("restored", "b", ""),
        ("retired", "a", "by 'b'"),
        ("removed", "b", ""),
        ("restored", "a", "'b' was removed"),
    ]


def test_an_entry_stays_retired_while_any_of_its_successors_stands(book):
    for id, old in (("a", []), ("b", ["a"]), ("c", ["b"])):
        book.add(edit(id), retires=old)
    marks = {"active": "+", "retired": "-", "removed": "x"}
    statuses = lambda: "".join(marks[e.status] for e in book.entries())  # noqa: E731
    assert statuses() == "--+"
    book.remove("b")
    assert statuses() == "-x+"
    book.remove("c")
    assert statuses() == "+xx"
    book.restore("b")
    assert statuses() == "-+x"
    book.restore("c")
    assert statuses() == "--+"
    book.purge("c")
    assert statuses() == "-+"
    assert book.get("b").retired_by is None


def test_purging_the_middle_of_a_chain_leaves_its_ends(book):
    for id, old in (("a", []), ("b", ["a"]), ("c", ["b"])):
        book.add(edit(id), retires=old)
    book.purge("b")
    assert [(e.id, e.status, e.retired_by) for e in book.entries()] == [("a", "retired", "c"), ("c", "active", None)]
    book.add(edit("b"))


def test_a_retired_entry_can_be_brought_back_by_hand(book):
    book.add(edit("a"))
    assert book.retire("a").retired_by == "(user)"
    assert len(book) == 0
    book.remove("a")
    assert book.restore("a").status == "retired"
    assert book.restore("a").status == "active"
    book.add(edit("b"), retires=["a"])
    book.restore("a")
    book.remove("b")
    book.restore("b")
    assert [e.id for e in book] == ["a", "b"]
    assert book.decide([0.0, 0.0])[0].entry == "b"


def test_what_makes_no_sense_is_refused_and_changes_nothing(book):
    book.add(edit("a"))
    book.add(edit("b"), retires=["a"])
    state, history = [bits(e) for e in book.entries()], book.history()
    for message, action in [
        ("'a' is taken by a retired entry", lambda: book.add(edit("a"))),
        ("must be active", lambda: book.add(edit("c", status="removed"))),
        ("'a' is retired: only an active", lambda: book.add(edit("c"), retires=["a"])),
        ("unknown entry 'x'", lambda: book.add(edit("c"), retires=["x"])),
        ("was retired by it", lambda: book.retire("b", by="a")),
        ("is 'b' itself", lambda: book.retire("b", by="b")),
        ("unknown entry 'x'", lambda: book.retire("b", by="x")),
        ("'b' is active: there is nothing", lambda: book.restore("b")),
        ("unknown entry 'x'", lambda: book.remove("x")),
        ("unknown entry 'x'", lambda: book.purge("x")),
        ("has width 3, others have 2", lambda: book.add(edit("c", (1.0, 2.0, 3.0)))),
    ]:
        with pytest.raises(InputError, match=message):
            action()
    assert [bits(e) for e in book.entries()] == state
    assert book.history() == history
    assert [d.entry for d in book.decide([0.0, 0.0])] == ["b"]
    assert book.free_id("a") == "a-2"
    assert book.free_id("c") == "c"


def relation(book, key, answer="dell", question="Who made it?", image="sha256:1", d=0.5, **more):
    found = book.relation(np.asarray(key, dtype=np.float32), question, answer, image, d, **more)
    return found.kind, found.inside, found.retires


def test_by_the_papers_rule_nearness_decides_what_is_the_same_fact(book):
    paper = {"same_fact": "distance"}
    assert relation(book, (0, 0), **paper) == ("new", None, ())
    book.add(edit("a", (0, 0), 2.0, d_positive=0.5))
    book.add(edit("far", (50, 0), 2.0))
    assert relation(book, (9, 0), **paper) == ("new", None, ())
    assert relation(book, (1, 0), **paper) == ("overlap", "a", ())
    assert relation(book, (0.5, 0), **paper) == ("conflict", None, ("a",))
    assert relation(book, (0.5, 0), answer=" Lenovo ", **paper) == ("overlap", "a", ())
    assert relation(book, (1, 0), d=1.0, **paper) == ("conflict", None, ("a",))
    assert relation(book, (2.5, 0), d=9.0, **paper) == ("new", None, ())
    text = book.relation(np.zeros(2), "Which?", "dell", None, 0.0, **paper).explanation
    assert text == "The same fact as 'a' with another answer, which is retired. `restore` brings a retired entry back."


def test_the_same_fact_is_the_same_question_about_the_same_picture(book):
    book.add(edit("a", (0, 0), 2.0, d_positive=0.5))
    same = " what brand is THIS computer?"
    assert relation(book, (0.1, 0)) == ("overlap", "a", ())
    assert relation(book, (0.1, 0), question=same, image="sha256:2") == ("overlap", "a", ())
    assert relation(book, (1, 0), question=same) == ("conflict", None, ("a",))
    assert relation(book, (9, 0), question=same) == ("conflict", None, ("a",))
    assert relation(book, (1, 0), question=same, same_fact="distance") == ("conflict", None, ("a",))
    assert relation(book, (9, 0), question=same, answer=" Lenovo ") == ("same", "a", ())
    with pytest.raises(UnknownNameError, match="same_fact"):
        relation(book, (0, 0), same_fact="guess")


def test_a_supplied_wording_is_the_same_question(book):
    book.add(edit("a", (0, 0), 2.0, notes={"rephrases": ["Whose computer?"]}))
    assert relation(book, (9, 0), question="whose  computer?") == ("conflict", None, ("a",))
    assert relation(book, (9, 0), question="Which?", rephrases=["What brand is this computer?"])[2] == ("a",)
    assert relation(book, (9, 0), question="Which?", rephrases=["Who made it?"])[2] == ()


def test_after_a_conflict_is_told_who_answers_then(book):
    book.add(edit("under", (0.9, 0), 2.0, d_positive=0.1, answer="acer"))
    book.add(edit("a", (0, 0), 2.0, d_positive=0.1))
    found = book.relation(np.zeros(2), "Which?", "dell", None, 0.2, same_fact="distance")
    assert (found.kind, found.inside, found.retires) == ("conflict", "under", ("a",))


def test_relation_over_two_scopes_asks_both(book):
    scopes = (scope([0.0, 0.0], 2.0, name="picture"), scope([1.0, 0.0], 1.0, name="question", d_positive=0.1))
    book.add(entry("a", *scopes))
    positive = {"picture": 0.5, "question": 0.1}
    paper = {"same_fact": "distance"}
    ask = lambda question: {"picture": [0.1, 0.0], "question": question}  # noqa: E731
    assert book.relation(ask([1.0, 0.0]), "q", "dell", None, positive, **paper).kind == "conflict"
    assert book.relation(ask([1.5, 0.0]), "q", "dell", None, positive, **paper).kind == "overlap"
    assert book.relation(ask([5.0, 0.0]), "q", "dell", None, positive, **paper).kind == "new"


def test_what_is_replaced_is_decided_when_it_is_written(tmp_path):
    """Three writers that each read an empty file: as one after the other, one entry is active in the end."""
    Codebook.create(tmp_path / "book.vledit", "f1").close()
    books = [Codebook.open(tmp_path / "book.vledit") for _ in range(3)]
    for number, each in enumerate(books):
        each.add(edit(f"e{number}", answer=f"answer {number}"), same_fact="record")
    assert [one.id for one in Codebook.open(tmp_path / "book.vledit").active()] == ["e2"]
    again = books[0].add(edit("again", answer="ANSWER 2"), same_fact="record")
    assert again.id == "e2"
    assert len(books[0].entries()) == 3


def test_an_entry_that_others_started_from_is_not_removed_alone(book):
    book.add(edit("a"))
    book.add(edit("b", parent="a"))
    with pytest.raises(InputError, match="Remove 'b' first"):
        book.remove("a")
    book.remove("b")
    book.remove("a")
    assert len(book) == 0


def test_an_equal_key_hides_the_older_entry(book):
    book.add(edit("a", (1, 0)))
    book.add(edit("b", (5, 0)))
    assert book.hidden_by(book.add(edit("c", (1 + 1e-7, 0), answer="other", question="Which?"))) == ["a"]


def test_export_is_readable_with_and_without_tensors(book, tmp_path):
    book.add(edit("é", thumbnail=b"\xff\xd8small"))
    text = book.export(tmp_path / "plain.json").read_text()
    assert "bytes" not in json.loads(text)["entries"][0]
    assert '"id": "é"' in text
    full = json.loads(book.export(tmp_path / "full.json", tensors=True).read_text())
    assert full["model"] == {"name": "pocket", "fingerprint": "f1"}
    assert full["entries"][0]["scopes"][0]["anchors"]["negative"] == "black"
    assert full["entries"][0]["thumbnail"] == "/9hzbWFsbA=="
    assert set(full["entries"][0]["bytes"]) == {"key/0", "transformation/weight_delta", "transformation/bias_delta"}


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["add", "replace", "retire", "remove", "restore", "purge"]), st.integers(0, 9)),
    max_size=14,
)


@settings(**PATIENT, max_examples=15)
@given(ACTIONS)
def test_memory_and_file_agree_through_any_history_and_after_reopening(tmp_path_factory, actions):
    path = tmp_path_factory.mktemp("book") / "b.vledit"
    memory, file = Codebook("f1", "pocket"), Codebook.create(path, "f1", "pocket")
    for number, (action, pick) in enumerate(actions):
        ids = [e.id for e in memory.entries()]
        active = [e.id for e in memory]
        outcomes = []
        for book in (memory, file):
            try:
                if action in ("add", "replace"):
                    replaced = [active[pick % len(active)]] if active and action == "replace" else []
                    made = edit(f"e{number}", (pick, number), transformation=span(seed=pick), notes={"pick": pick})
                    book.add(made, retires=replaced)
                elif ids:
                    getattr(book, action)(ids[pick % len(ids)])
                outcomes.append("done")
            except InputError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]
    asked = tensor(4, 2).numpy() * 4
    expected = [bits(e) for e in memory.entries()]
    assert [bits(e) for e in file.entries()] == expected
    assert file.decide(asked) == memory.decide(asked)
    file.close()
    with Codebook.open(path, "f1") as again:
        assert [bits(e) for e in again.entries()] == expected
        assert again.decide(asked) == memory.decide(asked)
        assert [e[1:] for e in again.history()] == [e[1:] for e in memory.history()]
        assert again.verify() == len(expected)
    assert [p.name for p in path.parent.iterdir()] == ["b.vledit"]


@settings(**PATIENT, max_examples=60)
@given(ACTIONS, st.integers(0, 9))
def test_to_remove_and_to_restore_are_inverses_after_any_history(actions, pick):
    book = Codebook()
    states = lambda: [(e.id, e.status, e.retired_by) for e in book.entries()]  # noqa: E731
    for number, (action, choice) in enumerate(actions):
        ids, active = [e.id for e in book.entries()], [e.id for e in book]
        before = states()
        try:
            if action in ("add", "replace"):
                book.add(edit(f"e{number}"), retires=active[choice % 3 :: 3] if action == "replace" else [])
                after = states()
                book.remove(f"e{number}")  # the newest edit taken back: all others are as they were
                assert [state[:2] for state in states()[:-1]] == [state[:2] for state in before]
                book.restore(f"e{number}")
                assert states() == after
            elif ids:
                getattr(book, action)(ids[choice % len(ids)])
        except InputError:
            assert states() == before
        for held in book.entries():
            assert held.status != "retired" or held.retired_by is not None
            assert (held.id in book) == (held.status == "active")
    present = [e.id for e in book.entries() if e.status != "removed"]
    if present:
        before = states()
        book.remove(present[pick % len(present)])
        book.restore(present[pick % len(present)])
        assert states() == before


def test_a_batch_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.vledit"
    with Codebook.create(path, "f1") as book:
        with book.batch():
            for number in range(20):
                book.add(edit(f"e{number}", answer=f"a{number % 2}", question=f"q{number // 2}"), same_fact="record")
        assert [one.id for one in book.active()] == [f"e{number}" for number in range(1, 20, 2)]

        def fails():
            with book.batch():
                book.add(edit("more"))
                book.remove("e1")
                book.add(edit("e3"))

        with pytest.raises(InputError, match="taken"):
            fails()
        assert "more" not in book
        assert "e1" in book
        assert book.relation(np.zeros(2, np.float32), "q0", "a1", "sha256:1").kind == "same"
    with Codebook.open(path) as again:
        assert len(again.entries()) == 20
        assert len(again) == 10
        assert again.verify() == 20


def test_removing_entries_in_a_batch_retires_nothing_twice(tmp_path):
    with Codebook.create(tmp_path / "a.vledit", "f1") as book:
        book.add(edit("a"))
        with book.batch():
            book.add(edit("b", answer="other"), same_fact="record")
            book.remove("b")
        assert [one.id for one in book.active()] == ["a"]
        assert book.replaced_by("b") == ("a",)
