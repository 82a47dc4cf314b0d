"""A writer that is killed leaves a codebook that opens, with every edit that it had reported as committed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import time

import pytest
import torch
from codebook_samples import FullTransformation, bits, entry, tensor

from vledit.codebook import Codebook
from vledit.codebook import store as files
from vledit.errors import CodebookError

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9 and fork")


def numbered(number: int):
    return entry(f"e{number}", seed=number, transformation=FullTransformation(tensor(96, 256, seed=number)))


def write_until_killed(path, first: int, reports) -> None:
    torch.set_num_threads(1)
    with Codebook.open(path, "f1") as book:
        for number in range(first, first + 10_000):
            replaced = [f"e{number - 1}"] if f"e{number - 1}" in book and number % 3 == 0 else []
            book.add(numbered(number), retires=replaced)
            os.write(reports, f"{number}\n".encode())


def run_and_kill(target, *arguments, after: float) -> bytes:
    """Run in a process of its own, kill it `after` seconds after its first report; returns its reports."""
    reading, writing = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=target, args=(*arguments, writing))
    process.start()
    os.close(writing)
    reports = os.read(reading, 100)
    time.sleep(after)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(20)
    assert process.exitcode == -signal.SIGKILL
    while more := os.read(reading, 100_000):
        reports += more
    os.close(reading)
    return reports


def test_ten_kills_at_random_moments_lose_nothing_that_was_reported(tmp_path):
    path = tmp_path / "book.vledit"
    Codebook.create(path, "f1").close()
    moments, committed, journals = random.Random(0), [], 0
    for _ in range(10):
        first = len(committed)
        reports = run_and_kill(write_until_killed, path, first, after=moments.uniform(0, 0.05))
        journals += os.path.exists(f"{path}-journal")
        committed += [int(line) for line in reports.split()]
        with Codebook.open(path, "f1") as book:
            held = [e.id for e in book.entries()]
            assert book.verify() == len(held)
            # at most one more than reported: committed, but killed before it could say so
            assert held[: len(committed)] == [f"e{number}" for number in committed]
            assert len(held) <= len(committed) + 1
            for number in range(first, len(held)):
                told = bits(book.get(f"e{number}"))
                life = {name: told[name] for name in ("status", "retired_by")}
                assert told == {**bits(numbered(number)), **life}
            for number in range(1, len(held)):  # the edit and what it retires are one step
                retired = number % 3 == 0 and book.get(f"e{number - 1}").retired_by == f"e{number}"
                assert retired == (number % 3 == 0)
            committed = list(range(len(held)))
    assert [p.name for p in tmp_path.iterdir()] == ["book.vledit"]
    print(f"{len(committed)} committed, {journals} of 10 kills within a write")


def stop_within_a_write(path, reports) -> None:
    """Half of a transaction is in the file itself (not only in memory) when the kill comes."""
    with Codebook.open(path, "f1") as book:
        store = book._store
        assert store is not None
        store._db.execute("PRAGMA cache_size = 2")
        with store.transaction():
            store.set_status(book.get("e0").with_status("removed", None))
            for number in range(1, 4):
                store.insert(numbered(number))
            os.write(reports, b"written")
            time.sleep(60)


def test_a_write_that_was_cut_off_is_rolled_back(tmp_path):
    path = tmp_path / "book.vledit"
    with Codebook.create(path, "f1") as book:
        book.add(numbered(0))
        before = bits(book.get("e0"))
    size = path.stat().st_size
    run_and_kill(stop_within_a_write, path, after=0)
    assert os.path.getsize(f"{path}-journal") > 512
    assert path.stat().st_size > size
    with pytest.raises(CodebookError, match="open it once with the right to write"):
        Codebook.open(path, readonly=True)
    with pytest.raises(CodebookError, match="or was cut off: open it once, then save again"):
        Codebook("f1").save(path, overwrite=True)
    with Codebook.open(path, "f1") as book:
        assert [bits(e) for e in book.entries()] == [before]
        assert book.verify() == 1
    assert path.stat().st_size == size
    assert [p.name for p in tmp_path.iterdir()] == ["book.vledit"]


def test_the_empty_journal_of_a_writer_that_had_not_begun_is_swept_away(tmp_path):
    path, journal = tmp_path / "book.vledit", tmp_path / "book.vledit-journal"
    with Codebook.create(path, "f1") as book:
        book.add(numbered(0))
        for content in (b"", bytes(512)):
            journal.write_bytes(content)
            Codebook.open(path, readonly=True).close()
            assert journal.exists()
            with book._store.transaction():  # while another one writes, the journal is not left over
                Codebook.open(path).close()
                book._store.set_status(book.get("e0"))
            journal.write_bytes(content)
            Codebook.open(path).close()
            assert not journal.exists()
        assert book.verify() == 1


def test_a_codebook_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def fail(*_):
        raise sqlite3.OperationalError("no more")

    monkeypatch.setattr(files.Store, "insert", fail)
    book = Codebook("f1")
    book.add(entry())
    with pytest.raises(CodebookError, match="could not be written") as refused:
        book.save(tmp_path / "b")
    assert str(refused.value).count("could not be written") == 1
    assert list(tmp_path.iterdir()) == []
