"""Which edits of a benchmark a run is made of, and the model that it begins with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, UnknownNameError
from .benchmark_files import BenchmarkFiles

if TYPE_CHECKING:
    from ..data.case import EditCase
    from ..editors.edited_model import EditedModel
    from ..vlm.base import VLM

REPHRASES = ("none", "supplied")
Rephrases = Annotated[
    str,
    typer.Option(
        help="none: an edit is given picture, question and answer, as by a user; supplied: the benchmark's other wordings, too."
    ),
]


@dataclass(frozen=True)
class Wanted:
    """Which cases a run is made of.

    Args:
        files: the benchmark, by name where it comes with the package.
        limit: so many of them, spread evenly; 0: all.
        probes: at most so many of each cell; 0: all.
        sequence: they are edited one after the other or together; see `Benchmark.in_sequence`.
        rephrases: "none": the editor is given picture, question and answer alone; "supplied": with the benchmark's other
            wordings, which no user has.
    Raises: UnknownNameError, InputError.
    """

    files: str | BenchmarkFiles
    split: str = "test"
    limit: int = 0
    probes: int = 0
    sequence: bool = False
    rephrases: str = "none"

    def __post_init__(self) -> None:
        if self.probes < 0:
            raise InputError(f"probes: {self.probes} given; it must not be negative.")
        if self.rephrases not in REPHRASES:
            raise UnknownNameError("rephrases", self.rephrases, REPHRASES)


def open_run(load: Callable[[], EditedModel], wanted: Wanted, batch_tokens: int = 1024) -> tuple[VLM, list[EditCase]]:
    """The model and the cases; what every worker of a run begins with."""
    cases = benchmark_cases(wanted)
    vlm = load().vlm
    vlm.batch_tokens = batch_tokens
    return vlm, cases


def benchmark_cases(wanted: Wanted) -> list[EditCase]:
    """The edits of a split or of files.

    Raises: UnknownNameError, InputError, MissingDataError; see `vledit.data.benchmarks.load`.
    """
    files = BenchmarkFiles(wanted.files) if isinstance(wanted.files, str) else wanted.files
    found = files.cases(wanted.split, wanted.limit, wanted.sequence)
    return [asked(case, wanted) for case in found]


def asked(case: EditCase, wanted: Wanted) -> EditCase:
    """A case with as many probes and rephrases as are wanted."""
    request = case.request if wanted.rephrases == "supplied" else replace(case.request, rephrases=())
    return replace(case.trimmed(wanted.probes), request=request)


def sample(cases: list[Any], count: int, seed: int) -> list[Any]:
    """`count` cases drawn with a seed."""
    import random

    if not 1 <= count <= len(cases):
        raise InputError(f"samples: {count} given; there are {len(cases)} edits.")
    return random.Random(seed).sample(cases, count)
