"""ComprehendEdit: eight tasks of five data sets, each edit scored on its neighbours, too (AAAI 2025).

``image, question, rephrase, answer, source, Category, pid``, text and image locality, and lists of neighbours by `pid`:
``img_topk, txt_topk`` (nearest first) and ``img_last_topk, txt_last_topk`` (farthest last), in the test set, where the
backbones were wrong; and with the prefix ``ori_rt_`` in ``ComprehendEdit_ori_right.json``, where they were right. As
published, the first five of a list are used, and the last five of a ``last`` list (`neighbours`).

Cells: generality ``text``; locality ``text``, ``random_image`` and one per list under its own name. The paper's KPI is
`preserved` on the four ``ori_rt_`` cells. Its KGI asks whether neighbours that the base got wrong come right, which is
accuracy on their own answers: with `kgi=true` the four test-set lists stand under portability as well.

Where this reader differs from the authors': a `pid` is looked up as a `pid` (theirs takes it for a position, which is
another record as soon as one was skipped); text locality has its own answer (theirs stores the question in its place);
a record among its own neighbours is passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vledit.data.benchmarks import Benchmark
from vledit.data.case import EditCase, EditRequest, Probe
from vledit.data.fingerprint import Known, distinct, fingerprint, multi_word
from vledit.data.image_lookup import ImageLookup
from vledit.data.mmedit import Tidy, kind_of, tidied
from vledit.data.reading import Files, Reading, collect
from vledit.data.records import FieldError, Record, read_records, without_prefix
from vledit.errors import InputError

LISTS = ("img_topk", "txt_topk", "img_last_topk", "txt_last_topk")
RIGHT = "ori_rt_"
RIGHT_FILE = "ComprehendEdit_ori_right.json"
NEIGHBOURS = 5

KNOWN = (
    Known("ComprehendEdit test", counts={"records": 4482}, source="ComprehendEdit's README"),
    Known("ComprehendEdit train", counts={"records": 13450}, source="ComprehendEdit's README"),
)


def read(files: Files) -> Reading:
    """Return the cases of a ComprehendEdit file.

    Raises: InputError where a file as a whole is missing or unfit; single records and pictures are in the reading.
    """
    path = files.need_annotations("comprehendedit")
    records = read_records(path, "comprehendedit")
    right = _right_records(files, path)
    count, kgi = _count(files.more.get("neighbours", str(NEIGHBOURS))), _yes(files.more.get("kgi", "false"))
    lookup = ImageLookup(files.roots, ("ComprehendEdit",))
    tidy = tidied(files.as_published)
    tests, rights = _by_pid(records), _by_pid(right or [])

    def convert(index: int, record: Record) -> EditCase:
        pid = _pid(record)
        case = _case(record, pid, lookup, tidy, files.as_published)
        near = {name: _neighbours(record, name, pid, count, tests, lookup, tidy) for name in LISTS}
        kept = {
            name: _neighbours(record, name, None, count, rights, lookup, tidy)
            for name in (RIGHT + one for one in LISTS)
            if right is not None
        }
        locality = {**case.locality, **{name: probes for name, probes in {**near, **kept}.items() if probes}}
        own = {name: tuple(probe for probe in probes if probe.answer) for name, probes in near.items()}
        portability = {name: probes for name, probes in own.items() if probes} if kgi else {}
        return EditCase(case.request, case.generality, locality, portability, case.base_answer, case.tags)

    return collect(
        "comprehendedit",
        records,
        convert,
        fingerprint(records, _counts(records), KNOWN),
        lambda cases: _notes(records, right is not None),
    )


def _case(record: Record, pid: int, lookup: ImageLookup, tidy: Tidy, as_published: bool) -> EditCase:
    picture = lookup.find(record.text("image"))
    request = EditRequest(
        picture, tidy(record.text("question")), tidy(record.text("answer")), (), f"comprehendedit/{pid:05d}"
    )
    asked = record.text("locality_prompt")
    locality = {
        "text": (
            Probe(
                None,
                asked if as_published else without_prefix(asked),
                record.text("locality_ground_truth", "") or None,
                {},
                "text_locality/0",
            ),
        ),
        "random_image": (
            Probe(
                lookup.find(record.text("multimodal_locality_image")),
                tidy(record.text("multimodal_locality_prompt")),
                tidy(record.text("multimodal_locality_ground_truth", "")) or None,
                {},
                "random_image/0",
            ),
        ),
    }
    generality = {"text": (Probe(picture, tidy(record.text("rephrase")), None, {}, "text/0"),)}
    tags = {
        "kind": kind_of(request.answer),
        "category": record.text("Category", ""),
        "source": record.text("source", ""),
    }
    return EditCase(request, generality, locality, {}, "", tags)


def _neighbours(
    record: Record,
    name: str,
    own: int | None,
    count: int,
    others: Mapping[int, Record],
    lookup: ImageLookup,
    tidy: Tidy,
) -> tuple[Probe, ...]:
    """Return the probes of one list: the nearest, or in a ``last`` list the farthest, `count` of them."""
    pids = [pid for pid in record.numbers(name) if pid != own]
    chosen = pids[-count:] if "_last_" in name else pids[:count]
    probes = []
    for pid in chosen if count else ():
        if pid not in others:
            raise FieldError(name, f"names the pid {pid}, which no record has")
        other = others[pid]
        try:
            picture, question = lookup.find(other.text("image")), tidy(other.text("question"))
            answer = tidy(other.text("answer", "")) or None
        except FieldError as error:
            raise FieldError(name, f"names the pid {pid}, whose field '{error.field}' {error.text}") from error
        probes.append(Probe(picture, question, answer, {"pid": str(pid)}, f"{name}/{len(probes)}"))
    return tuple(probes)


def _pid(record: Record) -> int:
    pid = record.values.get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool):
        raise FieldError("pid", "is missing" if pid is None else "is no whole number")
    return pid


def _by_pid(records: Sequence[Any]) -> dict[int, Record]:
    found: dict[int, Record] = {}
    for position, values in enumerate(records):
        if isinstance(values, Mapping):
            pid = values.get("pid", position)
            if isinstance(pid, int) and not isinstance(pid, bool):
                found.setdefault(pid, Record(values))
    return found


def _right_records(files: Files, annotations: Path) -> list[Any] | None:
    given = files.more.get("right")
    path = Path(given).expanduser() if given else annotations.parent / RIGHT_FILE
    return read_records(path, "comprehendedit") if given or path.exists() else None


def _count(text: str) -> int:
    if not text.isdecimal():
        raise InputError(f"neighbours: {text!r} is no whole number; 0 leaves the neighbours out.")
    return int(text)


def _yes(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise InputError(f"kgi: {text!r} is neither true nor false.")
    return text.lower() == "true"


def _counts(records: Sequence[Any]) -> dict[str, int]:
    categories = Counter(str(r["Category"]).lower() for r in records if isinstance(r, Mapping) and r.get("Category"))
    return {
        "records": len(records),
        "distinct questions": distinct(records, "question"),
        "distinct answers": distinct(records, "answer"),
        "answers of several words": multi_word(records, "answer"),
        "distinct text-locality questions": distinct(records, "locality_prompt"),
        **{category: count for category, count in sorted(categories.items())},
    }


def _notes(records: Sequence[Any], with_right: bool) -> Iterable[str]:
    lists = {key for values in records if isinstance(values, Mapping) for key in values}
    if not with_right and any(key.startswith(RIGHT) for key in lists):
        yield f"the {RIGHT} cells (KPI) are left out: {RIGHT_FILE} is not beside the file; give --with right=FILE"
    if not any(name in lists for name in LISTS):
        yield "no record lists neighbours: the file is not the test set, and has no cells for KGI and KPI"


BENCHMARK = Benchmark(
    "comprehendedit",
    "ComprehendEdit: eight tasks; neighbours of each edit as cells of their own (KGI, KPI)",
    "https://github.com/yaohui120/ComprehendEdit (its README links the archive: ComprehendEdit_test.json, "
    "ComprehendEdit_ori_right.json, pictures)",
    read,
    more={
        "right": f"{RIGHT_FILE}: records that the backbones answered rightly (default: beside the annotations)",
        "neighbours": f"how many of each list are asked (default {NEIGHBOURS}); 0: none",
        "kgi": "true: neighbours of the test set also under portability, scored by their own answers",
    },
)
