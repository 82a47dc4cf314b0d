"""What adding an entry costs as a codebook grows, in memory and in a file; entries a second, stretch by stretch.

.venv/bin/python benchmarks/codebook_growth.py [--memory 20000] [--file 2000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from vledit.codebook import Codebook, Entry, Scope, SpanTransformation

WIDTH = 576


def entry(number: int, rng: np.random.Generator) -> Entry:
    """An entry of a fact of its own, with a random key and a change of rank 1."""
    scope = Scope("mean", rng.normal(size=WIDTH).astype(np.float32), 1.0)
    change = SpanTransformation(torch.zeros(WIDTH, 1), torch.zeros(1, WIDTH))
    return Entry(f"e{number}", f"question {number}", "answer", "29.mlp.out", (scope,), change)


def grow(book: Codebook, where: str, most: int) -> None:
    """Adds entries and prints how many a second went in, between powers of ten and at the end."""
    rng, done = np.random.default_rng(0), 0
    for stop in sorted({10**power for power in range(2, 8) if 10**power < most} | {most}):
        began = time.perf_counter()
        for number in range(done, stop):
            book.add(entry(number, rng), same_fact="record")
        seconds = time.perf_counter() - began
        print(f"{where}: {done} to {stop} entries  {(stop - done) / seconds:.0f} a second", flush=True)
        done = stop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", type=int, default=20_000)
    parser.add_argument("--file", type=int, default=2_000)
    options = parser.parse_args()
    grow(Codebook("fingerprint"), "memory", options.memory)
    with tempfile.TemporaryDirectory() as folder:
        with Codebook.create(Path(folder) / "one.vledit", "fingerprint") as book:
            grow(book, "file, each by itself", options.file)
        with Codebook.create(Path(folder) / "batch.vledit", "fingerprint") as book, book.batch():
            grow(book, "file, one batch", options.memory)


if __name__ == "__main__":
    main()
