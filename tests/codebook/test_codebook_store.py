"""The file: bit for bit, one file, and a clear word for whatever is wrong with it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from codebook_samples import PATIENT, bits, entry, scope, span, tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vledit.codebook import Codebook, FullTransformation, LazyTransformation, reading
from vledit.codebook import store as files
from vledit.codebook.record import pack, unpack
from vledit.codebook.scope import Anchors, Scope
from vledit.errors import CodebookError, InputError, ModelMismatchError, UnknownNameError


@pytest.fixture
def path(tmp_path) -> Path:
    """A codebook of three entries."""
    made = tmp_path / "book.vledit"
    with Codebook.create(made, "f1", "blip2-opt") as book:
        book.add(entry("a", thumbnail=b"\xff\xd8 a secret picture"))
        book.add(entry("b", scope(tensor(4), 0.1), scope(name="question"), transformation=span(), parent="a"))
        book.add(entry("c", seed=7, notes={"why": ["ünïcode", 1.5]}), retires=["a"])
    return made


def rewrite(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(statement)
    db.close()


DTYPES = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16])
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(**PATIENT, max_examples=15)
@given(
    st.tuples(st.integers(0, 4), st.integers(1, 4)).flatmap(lambda shape: arrays(np.float32, shape, elements=FLOATS)),
    DTYPES,
    arrays(np.float32, 3, elements=FLOATS),
    st.floats(0, 1e300),
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_any_entry_comes_back_bit_for_bit(tmp_path_factory, weights, dtype, key, radius, text):
    path = tmp_path_factory.mktemp("book") / "b.vledit"
    weight = torch.from_numpy(weights).to(dtype).nan_to_num(posinf=1.0, neginf=-0.0)
    made = entry(
        "e",
        scope(key, radius, crowd=((1, radius), (300, radius / 2), (5000, 0.0))),
        transformation=FullTransformation(weight),
        question=text,
        notes={text: radius},
    )
    with Codebook.create(path, "f1") as book:
        held = book.add(made)
        assert bits(held) == bits(made)
    with Codebook.open(path) as book:
        assert bits(book.get("e")) == bits(made)
        assert isinstance(book.get("e").transformation, LazyTransformation)


def test_a_positive_without_a_negative_comes_back_and_older_versions_pass_it_over():
    made = entry("e", Scope("last", tensor(4), 1.0, anchors=Anchors("supplied", "Which?", "", 0.5, None)))
    row, parts = pack(made)
    (written,) = json.loads(row.record)["scopes"]
    assert written["anchors"] is None  # all that older versions know of
    found = unpack(row, row.digest(), parts, lambda manifest: made.transformation)
    assert found.anchors == made.anchors


def test_a_transposed_weight_is_stored_as_it_reads(tmp_path):
    made = entry(transformation=FullTransformation(tensor(4, 3).T.requires_grad_()))
    with Codebook.create(tmp_path / "b", "f1") as book:
        assert torch.equal(book.add(made).transformation.tensors()["weight_delta"], tensor(4, 3).T)


def test_half_precision_is_on_request_and_refuses_what_does_not_fit(tmp_path):
    book = Codebook("f1")
    book.add(entry("a", transformation=FullTransformation(tensor(3, 4))))
    book.save(tmp_path / "half", dtype="bfloat16")
    with Codebook.open(tmp_path / "half") as half:
        stored = half.get("a").transformation
        assert stored.nbytes == 24
        assert torch.equal(stored.tensors()["weight_delta"], tensor(3, 4).bfloat16())
        assert half.get("a").key.tobytes() == book.get("a").key.tobytes()
    book.add(entry("b", transformation=FullTransformation(torch.full((1, 1), 1e6))))
    with pytest.raises(InputError, match="entry 'b', weight_delta: not finite in float16"):
        book.save(tmp_path / "f16", dtype="float16")
    with pytest.raises(UnknownNameError, match="unknown dtype 'int4'"):
        book.save(tmp_path / "f16", dtype="int4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["half"]


def test_save_copies_everything_and_never_overwrites_unasked(path, tmp_path):
    with Codebook.open(path) as book:
        book.remove("b")
        copy = book.save(tmp_path / "deep" / "copy.vledit")
        assert book.save(path) == path
        with pytest.raises(CodebookError, match="exists already: choose another path, or pass overwrite=True"):
            book.save(copy)
        book.add(entry("d"))
        book.save(copy, overwrite=True)
        with Codebook.open(copy, "f1") as again:
            assert [bits(e) for e in again.entries()] == [bits(e) for e in book.entries()]
            assert again.history() == book.history()
    with pytest.raises(CodebookError, match="exists already: open it"):
        Codebook.create(path, "f1")
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["copy.vledit"]


def test_another_models_file_is_refused_by_both_names(path):
    with pytest.raises(ModelMismatchError) as error:
        Codebook.open(path, "f2", "minigpt4")
    assert "'blip2-opt' (f1), not for 'minigpt4' (f2)" in str(error.value)
    with Codebook.open(path) as book:
        assert (book.fingerprint, book.model_name) == ("f1", "blip2-opt")


def test_a_newer_schema_is_refused(path):
    rewrite(path, "PRAGMA user_version = 3")
    with pytest.raises(CodebookError, match="has schema 3, this VLEdit reads up to 2: upgrade"):
        Codebook.open(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"SQLite format 3\0", b"x" * 5000, b"\x89PNG" + bytes(9000)])
def test_what_is_no_codebook_is_named_so(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CodebookError, match="not a codebook"):
        Codebook.open(tmp_path / "x")


def test_other_sqlite_files_directories_and_nothing_are_refused(tmp_path):
    rewrite(tmp_path / "other", "CREATE TABLE entries(id)")
    with pytest.raises(CodebookError, match="not a codebook of VLEdit"):
        Codebook.open(tmp_path / "other")
    for missing in (tmp_path, tmp_path / "none"):
        with pytest.raises(CodebookError, match="there is no codebook at"):
            Codebook.open(missing)
    with pytest.raises(CodebookError, match="could not be written"):
        Codebook.create(tmp_path / "other" / "below", "f1")


def test_a_truncated_file_is_told_at_every_length(path, tmp_path):
    whole = path.read_bytes()
    cut = tmp_path / "cut"
    lengths = {*range(0, 200, 13), *range(0, len(whole), 509), *range(len(whole) - 5, len(whole))}
    for length in sorted(lengths):
        cut.write_bytes(whole[:length])
        with pytest.raises(CodebookError):
            Codebook.open(cut)
    cut.write_bytes(whole)
    Codebook.open(cut).close()


def test_a_changed_byte_is_never_taken_for_the_truth(path, tmp_path):
    """Wherever a byte flips: told, or without effect on any entry."""
    whole = path.read_bytes()
    with Codebook.open(path) as book:
        truth = [bits(e) for e in book.entries()]
    told = 0
    for place in range(0, len(whole), len(whole) // 150):
        flipped = tmp_path / "flipped"
        flipped.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            with Codebook.open(flipped) as book:
                book.verify()
                assert [bits(e) for e in book.entries()] == truth
        except CodebookError:
            told += 1
    assert told > 20  # the rest is free space within pages


@pytest.mark.parametrize(
    ("change", "when", "message"),
    [
        ("UPDATE entries SET answer = 'dell' WHERE id = 'b'", "open", "entry 'b' is damaged: its digest"),
        ("UPDATE tensors SET data = zeroblob(16) WHERE part = 'key/0' AND entry = 2", "open", "key of 'b' is damaged"),
        ("DELETE FROM tensors WHERE part = 'key/1'", "open", "key of 'b' is damaged"),
        (
            "UPDATE tensors SET data = zeroblob(64) WHERE part = 'transformation/weight_delta'",
            "use",
            "weight_delta of 'a'",
        ),
        ("DELETE FROM tensors WHERE part = 'transformation/weight_delta'", "use", "weight_delta of 'a' is damaged"),
        ("DROP TABLE tensors", "open", "damaged .no such table"),
    ],
)
def test_damage_that_sqlite_cannot_see_is_found(path, change, when, message):
    rewrite(path, change)
    if when == "open":
        with pytest.raises(CodebookError, match=message):
            Codebook.open(path)
        return
    with Codebook.open(path) as book:
        with pytest.raises(CodebookError, match=message):
            book.get("a").transformation.delta(tensor(4))
        with pytest.raises(CodebookError, match=message):
            book.verify()


def test_a_change_does_not_bless_damage(path):
    with Codebook.open(path) as book:
        rewrite(path, "UPDATE entries SET answer = 'dell' WHERE id = 'b'")
        book._store._version = book._store._data_version()  # as if it had happened unseen
        with pytest.raises(CodebookError, match="entry 'b' is damaged"):
            book.remove("b")


def test_a_full_disk_leaves_the_old_state(path):
    with Codebook.open(path) as book:
        before = [bits(e) for e in book.entries()]
        pages = book._store._db.execute("PRAGMA page_count").fetchone()[0]
        book._store._db.execute(f"PRAGMA max_page_count = {pages + 2}")
        big = entry("big", transformation=FullTransformation(tensor(200, 200)))
        with pytest.raises(CodebookError, match=r"the disk is full\. The codebook is as it was before"):
            book.add(big, retires=["b"])
        assert [bits(e) for e in book.entries()] == before
        assert "big" not in book
        book._store._db.execute("PRAGMA max_page_count = 100000")
        book.add(big)
        assert book.verify() == 4
    with Codebook.open(path) as book:
        assert [bits(e) for e in book.entries()][:3] == before


def write_to_a_small_disk(path: Path, reports) -> None:
    """In a process of its own: files may not grow beyond 100 kB for a while."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    big = entry("big", transformation=FullTransformation(tensor(300, 300)))
    other = Codebook("f1")
    other.add(big)
    with Codebook.open(path) as book:
        before = [bits(e) for e in book.entries()]
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited[1]))
        messages = []
        for attempt in (lambda: book.add(big), lambda: other.save(f"{path}.copy")):
            try:
                attempt()
            except CodebookError as error:
                messages.append(str(error))
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        messages.append("same" if [bits(e) for e in book.entries()] == before and book.verify() == 3 else "changed")
        book.add(big)
    reports.send(messages)


