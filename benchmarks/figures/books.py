"""What a codebook costs as it grows: adding an entry, appending to a file, opening it."""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path

import numpy as np
import torch

from vledit.codebook import Codebook, Entry, Scope, SpanTransformation

from .measuring import Bench

STRETCH = 1_000
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


def grow(bench: Bench, book: Codebook, most: int, where: str, repeats: int = 3) -> None:
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
        middle = sorted(times)[len(times) // 2]
        first = first or middle
        if size:
            bench.note(f"adding, {where}, behind {size:,} against the first", [middle / first], goal=1.1)


def opened(bench: Bench, path: Path, count: int, goal: float | None) -> None:
    """Seconds and memory of opening a file, and of the first decision on it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(3):
        held: list[Codebook] = []
        times.append(bench.seconds(lambda held=held: held.append(Codebook.open(path))))
        book = held[0]
        assert len(book) == count
        key = book.get("e7").key
        first = bench.seconds(lambda book=book, key=key: book.decide(key[None]))
        assert book.decide(key[None])[0].entry == "e7"
        book.close()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    bench.note(f"opening {count:,} entries", times, unit="s", goal=goal, series="opening", size=count)
    bench.note(f"the first decision of {count:,} entries, after opening", [first], unit="s")
    bench.note(f"memory that opening {count:,} entries and deciding took", [grown], unit="MB")


def measure(bench: Bench) -> None:
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


def _copy(path: Path) -> None:
    with Codebook.open(path) as book:
        book.save(path.with_name("copy.vledit"))
