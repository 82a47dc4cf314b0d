"""Large files open by what lies beside them: decisions and edits as without it, never anything that is out of date."""

import contextlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from codebook_samples import entry, scope, span

from vledit.codebook import Codebook
from vledit.codebook import lazily as lazy_module
from vledit.codebook import shelf as shelves
from vledit.codebook.relation import Fact
from vledit.errors import InputError, UnknownNameError

WIDTH, COUNT = 300, 60
SHARED = span()
DRAW = np.random.default_rng(0)
MIX = DRAW.standard_normal((12, WIDTH)) * 5
KEYS = (20 + DRAW.standard_normal((COUNT + 40, 12)) @ MIX).astype(np.float32)


def one(number: int, **more):
    return entry(f"e{number}", scope(KEYS[number], 3.0), transformation=SHARED, question=f"question {number}", **more)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(shelves, "LARGE", 50)
    monkeypatch.setattr(lazy_module, "FRESH", 3)


@pytest.fixture
def path(tmp_path):
    """A file that had been opened once since it became large."""
    path = tmp_path / "book.vledit"
    with Codebook.create(path, "model") as book, book.batch():
        for number in range(COUNT):
            book.add(one(number))
        book.retire("e5")
    with Codebook.open(path):
        pass
    assert (path.with_name("book.vledit.index") / "manifest.json").exists()
    return path


QUERIES = np.concatenate([KEYS + DRAW.normal(0, 0.05, KEYS.shape), KEYS + 40]).astype(np.float32)


def decided(path, **more) -> list:
    with Codebook.open(path, **more) as book:
        return book.decide(QUERIES)


def without_shelf(path, tmp_path) -> list:
    bare = tmp_path / "bare.vledit"
    shutil.copy(path, bare)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelves, "LARGE", 10**9)
        return decided(bare)


def test_keys_that_are_read_elsewhere_than_the_edit_acts_lie_on_a_shelf_too(tmp_path):
    path = tmp_path / "below.vledit"
    with Codebook.create(path, "model") as book, book.batch():
        for number in range(COUNT):
            book.add(one(number, key_site="1.layer"))
    with Codebook.open(path):
        pass
    expected = without_shelf(path, tmp_path)
    with Codebook.open(path) as book:
        assert book._lazily is not None
        assert [query.site for query in book.router.queries()] == ["1.layer"]
        assert book.router.sites() == ("3.mlp.out",)
        assert book.decide(QUERIES) == expected
        book.add(one(COUNT, key_site="1.layer"))  # fits the shelf
        assert book._lazily is not None
        assert book.decide(KEYS[[COUNT]])[0].entry == f"e{COUNT}"
        book.add(one(COUNT + 1))  # its key is read at another site: of this file no shelf can be made
        assert [query.site for query in book.router.queries()] == ["1.layer", "3.mlp.out"]


def test_decisions_are_those_of_the_whole_file_without_reading_it(path, tmp_path, monkeypatch):
    expected = without_shelf(path, tmp_path)
    assert {one.entry for one in expected} > {"e0", "e4", "e59", None}
    assert "e5" not in {one.nearest for one in expected}
    monkeypatch.setattr("vledit.codebook.store.Store.read", None)  # reading all entries would fail
    with Codebook.open(path) as book:
        assert len(book) == COUNT - 1
        assert book.decide(QUERIES) == expected
        assert "e3" in book
        assert "e5" not in book
        assert book.get("e5").status == "retired"
        assert book.get("e3").question == "question 3"
        assert np.array_equal(book.get("e3").key, KEYS[3])
        assert book.holding(Fact("question 3", book.get("e3").answer, book.get("e3").image_key)).same == "e3"
        assert book.free_id("e3") == "e3-2"
    assert decided(path, readonly=True) == expected


