"""`icons` as benchmarks: edits of the embedded data set that the base model answers rightly, in splits.

`icons`: one drawing that training saw; `icons-held-out`: one by a hand that it never saw; `icons-facts`: eight facts about one
picture; `icons-text`: no picture, the same words about other subjects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from vledit.data import icons
from vledit.data.benchmarks import Benchmark
from vledit.data.cache import sha256_json
from vledit.data.case import EditCase
from vledit.data.fingerprint import Fingerprint
from vledit.data.icons.dataset import IconData
from vledit.data.icons.splits import EditSplit
from vledit.data.reading import Files, Reading

Load = Callable[[EditSplit, IconData], Sequence[EditCase]]


def _seen(split: EditSplit, data: IconData) -> Sequence[EditCase]:
    return icons.load_edits(split, data)


def _held_out(split: EditSplit, data: IconData) -> Sequence[EditCase]:
    return icons.load_edits(split, data, part="held_out")


def _facts(split: EditSplit, data: IconData) -> Sequence[EditCase]:
    from vledit.data.icons.edit_filter import named_concepts
    from vledit.data.icons.fact_edits import fact_cases

    return fact_cases(data, named_concepts(split, data), split)


def _text(split: EditSplit, data: IconData) -> Sequence[EditCase]:
    from vledit.data.icons.text_edits import one_after_another

    return one_after_another(icons.load_edits(split, data, part="text"))


def _in_sequence(cases: Sequence[EditCase]) -> list[EditCase]:
    from vledit.data.icons.sequence import in_sequence

    return in_sequence(cases)


def _benchmark(name: str, about: str, load: Load) -> Benchmark:
    def read(files: Files) -> Reading:
        """Return the edits of a split.

        Raises: MissingDataError where the data set or the choice of edits is not there.
        """
        data = icons.load()
        cases = tuple(load(cast("EditSplit", files.split), data))
        content = sha256_json([name, data.version, files.split, [case.id for case in cases]])
        counted = {"records": len(cases), "distinct targets": len({case.request.answer for case in cases})}
        fingerprint = Fingerprint(content, counted, f"{name} {data.version}, {files.split}")
        return Reading(name, fingerprint, len(cases), cases)

    where = "comes with the package: vledit data build icons"
    return Benchmark(name, about, where, read, from_files=False, in_sequence=_in_sequence)


BENCHMARK = _benchmark(
    "icons", "things, flags and brands, each drawn by many hands; splits train, validation, test", _seen
)
HELD_OUT = _benchmark(
    "icons-held-out",
    "as icons, but the edited drawing is by a hand that training never saw; validation, test",
    _held_out,
)
FACTS = _benchmark(
    "icons-facts", "eight facts about one picture, for fifty pictures, in this order; validation, test", _facts
)
TEXT = _benchmark(
    "icons-text",
    "edits without a picture: the same words about many subjects, general knowledge; validation, test",
    _text,
)
