"""Whatever is wrong with a file: every record in it becomes a case, or is reported. None is lost, none is there twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vledit.data import benchmarks
from vledit.data.reading import Files, Reading

from .miniature_benchmarks import (
    CAPTION,
    MULTI_HOP,
    OKEDIT_ANNOTATION,
    OKEDIT_QUESTION,
    ONE_HOP,
    RECORD,
    draw,
    neighbour,
    write_json,
)

PRESENT, ABSENT = "val2014/here.jpg", "val2014/gone.jpg"
JUNK = st.sampled_from([None, "", " ", 0, 3, 1.5, True, [], ["a"], ["a", "b"], {}, {"a": 1}, "text", [1, 2], [{}]])
PICTURES = st.sampled_from([PRESENT, PRESENT, ABSENT, "", "../x.jpg"])
FIELDS = ("image", "image_rephrase", "m_loc", "multimodal_locality_image")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("pictures"), PRESENT)


@st.composite
def damaged(draw_: Any, whole: dict[str, Any]) -> Any:
    """A record with pictures here or gone, and up to two fields missing or unfit; now and then no record at all."""
    if draw_(st.integers(0, 9)) == 0:
        return draw_(JUNK)
    record = {name: draw_(PICTURES) if name in FIELDS else value for name, value in whole.items()}
    for name in draw_(st.lists(st.sampled_from(sorted(record)), max_size=2)):
        if draw_(st.booleans()):
            record.pop(name, None)
        else:
            record[name] = draw_(JUNK)
    return record


def check(reading: Reading, total: int, probes_of_a_whole_case: int | None = None) -> None:
    assert reading.records == total
    assert len(reading.cases) + len(reading.bad) + len(reading.left_out) == total
    assert len({bad.index for bad in reading.bad}) == len(reading.bad)
    assert len({case.id for case in reading.cases} | set(reading.left_out)) == total - len(reading.bad)
    assert len({missing.name for missing in reading.missing}) == len(reading.missing)
    assert bool(reading.missing) == bool(reading.left_out or reading.dropped)
    for case in reading.cases:
        for image in (case.request.image, *(probe.image for *_, probe in case.probes())):
            assert image is None or (isinstance(image, Path) and image.is_file())
    if probes_of_a_whole_case is not None:
        kept = sum(1 for case in reading.cases for _ in case.probes())
        without_picture = sum(case.request.image is None for case in reading.cases)  # these have no cell "image"
        expected = probes_of_a_whole_case * len(reading.cases) - without_picture
        assert kept + sum(reading.dropped.values()) == expected


@pytest.mark.parametrize(
    ("name", "whole", "probes"),
    [("evqa", RECORD, 4), ("eic", CAPTION, 4), ("vlkeb", ONE_HOP, None), ("vlkeb", MULTI_HOP, None)],
)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_mmedits_record(root: Path, name: str, whole: dict[str, Any], probes: int | None, data: st.DataObject):
    records = data.draw(st.lists(damaged(whole), max_size=5))
    path = write_json(root / f"{name}.json", records)
    check(benchmarks.read(name, Files(path, (root,))), len(records), probes)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_comprehendedit(root: Path, data: st.DataObject):
    pids = data.draw(st.lists(st.integers(0, 3), max_size=5))
    near = st.lists(st.integers(0, 4), max_size=4)
    records = [
        data.draw(damaged(neighbour(pid, img_topk=data.draw(near), txt_last_topk=data.draw(near)))) for pid in pids
    ]
    path = write_json(root / "comprehendedit.json", records)
    check(benchmarks.read("comprehendedit", Files(path, (root,), {"kgi": "true"})), len(records))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_okedit(root: Path, data: st.DataObject):
    ids = data.draw(st.lists(st.integers(1, 3), max_size=4))
    records = [data.draw(damaged({**OKEDIT_ANNOTATION, "question_id": number})) for number in ids]
    questions = [data.draw(damaged({**OKEDIT_QUESTION, "question_id": number})) for number in sorted(set(ids))]
    path = write_json(root / "annotations.json", {"annotations": records})
    write_json(root / "questions.json", {"questions": questions})
    check(benchmarks.read("okedit", Files(path, (root,))), len(records))
