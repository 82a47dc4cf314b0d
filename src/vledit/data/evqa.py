"""E-VQA: visual questions of VQAv2 that BLIP-2 answered wrongly, edited to the right answer (MMEdit, EMNLP 2023).

Several files named ``vqa_eval.json`` circulate; they agree in questions and pictures and differ in the rest. See
docs/benchmarks.md for what was measured on them.
"""

from __future__ import annotations

from vledit.data import mmedit
from vledit.data.benchmarks import Benchmark
from vledit.data.case import EditCase
from vledit.data.fingerprint import Known, fingerprint
from vledit.data.image_lookup import ImageLookup
from vledit.data.reading import Files, Reading, collect
from vledit.data.records import Record, read_records

KNOWN = (
    Known(
        "E-VQA eval with one locality question per record (vqa_eval.json, also in VisEdit and LiveEdit)",
        "ab7152977163595ee46bf5a48c35a81c30fcb1b2cb5969d8a7d06c5dbd75f17e",
        {"records": 2093, "distinct targets": 1051, "distinct text-locality questions": 2093},
    ),
    Known(
        "E-VQA train with one locality question per record (vqa_train.json, also in VisEdit and LiveEdit)",
        "8b83be53ad37157ee6dc3abbe0b5deb47e6d91e1ed4752d355ee5d5be82ffc9a",
        {"records": 6345, "distinct targets": 2596, "distinct text-locality questions": 6345},
    ),
    Known(
        "E-VQA eval with 2 locality questions in all ('vqa_eval copy.json' of BalancEdit's repository)",
        "c74ae1e1afd99db7343d80c092581f5bf98e118e811139cafe0ebfd2ef5a79b9",
        {"records": 2093, "distinct targets": 1041, "distinct text-locality questions": 2},
    ),
    Known(
        "E-VQA eval with 2 locality questions in all and rephrasings to train with (vqa_eval.json of BalancEdit's repository)",
        "2f3a16d95c29011530d2838536fa72bdc785c5265fd8b4f1168737fc14add586",
    ),
)


def read(files: Files) -> Reading:
    """Return the cases of an E-VQA file.

    Raises: InputError where the file as a whole is missing or unfit; single records and pictures are in the reading.
    """
    records = read_records(files.need_annotations("evqa"), "evqa")
    lookup = ImageLookup(files.roots, ("val2014", "MMEdit", "editing-data"), by_name=True)

    def convert(index: int, record: Record) -> EditCase:
        return mmedit.case_of(record, f"evqa/{index:05d}", lookup, files.as_published)

    return collect(
        "evqa",
        records,
        convert,
        fingerprint(records, mmedit.counts(records), KNOWN),
        mmedit.notes,
    )


BENCHMARK = Benchmark(
    "evqa",
    "E-VQA (MMEdit): visual questions answered wrongly by BLIP-2, edited to the right answer",
    "https://github.com/zjunlp/EasyEdit (examples/MultimodalEdit.md: vqa_eval.json, val2014_image_rephrase); val2014: "
    "https://cocodataset.org",
    read,
)
