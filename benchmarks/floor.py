"""How far each part lies from its floor: the products it has to compute, over the fastest product of this machine.

For an answer, an edit alone and in a batch of 16, and the base's answers to all probes of one case of `icons`: CPU seconds,
how much of them the linear layers take, their floating-point operations, and these over the measured peak (the floor).  For
the search of a codebook: the bytes that it reads, over the measured speed of reading memory.

    .venv/bin/python benchmarks/floor.py [--threads 1] [--entries 100000] [--out floor.json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vledit
from vledit.codebook.index import KeyIndex
from vledit.data import icons
from vledit.editors.edited_model import EditedModel
from vledit.evaluate.asking import prepare
from vledit.evaluate.checks import BaseGuard

now = time.process_time


class Linears:
    """Operations and seconds of the linear layers that ran."""

    def __init__(self) -> None:
        self.operations = self.seconds = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        functional: Any = torch.nn.functional
        own = functional.linear

        def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
            began = now()
            found = own(x, weight, bias)
            self.seconds += now() - began
            self.operations += 2.0 * x.numel() * weight.shape[0]
            return found

        functional.linear = linear
        try:
            yield
        finally:
            functional.linear = own


def peak() -> float:
    """Operations a second of a large product, the best of five."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = float("inf")
    for _ in range(5):
        began = now()
        torch.mm(a, b)
        best = min(best, now() - began)
    return 2 * 2048**3 / best


def reading() -> float:
    """Bytes a second of a product that reads a large matrix once, the best of five."""
    a, x = torch.randn(50_000, 1024), torch.randn(1024)
    best = float("inf")
    for _ in range(5):
        began = now()
        torch.mv(a, x)
        best = min(best, now() - began)
    return a.numel() * 4 / best


def measured(name: str, way: Callable[[], Any], fastest: float, repeats: int) -> dict[str, Any]:
    way()
    found = []
    for _ in range(repeats):
        linears = Linears()
        began = now()
        with linears.counted():
            way()
        found.append((now() - began, linears.seconds, linears.operations))
    seconds, inside, operations = sorted(found)[len(found) // 2]
    floor = operations / fastest
    print(
        f"| {name} | {seconds:.3f} | {inside:.3f} | {operations / 1e9:,.0f} | {floor:.3f} | {seconds / floor:.2f} |",
        flush=True,
    )
    return {"name": name, "seconds": seconds, "linears": inside, "operations": operations, "floor": floor}


def search(entries: int, bytes_a_second: float) -> dict[str, Any]:
    """The search of one request among keys with large common directions, as activations have."""
    width, rng = 1536, np.random.default_rng(0)
    mix = rng.standard_normal((40, width)).astype(np.float32) / np.arange(1, 41)[:, None]
    index = KeyIndex(width, "euclidean")
    for start in range(0, entries, 1000):
        noise = 0.05 * rng.standard_normal((1000, width), dtype=np.float32)
        for place, key in enumerate(rng.standard_normal((1000, 40), dtype=np.float32) @ mix.astype(np.float32) + noise):
            index.add(str(start + place), key, start + place)
    query = index._keys[:1] + 0.01
    index.nearest(query)
    times = []
    for _ in range(9):
        began = now()
        index.nearest(query)
        times.append(now() - began)
    seconds, read = sorted(times)[4], float(index._short[:entries].nbytes)
    whole = float(index._keys[:entries].nbytes)
    print(
        f"\nsearch of {entries:,} keys: {1e3 * seconds:.1f} ms; its short forms are {read / 1e6:.0f} MB, read in "
        f"{1e3 * read / bytes_a_second:.1f} ms; the keys themselves {whole / 1e6:.0f} MB, {1e3 * whole / bytes_a_second:.0f} ms"
    )
    return {"name": f"search of {entries}", "seconds": seconds, "bytes": read, "floor": read / bytes_a_second}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    fastest, read = peak(), reading()
    print(f"peak {fastest / 1e9:.0f} GFLOP/s, reading memory {read / 1e9:.1f} GB/s; CPU time\n")
    vlm = vledit.load("pocket").vlm
    edits = icons.load_edits("test")
    case = edits[len(edits) // 2]
    requests = [dataclasses.replace(one.request, rephrases=()) for one in edits[:16]]
    base, guard = EditedModel(vlm), BaseGuard(vlm)
    ways: dict[str, tuple[Callable[[], Any], int]] = {
        "an answer of 4 tokens": (lambda: base.answer(case.request.image, case.request.question, 4), 5),
        "an edit (span) alone": (lambda: EditedModel(vlm).edit(requests[0], transformation="span"), 3),
        "16 edits (span) together": (lambda: EditedModel(vlm).edit(requests, transformation="span"), 1),
        "base answers of one case": (lambda: prepare(vlm, case, guard=guard), 1),
    }
    print("| part | seconds | in linear layers | GFLOP | floor, s | seconds ÷ floor |\n|---|---|---|---|---|---|")
    rows = [measured(name, way, fastest, repeats) for name, (way, repeats) in ways.items()]
    rows.append(search(options.entries, read))
    if options.out:
        options.out.write_text(json.dumps({"peak": fastest, "reading": read, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
