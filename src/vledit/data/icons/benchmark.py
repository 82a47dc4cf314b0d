"""`icons` as a benchmark: edits of the embedded data set that the base model answers rightly, in splits."""

from __future__ import annotations

from typing import cast

from vledit.data import icons
from vledit.data.benchmarks import Benchmark
from vledit.data.cache import sha256_json
from vledit.data.fingerprint import Fingerprint
from vledit.data.icons.edits import EditSplit
from vledit.data.reading import Files, Reading


def read(files: Files) -> Reading:
    """Return the edits of a split.

    Raises: MissingDataError where the data set or the choice of edits is not there.
    """
    data = icons.load()
    cases = tuple(icons.load_edits(cast("EditSplit", files.split), data))
    content = sha256_json([data.version, files.split, [case.id for case in cases]])
    counted = {"records": len(cases), "distinct targets": len({case.request.answer for case in cases})}
    return Reading("icons", Fingerprint(content, counted, f"icons {data.version}, {files.split}"), len(cases), cases)


BENCHMARK = Benchmark(
    "icons",
    "things, flags and brands, each drawn by many hands; splits train, validation, test",
    "comes with the package: vledit data build icons",
    read,
    from_files=False,
)
