"""What a codebook costs as it grows: adding an entry, appending to a file, opening it."""

from __future__ import annotations

import contextlib
import io
import resource
import sqlite3
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from vledit.cli.codebook import list_
from vledit.codebook import Codebook, Entry, Scope, SpanTransformation
from vledit.codebook.record import pack

from .measuring import Bench

STRETCH = 1_000
Made = Callable[[int, int], list[Entry]]
WIDTH, OUT = 1536, 576


def entry(number: int, key: np.ndarray, change: SpanTransformation) -> Entry:
    """An entry of a fact of its own."""
    return Entry(
        f"e{number}",
        f"question {number}",
        "answer",
        "29.mlp.out",
        (Scope("last", key, 1.0, key_tokens="last"),),
        change,
    )


def entries(first: int, count: int) -> list[Entry]:
    """Entries with random keys and a change of rank 1."""
    rng = np.random.default_rng(first)
    change = SpanTransformation(torch.ones(OUT, 1), torch.ones(1, WIDTH))
    keys = rng.normal(size=(count, WIDTH)).astype(np.float32)
    return [entry(first + number, key, change) for number, key in enumerate(keys)]


def grow(bench: Bench, book: Codebook, most: int, where: str, repeats: int = 9) -> None:
    """Microseconds an entry at the start and behind 1,000, 10,000, 100,000 entries."""
    first, done = 0.0, 0
    for size in [0, *(one for one in (1_000, 10_000, 100_000) if one <= most)]:
        while done < size:
            for one in entries(done, min(STRETCH, size - done)):
                book.add(one, same_fact="record")
                done += 1
        times = []
        for _ in range(repeats):
            some = entries(done, STRETCH // repeats)
            times.append(
                1e6 * bench.seconds(lambda some=some: [book.add(one, same_fact="record") for one in some]) / len(some)
            )
            done += len(some)
        bench.note(
            f"adding, {where}, behind {size:,} entries", times, unit="us", series=f"adding, {where}", size=max(size, 1)
        )
        first = first or statistics.median(times)
        if size:
            bench.note(f"adding, {where}, behind {size:,} against the first", [one / first for one in times], goal=1.1)


def filled(path: Path, count: int, made: Made = entries, fingerprint: str = "fingerprint") -> None:
    """A file of so many entries, written row by row as `Codebook` writes them, without its checks of what is there already.

    Args:
        made: makes entries from the number of the first and how many.
    """
    Codebook.create(path, fingerprint).close()
    marks = ", ".join("?" * 9)
    with contextlib.closing(sqlite3.connect(path)) as file, file:
        for start in range(0, count, STRETCH):
            rows, parts = [], []
            for number, one in enumerate(made(start, min(STRETCH, count - start)), start + 1):
                row, tensors = pack(one, "bfloat16")
                rows.append((number, *row, row.digest()))
                parts += [(number, name, data) for name, data in tensors.items()]
            file.executemany(f"INSERT INTO entries VALUES (?, {marks})", rows)
            file.executemany("INSERT INTO tensors VALUES (?, ?, ?)", parts)


def memory() -> float:
    """Megabytes of this process that are not shared with the files it maps."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return float(lines["RssAnon"].split()[0]) / 1024


def opened(bench: Bench, path: Path, count: int, goal: float | None, made: Made = entries) -> None:
    """Seconds and memory of opening a file, of the first decision on it and of the next, and of one more entry.

    Args:
        made: makes more entries of the file's kind.
    """
    began = bench.now()
    Codebook.open(path).close()
    bench.note(f"opening {count:,} entries for the first time", [bench.now() - began], unit="s")
    times, before = [], memory()
    for _ in range(3):
        start = bench.now()
        book = Codebook.open(path)
        times.append(bench.now() - start)
        assert len(book) >= count
        key = book.get("e7").key
        start = bench.now()
        assert book.decide(key[None])[0].entry == "e7"
        first = bench.now() - start
        later = [bench.seconds(lambda book=book, key=key: book.decide(key[None] + 0.01)) for _ in range(5)]
        grown = memory() - before
        book.close()
    bench.note(f"opening {count:,} entries", times, unit="s", goal=goal, series="opening", size=count)
    bench.note(f"the first decision of {count:,} entries, after opening", [first], unit="s")
    bench.note(f"a later decision of {count:,} entries", later, unit="s", series="a decision", size=count)
    bench.note(f"own memory of {count:,} entries, opened and asked", [grown], unit="MB")
    with Codebook.open(path) as book:
        some = made(10**7, 20)
        each = [1e6 * bench.seconds(lambda book=book, one=one: book.add(one, same_fact="record")) for one in some]
    bench.note(f"adding behind {count:,} entries of a file just opened", each, unit="us")
    changed(bench, path, count)


def changed(bench: Bench, path: Path, count: int) -> None:
    """Seconds of what the command line does to a file, opening it included; milliseconds of each change of an open file."""
    listed = [bench.seconds(lambda: _listed(path)) for _ in range(3)]
    bench.note(f"listing the newest 1,000 of {count:,}", listed, unit="s", series="listing 1,000", size=count)
    for action in ("retire", "remove", "restore"):
        opened_for = []
        for number in range(3):
            start = bench.now()
            with Codebook.open(path) as book:
                getattr(book, action)(f"e{number}")
            opened_for.append(bench.now() - start)
        with Codebook.open(path) as book:
            each = [
                1e3 * bench.seconds(lambda book=book, id=f"e{number}", action=action: getattr(book, action)(id))
                for number in range(10, 20)
            ]
        name = f"{action[:-1] if action.endswith('e') else action}ing one of {count:,}"
        bench.note(f"{name}, opening the file", opened_for, unit="s", series=name.split()[0], size=count)
        bench.note(f"{name}, in an open file", each, unit="ms")


def _listed(path: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        list_(path)


def measure(bench: Bench, large: int = 0) -> None:
    """`large`: entries of the largest file."""
    grow(bench, Codebook("fingerprint"), 10_000 if bench.quick else 100_000, "in memory")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.vledit"
        with Codebook.create(path, "fingerprint") as book, book.batch():
            grow(bench, book, 10_000, "in a file, one batch")
            count = len(book)
        size = path.stat().st_size
        bench.note(f"file of {count:,} span entries", [size / 1e6], unit="MB")
        bench.note("saving it whole under another name", [bench.seconds(lambda: _copy(path))], unit="s")
        with Codebook.open(path) as book:
            some = entries(count, 100)

            def append() -> None:
                with book.batch():
                    for one in some:
                        book.add(one)

            bench.note(f"saving 100 more behind {count:,}", [bench.seconds(append)], unit="s")
        bench.note("bytes of the file that 100 more took, of all", [(path.stat().st_size - size) / size], unit="")
        opened(bench, path, count + 100, None)
        for many in [large] if large else [10_000] if bench.quick else [10_000, 100_000]:
            path = Path(folder) / f"{many}.vledit"
            filled(path, many)
            opened(bench, path, many, 2.0)


def _copy(path: Path) -> None:
    with Codebook.open(path) as book:
        book.save(path.with_name("copy.vledit"))