@pytest.mark.skipif(os.name != "posix", reason="limits a file's size as POSIX does")
def test_a_disk_that_refuses_a_write_leaves_the_old_state(path):
    fork = multiprocessing.get_context("fork")
    reading, writing = fork.Pipe(duplex=False)
    process = fork.Process(target=write_to_a_small_disk, args=(path, writing))
    process.start()
    writing.close()
    added, saved, state = reading.recv()
    process.join(20)
    assert "as it was before" in added
    assert "as it was before" in saved
    assert state == "same"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with Codebook.open(path) as book:
        assert book.verify() == 4


def test_a_second_writer_is_told_and_the_first_goes_on(path):
    with Codebook.open(path) as first, Codebook.open(path) as second:
        second._store._db.execute("PRAGMA busy_timeout = 50")
        with first._store.transaction():
            with pytest.raises(
                CodebookError, match=r"another process is writing to it\. Nothing was changed; try again"
            ):
                second.add(entry("d"))
            assert second.get("c").transformation.tensors()  # reading goes on
        second.add(entry("d", seed=1))
        first.add(entry("e", seed=2))  # takes in what the other wrote first
        assert [e.id for e in first.entries()] == ["a", "b", "c", "d", "e"]
        with pytest.raises(InputError, match="'e' is taken"):
            second.add(entry("e"))
        assert second.refresh() is False  # the refused change has refreshed it
        second.remove("c")
        assert first.verify() == 5  # of the file; what the other wrote is not taken in by looking
        assert first.get("a").status == "retired"
        assert first.refresh()
        assert first.get("a").status == "active"
        assert [bits(e) for e in first.entries()] == [bits(e) for e in second.entries()]


