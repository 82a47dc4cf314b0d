"""The benchmarks by name; each is imported when it is asked for. Other packages add theirs by entry point.

A benchmark of another package is a `Benchmark` under the entry point group ``vledit.benchmarks``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from vledit.data.case import EditCase
from vledit.data.reading import Files, Reading, demand
from vledit.errors import InputError, UnknownNameError

GROUP = "vledit.benchmarks"
SPLITS = ("train", "validation", "test")
_OWN = {
    "icons": "vledit.data.icons.benchmark:BENCHMARK",
    "icons-held-out": "vledit.data.icons.benchmark:HELD_OUT",
    "icons-facts": "vledit.data.icons.benchmark:FACTS",
    "icons-text": "vledit.data.icons.benchmark:TEXT",
    "evqa": "vledit.data.evqa:BENCHMARK",
    "eic": "vledit.data.eic:BENCHMARK",
    "vlkeb": "vledit.data.vlkeb:BENCHMARK",
    "okedit": "vledit.data.okedit:BENCHMARK",
    "comprehendedit": "vledit.data.comprehendedit:BENCHMARK",
    "cases": "vledit.data.case_file:BENCHMARK",
}


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Args:
        name: as it is asked for.
        about: one line.
        where: where its files are to be had, as text; nothing is fetched.
        read: files → everything that is in them, unfit records and missing pictures included.
        from_files: whether it is read from files that the user gives; else it comes with the package, in splits.
        more: further files and settings (`Files.more`), each with a line of help.
        in_sequence: what becomes of cases that are edited one after the other, so that none is asked to keep what another
            of them changes; None: they stay as they are.
    """

    name: str
    about: str
    where: str
    read: Callable[[Files], Reading]
    from_files: bool = True
    more: Mapping[str, str] = field(default_factory=dict)
    in_sequence: Callable[[Sequence[EditCase]], list[EditCase]] | None = None


def names() -> list[str]:
    """Return the names of all benchmarks, own ones first."""
    return list(dict.fromkeys([*_OWN, *(point.name for point in entry_points(group=GROUP))]))


def benchmark(name: str) -> Benchmark:
    """Return the benchmark of that name; only its own file is imported.

    Raises: UnknownNameError, suggesting the near miss.
    """
    if name in _OWN:
        module, _, attribute = _OWN[name].partition(":")
        return getattr(import_module(module), attribute)
    for point in entry_points(group=GROUP):
        if point.name == name:
            return point.load()
    raise UnknownNameError("benchmark", name, names())


def read(name: str, files: Files) -> Reading:
    """Return what a benchmark's files hold.

    Raises:
        UnknownNameError: no such benchmark, setting or split.
        InputError: files were given to a benchmark that takes none, or its files as a whole are missing or unfit.
    """
    chosen = benchmark(name)
    for key in files.more:
        if key not in chosen.more:
            raise UnknownNameError(f"file or setting of {name}", key, chosen.more)
    if not chosen.from_files:
        if files.annotations or files.images:
            raise InputError(f"{name} comes with the package; it takes no --annotations and no --images.")
        if files.split not in SPLITS:
            raise UnknownNameError("split", files.split, SPLITS)
    found = chosen.read(files)
    if not chosen.from_files and not found.cases:
        raise InputError(f"split: {name} has no edits in {files.split}; its splits: validation, test.")
    return found


def load(name: str, files: Files, skip_missing: bool = False, skip_bad: bool = False) -> list[EditCase]:
    """Return the cases of a benchmark, e.g. ``load("vlkeb", Files(Path("eval.json"), (Path("VLKEB_images"),)))``.

    Raises:
        UnknownNameError, InputError: see `read`; InputError for unfit records, each named, unless `skip_bad`.
        MissingDataError: pictures are missing, each named, unless `skip_missing`.
    """
    return demand(read(name, files), skip_missing, skip_bad)


def spread(cases: list[Any], limit: int) -> list[Any]:
    """Return `limit` cases spread evenly over all; all of them where `limit` is 0.  Raises: InputError below 0."""
    if limit < 0:
        raise InputError(f"limit: {limit} given; 0 takes all edits.")
    if not limit or limit >= len(cases):
        return cases
    return [cases[i * len(cases) // limit] for i in range(limit)]
