"""The store: all or nothing, on SQLite and PostgreSQL; what one process commits, others see within a second."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.codebook.codebook_samples import bits
from tests.codebook.codebook_samples import entry as make_entry
from vledit.errors import InputError, ModelMismatchError
from vledit.serve.store import tables
from vledit.serve.store.book import By, EditStore, MovedError
from vledit.serve.store.database import StoreError, reading
from vledit.serve.watching import Watch

ME = By("me", "why not")


def open_store(where: str) -> EditStore:
    return EditStore(where, "f" * 16, "a model")


def test_an_edit_comes_back_bit_for_bit(where: str):
    entry = make_entry("one", thumbnail=b"\xff\xd8picture")
    store = open_store(where)
    assert store.add(entry, (), ME, {"job": "x"}) == 1
    store.close()
    again = open_store(where)
    revision, ((number, kept),) = again.active()
    assert (revision, number) == (1, 1)
    assert bits(kept) == bits(entry)
    assert kept.transformation.load is not None
    (line,) = again.history()
    assert (line.author, line.reason, line.action, line.edit) == ("me", "why not", "added", "one")
    again.close()


def test_another_models_store_is_refused(where: str):
    open_store(where).close()
    with pytest.raises(ModelMismatchError, match="a model"):
        EditStore(where, "0" * 16, "other")


def test_two_stores_may_be_opened_at_once_and_write_in_turn(where: str):
    stores: list[EditStore] = []
    opening = [threading.Thread(target=lambda: stores.append(open_store(where))) for _ in range(4)]
    for thread in opening:
        thread.start()
    for thread in opening:
        thread.join()
    assert len(stores) == 4

    def write(number: int) -> None:
        for turn in range(3):
            stores[number].add(make_entry(f"e{number}-{turn}"), (), ME, {})

    writing_ = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in writing_:
        thread.start()
    for thread in writing_:
        thread.join()
    assert [line.number for line in stores[0].history()] == list(range(12, 0, -1))
    assert len(stores[1].active()[1]) == 12
    for store in stores:
        store.close()


def test_what_was_decided_on_an_older_revision_is_not_written(where: str):
    store = open_store(where)
    store.add(make_entry("one"), (), ME, {}, at=0)
    with pytest.raises(MovedError):
        store.add(make_entry("two"), (), ME, {}, at=0)
    assert store.revision() == 1
    store.close()


def test_nothing_is_there_of_a_write_that_broke_off(where: str):
    store = open_store(where)
    store.add(make_entry("one"), (), ME, {})
    real = store._revise

    def broken(*arguments, **more):
        real(*arguments, **more)
        raise RuntimeError

    store._revise = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        store.add(make_entry("two"), (), ME, {})
    store._revise = real  # type: ignore[method-assign]
    with pytest.raises(InputError, match="taken"):
        store.add(make_entry("one"), (), ME, {})
    with reading(store.engine) as connection:
        assert connection.execute(sa.select(tables.edits.c.id)).scalars().all() == ["one"]
    assert store.revision() == 1
    store.close()


def test_others_see_a_commit_within_a_second(where: str):
    one, other = open_store(where), open_store(where)
    watch = Watch(other, 0.25)
    try:
        time.sleep(0.5)  # the listening has begun
        slowest = 0.0
        for number in range(5):
            revision, began = one.add(make_entry(f"e{number}"), (), ME, {}), time.monotonic()
            while watch.latest < revision and time.monotonic() < began + 5:
                time.sleep(0.005)
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 1, slowest
        assert len(other.active()[1]) == 5
    finally:
        watch.close()
        one.close()
        other.close()


def test_a_writer_killed_before_its_commit_leaves_nothing_and_blocks_nobody(where: str):
    store = open_store(where)
    store.add(make_entry("one"), (), ME, {})
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        stuck = open_store(where)
        real = stuck._revise

        def revise(*arguments, **more):
            revision = real(*arguments, **more)
            os.write(writes, b"written")
            time.sleep(60)
            return revision

        stuck._revise = revise  # type: ignore[method-assign]
        stuck.add(make_entry("two"), (), ME, {})
        os._exit(1)
    assert os.read(reads, 7) == b"written"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert store.revision() == 1
    assert store.add(make_entry("three"), (), ME, {}) == 2
    assert [entry.id for _, entry in store.active()[1]] == ["one", "three"]
    store.close()


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path):
    store = open_store(str(tmp_path / "store.db"))
    store.add(make_entry("one"), (), ME, {})
    store.engine.dispose()

    @sa.event.listens_for(store.engine, "connect")
    def small(connection, _record) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages + 2}")

    with pytest.raises(StoreError, match="disk is full"):
        store.add(make_entry("two", size=400), (), ME, {})
    assert [entry.id for _, entry in store.active()[1]] == ["one"]
    sa.event.remove(store.engine, "connect", small)
    store.engine.dispose()
    assert store.add(make_entry("two"), (), ME, {}) == 2
    store.close()


@pytest.mark.parametrize("url", ["mysql://x/y", "://", "/nowhere/at/all.db", "/"])
def test_an_unfit_address_is_refused(url: str):
    with pytest.raises(InputError, match="--store"):
        open_store(url)


def test_a_password_is_not_in_the_message(tmp_path: Path):
    with pytest.raises(StoreError) as caught:
        open_store("postgresql://me:sesame@127.0.0.1:1/none")
    assert "sesame" not in str(caught.value)