def test_what_is_added_counts_at_once_and_when_it_is_opened_again(path, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("vledit.codebook.store.Store.read", None)
        with Codebook.open(path) as book:
            size = (path.with_name("book.vledit.index") / "keys").stat().st_size
            for number in range(COUNT, COUNT + 5):
                book.add(one(number), same_fact="record")
            same = book.add(replace(one(3), id="again"), same_fact="record")
            assert same.id == "e3"  # nothing changes
            with pytest.raises(InputError, match="taken"):
                book.add(replace(one(70), id="e3"))
            assert book.decide(KEYS[62][None])[0].entry == "e62"
            assert len(book) == COUNT + 4
        with Codebook.open(path) as book:
            assert (path.with_name("book.vledit.index") / "keys").stat().st_size == size + 5 * 4 * WIDTH
            assert book.decide(KEYS[62][None])[0].entry == "e62"
            book.add(one(70))  # stays behind the shelf: too little to extend it
        with Codebook.open(path) as book:
            assert [one.entry for one in book.decide(KEYS[[64, 70]])] == ["e64", "e70"]
    assert decided(path) == without_shelf(path, tmp_path)
    with Codebook.open(path) as book:
        assert [event.entry for event in book.history()][-1] == "e70"
        assert len(book.entries()) == COUNT + 6


def test_a_new_answer_retires_the_old_entry(path, tmp_path):
    with Codebook.open(path) as book:
        newer = replace(one(7), id="newer", answer="another answer")
        book.add(newer, same_fact="record")
        assert book.replaced_by("newer") == ("e7",)
    with Codebook.open(path) as book:
        assert book.replaced_by("newer") == ("e7",)
        assert book.decide(KEYS[7][None])[0].entry == "newer"
        assert book.get("e7").status == "retired"
        book.remove("newer")
        assert book.decide(KEYS[7][None])[0].entry == "e7"
    assert decided(path) == without_shelf(path, tmp_path)


def purge(path):
    with Codebook.open(path) as book:
        book.purge("e9")


def another_file(path):
    with Codebook.open(path) as book:
        book.remove("e1")
        book.save(path.with_name("other"), overwrite=True)
    path.with_name("other").replace(path)


def older_copy(path):
    index = path.with_name("book.vledit.index")
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    with Codebook.open(path) as book:
        for number in range(COUNT, COUNT + 5):
            book.add(one(number))
    assert json.loads((index / "manifest.json").read_text())["count"] == COUNT + 5
    copy.replace(path)


def broken(path):
    (path.with_name("book.vledit.index") / "sketch.npz").write_bytes(b"")


def cut_off(path):
    keys = path.with_name("book.vledit.index") / "keys"
    keys.write_bytes(keys.read_bytes()[:-100])


def newer_format(path):
    manifest = path.with_name("book.vledit.index") / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"format": {shelves.FORMAT}', f'"format": {shelves.FORMAT + 1}'))


@pytest.mark.parametrize("happens", [purge, another_file, older_copy, broken, cut_off, newer_format])
def test_what_does_not_fit_the_file_is_not_used(path, tmp_path, happens):
    happens(path)
    expected = without_shelf(path, tmp_path)
    assert decided(path, readonly=True) == expected
    assert decided(path) == expected  # made anew
    assert decided(path) == expected


def test_entries_of_several_kinds_have_no_shelf(path, tmp_path):
    with Codebook.open(path) as book:
        book.add(entry("other", scope(KEYS[90], 3.0), transformation=SHARED, question="q", site="1.mlp.out"))
    with Codebook.open(path) as book:
        assert len(book) == COUNT
        assert book.decide({query: KEYS[[90]] for query in book.router.queries()})[0].entry is not None


def test_an_interrupted_append_leaves_what_was_there(path, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shelves, "_manifest", lambda folder, head: (_ for _ in ()).throw(OSError("killed")))
        with Codebook.open(path) as book:
            for number in range(COUNT, COUNT + 5):
                book.add(one(number))
    assert decided(path) == without_shelf(path, tmp_path)
    with Codebook.open(path) as book:
        assert len(book) == COUNT + 4


def told(book) -> list:
    return [(event.action, event.entry, event.detail) for event in book.history()]


def test_entries_are_retired_removed_and_restored_as_in_memory_without_reading_the_file(path, tmp_path, monkeypatch):
    """The reference goes through every entry; a random walk over both gives the same errors, statuses, events and decisions."""
    memory = Codebook("model")
    for number in range(COUNT):
        memory.add(one(number))
    memory.retire("e5")
    with Codebook.open(path) as book:
        monkeypatch.setattr("vledit.codebook.store.Store.read", None)
        assert book._store is not None
        book._store._db.execute("PRAGMA synchronous=OFF")  # only faster
        draw, refused, added = np.random.default_rng(3), 0, COUNT
        for _ in range(250):
            some = [f"e{number}" for number in (*range(8), *range(COUNT, added))]
            id, by = draw.choice(some, 2).tolist()
            kind = draw.choice(["retire", "by", "remove", "restore", "restore", "add"])
            happened = []
            for one_of in (memory, book):
                try:
                    match kind:
                        case "retire":
                            one_of.retire(id)
                        case "by":
                            one_of.retire(id, by)
                        case "add":  # takes the place of an entry if that is active
                            new = replace(one(added), question=memory.get(id).question, answer=f"answer {added}")
                            one_of.add(new, same_fact="record")
                        case _:
                            getattr(one_of, kind)(id)
                    happened.append(None)
                except InputError as error:
                    happened.append(str(error))
            assert happened[0] == happened[1]
            refused += happened[0] is not None
            added += kind == "add" and added < COUNT + 39
            assert len(book) == len(memory)
        assert book._lazily is not None
        assert 30 < refused < 220
        assert added > COUNT + 20
        ids = [f"e{number}" for number in range(added)]
        state = [(memory.get(id).status, memory.get(id).retired_by) for id in ids]
        assert len({status for status, _ in state}) == 3
        assert [(book.get(id).status, book.get(id).retired_by) for id in ids] == state
        assert book.decide(QUERIES) == memory.decide(QUERIES)
        assert told(book) == told(memory)
        assert book.history("e1") == [event for event in book.history() if event.entry == "e1"]
    with Codebook.open(path) as book:
        assert book._lazily is not None
        assert [(book.get(id).status, book.get(id).retired_by) for id in ids] == state
        assert book.decide(QUERIES) == memory.decide(QUERIES)
        monkeypatch.undo()
        assert [entry.id for entry in book.active()] == [entry.id for entry in memory.active()]


def test_an_entry_whose_change_another_one_continues_is_not_removed_alone(path):
    with Codebook.open(path) as book:
        for number in range(COUNT, COUNT + 4):
            book.add(one(number, parent="e8"))
        with pytest.raises(InputError, match="'e60' started"):
            book.remove("e8")
    with Codebook.open(path) as book:  # now these lie on the shelf
        assert book._lazily is not None
        assert not book._lazily.fresh
        book.remove("e60")
        with pytest.raises(InputError, match="'e61' started"):
            book.remove("e8")
        for id in ("e61", "e62", "e63", "e8"):
            book.remove(id)
        assert book._lazily is not None


def test_a_failed_write_leaves_a_large_file_and_its_memory_as_they_were(path, monkeypatch):
    with Codebook.open(path) as book:
        expected, size = book.decide(QUERIES), len(book)
        with monkeypatch.context() as patch:
            patch.setattr("vledit.codebook.store.Store.log", lambda *_: (_ for _ in ()).throw(OSError("no more")))
            for change in (lambda: book.remove("e3"), lambda: book.restore("e5"), lambda: book.retire("e4")):
                with pytest.raises(OSError, match="no more"):
                    change()
        with contextlib.suppress(RuntimeError), book.batch():
            book.remove("e3")
            assert "e3" not in book
            raise RuntimeError
        assert [book.get(id).status for id in ("e3", "e4", "e5")] == ["active", "active", "retired"]
        assert book.decide(QUERIES) == expected
        assert len(book) == size


def test_purging_makes_the_shelf_anew(path, tmp_path):
    with Codebook.open(path) as book:
        book.purge("e9")
        assert not book.has("e9")
        assert len(book) == COUNT - 2
        assert told(book)[-1] == ("purged", "e9", "")
    assert decided(path) == without_shelf(path, tmp_path)


def test_an_unknown_name_is_answered_with_those_that_are_like_it(path):
    with Codebook.open(path) as book:
        for ask in (book.get, book.remove, book.restore, book.retire):
            with pytest.raises(
                UnknownNameError, match=r"unknown entry 'e33x'. Did you mean 'e33'\? Known: e33 and 59 more"
            ):
                ask("e33x")


def test_a_request_without_a_key_has_the_newest_active_entry_as_its_nearest(path, tmp_path):
    nothing = np.full((1, WIDTH), np.nan, np.float32)
    with Codebook.open(path) as book:
        assert book.decide(nothing)[0].nearest == "e59"
        book.remove("e59")
        assert book.decide(nothing)[0].nearest == "e58"
        book.add(one(70))
        assert book.decide(nothing)[0].nearest == "e70"
        book.remove("e70")
        assert book.decide(nothing)[0].nearest == "e58"
    assert decided(path) == without_shelf(path, tmp_path)


def test_every_entry_of_a_large_file_may_rest(path):
    with Codebook.open(path) as book:
        with book.batch():
            for number in range(COUNT):
                if number != 5:
                    book.remove(f"e{number}")
        assert len(book) == 0
        assert book.decide(KEYS[:2])[0].nearest is None
        book.restore("e3")
        assert [one.nearest for one in book.decide(KEYS[:5])] == ["e3"] * 5
