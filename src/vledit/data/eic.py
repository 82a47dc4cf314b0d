"""E-IC: COCO captions that BLIP-2 got wrong, edited to the right one (MMEdit, EMNLP 2023).

A prompt such as "a photo of" stands where other benchmarks have a question, and the target is a whole sentence: up to
33 words, most of them within the 64 tokens that a model scores by default (`max_answer_tokens`). The reader counts the
words and says where that limit is near; `vledit data check eic --model NAME` counts a model's own tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vledit.data import mmedit
from vledit.data.benchmarks import Benchmark
from vledit.data.case import EditCase
from vledit.data.fingerprint import Known, fingerprint
from vledit.data.image_lookup import ImageLookup
from vledit.data.reading import Files, Reading, collect
from vledit.data.records import Record, read_records

LONG_TARGET = 40
"""Words. English takes 1.2 to 1.5 tokens a word, so that longer targets may pass 64 tokens."""

KNOWN = (
    Known(
        "E-IC eval with one locality question per record (caption_eval_edit.json, also in VisEdit and LiveEdit)",
        "165fe2121acb1d47e005c73a8c305798d3eaaaaaf4deeb20b90b04577ff2bcac",
        {"records": 1000, "distinct targets": 1000, "distinct text-locality questions": 1000},
    ),
    Known(
        "E-IC train with one locality question per record (caption_train_edit.json, also in VisEdit and LiveEdit)",
        "6cdcc61b435d9f59cde83fc660b8e6ce724d8027924890f4d34b7f24fd70e145",
        {"records": 2849, "distinct targets": 2849, "distinct text-locality questions": 2849},
    ),
    Known(
        "E-IC eval with 2 locality questions in all (another caption_eval_edit.json, in forks of EasyEdit)",
        "c1abc1b302f105a658b655190be3e05f4a2366bc6be140776cd098d7c36da6e7",
        {"records": 1000, "distinct targets": 999, "distinct text-locality questions": 2},
    ),
    Known(
        "E-IC train with 2 locality questions in all (another caption_train_edit.json, in forks of EasyEdit)",
        "4e43fc9e516c9ca0eaaf21c9f5dfcead10b946ac8767d2a8a87869c55a345a0e",
        {"records": 2849, "distinct targets": 2847, "distinct text-locality questions": 2},
    ),
)


def read(files: Files) -> Reading:
    """Return the cases of an E-IC file.

    Raises: InputError where the file as a whole is missing or unfit; single records and pictures are in the reading.
    """
    records = read_records(files.need_annotations("eic"), "eic")
    lookup = ImageLookup(files.roots, ("val2014", "MMEdit", "editing-data"), by_name=True)

    def convert(index: int, record: Record) -> EditCase:
        return mmedit.case_of(record, f"eic/{index:05d}", lookup, files.as_published)

    return collect(
        "eic",
        records,
        convert,
        fingerprint(records, mmedit.counts(records), KNOWN),
        _notes,
    )


def _notes(cases: Sequence[EditCase]) -> Iterable[str]:
    yield from mmedit.notes(cases)
    words = [len(case.request.answer.split()) for case in cases]
    long = sum(count > LONG_TARGET for count in words)
    if long:
        yield (
            f"{long} targets have more than {LONG_TARGET} words (the longest {max(words)}) and may pass the "
            "64 tokens that a model takes by default: load it with a higher max_answer_tokens"
        )


BENCHMARK = Benchmark(
    "eic",
    "E-IC (MMEdit): image captions that BLIP-2 got wrong, edited to the right one; long targets",
    "https://github.com/zjunlp/EasyEdit (examples/MultimodalEdit.md: caption_eval_edit.json, val2014_image_rephrase); "
    "val2014: https://cocodataset.org",
    read,
)
