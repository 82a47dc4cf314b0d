"""Pictures of cases for a page: made again from the data set, the most important first, within a limit of bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import MissingDataError, VLEditError
from .pages import data_uri
from .runs import Run

if TYPE_CHECKING:
    from ..data.case import EditCase

CaseSource = Callable[[Run], "Mapping[str, EditCase]"]
"""The benchmark's cases by id, for a run.  Raises: VLEditError where the data is not there."""

EDITED, FAILED, OTHER = 0, 1, 2
"""How much a picture is wanted: first that of the edit, then those of probes that fail."""
SIDES = {EDITED: 144, FAILED: 72, OTHER: 72}
"""Pixels."""
QUALITY = 74
"""Of WebP: small pictures are many."""


def benchmark_cases(run: Run) -> Mapping[str, EditCase]:
    """The cases of a benchmark that comes with VLEdit.

    Raises: MissingDataError where it is not built, or is read from files that only the user knows; UnknownNameError.
    """
    from ..data.benchmarks import benchmark, load
    from ..data.reading import Files

    if benchmark(run.benchmark).from_files:
        raise MissingDataError(
            f"{run.benchmark} is read from files; give --annotations and --images to see its pictures"
        )
    cases = load(run.benchmark, Files(split=str(run.manifest.get("split") or "test")))
    if asked := run.manifest.get("devqa"):
        from ..data.devqa import DevQA, index_of

        cases = DevQA(cases, index_of(cases, asked["retriever"])).wrap_all(cases)
    return {case.id: case for case in cases}


def no_cases(run: Run) -> Mapping[str, EditCase]:
    """For pages without pictures."""
    return {}


@dataclass
class Gallery:
    """Collects the pictures that a page would show, then opens as many as fit.

    Args:
        budget: characters of data URIs in all.
    """

    budget: int
    _wanted: dict[str, list] = field(default_factory=dict)  # key → [place, how much it is wanted, picture]

    def want(self, picture: object, priority: int) -> int:
        """The place in `uris()` where this picture will be; one that is wanted twice is kept once, the larger one."""
        from ..vlm.pictures import picture_key

        key = picture_key(picture)
        if key not in self._wanted:
            self._wanted[key] = [len(self._wanted), priority, picture]
        self._wanted[key][1] = min(self._wanted[key][1], priority)
        return self._wanted[key][0]

    def uris(self) -> list[str]:
        """A data URI for each place, "" for those that did not fit or cannot be opened."""
        from ..vlm.pictures import open_picture

        found, left = [""] * len(self._wanted), self.budget
        for place, priority, picture in sorted(self._wanted.values(), key=lambda row: (row[1], row[0])):
            if left <= 0:
                break
            try:
                uri = data_uri(open_picture(picture), SIDES[priority], QUALITY)
            except VLEditError:  # a damaged file makes one empty frame, not a page less
                continue
            if len(uri) <= left:
                found[place] = uri
                left -= len(uri)
        return found