def test_a_reader_that_finds_the_file_locked_says_so(path, monkeypatch):
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    with pytest.raises(CodebookError, match="another process is writing"):
        files.Store(path, busy_seconds=0.05)
    blocker.close()


def test_read_only_files_open_and_refuse_changes(path, monkeypatch):
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        for book in (Codebook.open(path, readonly=True), Codebook.open(path)):
            with book:
                assert book.get("c").transformation.tensors()
                assert book.verify() == 3
                if book.readonly:  # root may write to any file
                    with pytest.raises(CodebookError, match="open read-only: nothing was changed"):
                        book.remove("b")
    finally:
        path.parent.chmod(0o755)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert Codebook.open(path).readonly


def test_purged_entries_leave_no_bytes_behind(path):
    before = path.stat().st_size
    with Codebook.open(path) as book:
        book.add(
            entry("big", question="a secret question", transformation=FullTransformation(tensor(200, 200, seed=5)))
        )
        needle = tensor(200, 200, seed=5).numpy().tobytes()[8000:8016]
        assert needle in path.read_bytes()
        book.purge("big")
        book.purge("a")
        content = path.read_bytes()
    assert needle not in content
    assert b"a secret picture" not in content
    assert path.stat().st_size <= before + 4096
    with Codebook.open(path) as book:
        assert book.verify() == 2
        assert [e.action for e in book.history() if e.entry == "big"] == ["added", "purged"]


def test_the_file_gets_smaller_and_stays_one(path):
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert db.execute("PRAGMA application_id").fetchone() == (files.APPLICATION_ID,)
    db.close()


def test_transformations_are_read_when_used_and_kept_within_a_budget(path, monkeypatch):
    with Codebook.open(path) as book:
        a, c = book.get("a").transformation, book.get("c").transformation
        assert (book._store._size, a.nbytes) == (0, 80)
        assert a.load() is a.load()
        monkeypatch.setattr(reading, "KEPT", 100)
        c.load()
        assert (list(book._store._kept), book._store._size) == ([3], 80)
    with pytest.raises(CodebookError, match="it is closed"):
        a.load()


def test_other_threads_may_read(path):
    found = []
    with Codebook.open(path) as book:
        threads = [threading.Thread(target=lambda: found.append(bits(book.get("c")))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [bits(book.get("c"))] * 4


def test_a_transformation_of_an_unknown_kind_says_where_to_look(path):
    class Rotation(FullTransformation):
        kind = "rotation"

    with Codebook.open(path) as book:
        held = book.add(entry("r", transformation=Rotation(tensor(2, 2))))
        with pytest.raises(CodebookError, match="of kind 'rotation', known here are full, span"):
            held.transformation.load()
