"""VLKEB: entities of a multi-modal knowledge graph, with portability over one to four hops (NeurIPS 2024).

MMEdit's record with pictures ``m.<entity>/<site>_<n>.jpg`` and, in two of its files, ``port_new``, in two forms:

- ``eval_multihop.json``: ``[{"port_type": "1-hop", "Q&A": {"Question": …, "Answer": …}}, …]``; cells ``1-hop`` to ``4-hop``.
- ``eval_edit_onehop.json``: ``[{"port_edit_q", "port_edit_a", "port_q", "port_a"}]``; cell ``1-hop`` (`port_q` about the
  edited picture). The file means `port_edit_q` → `port_edit_a` to be a second edit, of a text. A case holds one edit, so
  it is kept in the case's tags (``hop_question``, ``hop_answer``) and what is scored is the hop over what the model
  knows by itself.

87 % of the targets have several words. Some names are written as titles of pages ("The_Prize_(1963_film)",
'"female_illusionist"'): underscores become blanks and quotes around the whole go, in targets, old and locality answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vledit.data import mmedit
from vledit.data.benchmarks import Benchmark
from vledit.data.case import EditCase, Probe
from vledit.data.fingerprint import Known, fingerprint
from vledit.data.image_lookup import ImageLookup
from vledit.data.reading import Files, Reading, collect
from vledit.data.records import FieldError, Record, read_records, unquoted

HOPS = ("1-hop", "2-hop", "3-hop", "4-hop")
_README = "VLKEB's README"

KNOWN = (
    Known(
        "VLKEB eval, without portability (eval.json)",
        "f768b6d2b274ae63e0d025fdef2f557370e6eb575e9d0fb0b79de041a85f3c9d",
        {"records": 3174, "distinct targets": 2845, "distinct text-locality questions": 3174, "portability 1-hop": 0},
    ),
    Known(
        "VLKEB train (train.json)",
        "74b7d457b51fc56523b16e3913f8cd7f1be13db17d18679e7cf6778aff0c49ac",
        {"records": 5000, "distinct targets": 4140, "distinct text-locality questions": 5000},
    ),
    Known(
        "VLKEB eval with one-hop portability and its edits (eval_edit_onehop.json)",
        "4c4e697c68472e04f329c461368fa9876018abdd077f0b6e399868100d0b2399",
        {"records": 1278, "portability 1-hop": 1278, "portability 2-hop": 0},
    ),
    Known(
        "VLKEB eval with portability over one to four hops (eval_multihop.json)",
        counts={
            "portability 1-hop": 1278,
            "portability 2-hop": 1238,
            "portability 3-hop": 1193,
            "portability 4-hop": 1110,
        },
        source=_README,
    ),
)


def read(files: Files) -> Reading:
    """Return the cases of a VLKEB file.

    Raises: InputError where the file as a whole is missing or unfit; single records and pictures are in the reading.
    """
    records = read_records(files.need_annotations("vlkeb"), "vlkeb")
    lookup = ImageLookup(files.roots, ("VLKEB_images", "mmkb_images", "VLKEB/VLKEB_images"))

    def convert(index: int, record: Record) -> EditCase:
        tidy = mmedit.as_it_is if files.as_published else name_of
        case = mmedit.case_of(record, f"vlkeb/{index:05d}", lookup, files.as_published, tidy)
        return _with_portability(case, record, tidy)

    return collect(
        "vlkeb",
        records,
        convert,
        fingerprint(records, _counts(records), KNOWN),
        mmedit.notes,
    )


def name_of(text: str) -> str:
    """Return a name as people write it: '"female_illusionist"' → 'female illusionist'."""
    return " ".join(unquoted(text).replace("_", " ").split())


def _with_portability(case: EditCase, record: Record, tidy: mmedit.Tidy) -> EditCase:
    cells: dict[str, list[Probe]] = {}
    tags = dict(case.tags)
    for item in record.records("port_new"):
        if "port_type" in item.values:
            hop = item.text("port_type")
            if hop not in HOPS:
                raise FieldError("port_new", f"has the port_type {hop!r}; known are {', '.join(HOPS)}")
            asked = Record(item.values.get("Q&A"))
            question, answer = asked.text("Question"), asked.text("Answer")
        else:
            hop, question, answer = HOPS[0], item.text("port_q"), item.text("port_a")
            tags |= {"hop_question": item.text("port_edit_q"), "hop_answer": item.text("port_edit_a")}
        found = cells.setdefault(hop, [])
        found.append(Probe(case.request.image, question, tidy(answer), {}, f"{hop}/{len(found)}"))
    return replace(case, portability={hop: tuple(probes) for hop, probes in sorted(cells.items())}, tags=tags)


def _counts(records: Sequence[Any]) -> dict[str, int]:
    hops: Counter[str] = Counter()
    for values in records:
        items = values.get("port_new") if isinstance(values, dict) else None
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict):
                hops[str(item.get("port_type", HOPS[0]))] += 1
    return {**mmedit.counts(records), **{f"portability {hop}": hops[hop] for hop in HOPS}}


BENCHMARK = Benchmark(
    "vlkeb",
    "VLKEB: people, places and things of a knowledge graph; portability over one to four hops",
    "https://huggingface.co/datasets/HymanH/VLKEB-data or https://www.kaggle.com/datasets/hymanh/vlkeb-data (eval.json, "
    "eval_multihop.json, eval_edit_onehop.json, VLKEB_images)",
    read,
)
