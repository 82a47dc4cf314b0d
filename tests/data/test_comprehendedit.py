"""ComprehendEdit: neighbours by pid become cells of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vledit.data import benchmarks
from vledit.data.case import Probe
from vledit.data.comprehendedit import LISTS, RIGHT, RIGHT_FILE
from vledit.data.reading import Files, demand
from vledit.errors import InputError, UnknownNameError

from .miniature_benchmarks import draw, neighbour, pictures_of, write_json

NEAR, FAR = [3, 12, 11, 14, 15, 16, 17], [3, 17, 16, 15, 14, 11, 12]


def records() -> list[dict[str, Any]]:
    lists = {"img_topk": NEAR, "txt_topk": NEAR[:2], "img_last_topk": FAR, "txt_last_topk": [12]}
    kept = {RIGHT + name: [0, 1] for name in LISTS}
    return [neighbour(3, **lists, **kept), *(neighbour(pid) for pid in (12, 11, 14, 15, 16, 17))]


def read(root: Path, values: list[Any], with_right: bool = False, **more: str):
    path = write_json(root / "ComprehendEdit_test.json", values)
    known = [r for r in values if isinstance(r, dict)]
    draw(root, *pictures_of(*known))
    if with_right:
        others = [neighbour(pid, image=f"VSR/images/{pid}.jpg") for pid in (0, 1)]
        write_json(root / RIGHT_FILE, others)
        draw(root, *pictures_of(*others))
    return benchmarks.read("comprehendedit", Files(path, (root,), more))


def pids(probes: tuple[Probe, ...]) -> list[str]:
    return [probe.tags["pid"] for probe in probes]


def test_the_record_itself(tmp_path: Path):
    case = demand(read(tmp_path, records()))[0]
    assert case.id == "comprehendedit/00003"
    assert (case.request.question, case.request.answer) == ("What is number 3 called?", "green parrot 3")
    assert case.request.image == tmp_path / "GQA/images/3.jpg"
    assert [probe.question for probe in case.generality["text"]] == ["What is the name of number 3?"]
    assert case.locality["text"][0].answer == "25 December 2017"
    assert case.locality["random_image"][0].image == tmp_path / "val2014/COCO_val2014_000000297147.jpg"
    assert (case.tags["category"], case.tags["source"]) == ("object recognition", "GQA")


def test_neighbours_are_found_by_pid_not_by_position(tmp_path: Path):
    case = demand(read(tmp_path, records()))[0]
    assert pids(case.locality["img_topk"]) == ["12", "11", "14", "15", "16"]
    assert case.locality["img_topk"][0].image == tmp_path / "GQA/images/12.jpg"
    assert case.locality["img_topk"][0].answer == "green parrot 12"


def test_a_last_list_is_taken_from_its_end(tmp_path: Path):
    case = demand(read(tmp_path, records()))[0]
    assert pids(case.locality["img_last_topk"]) == ["16", "15", "14", "11", "12"]


def test_a_record_is_not_its_own_neighbour(tmp_path: Path):
    case = demand(read(tmp_path, records()))[0]
    assert all("3" not in pids(case.locality[name]) for name in LISTS)


def test_the_number_of_neighbours_is_a_setting(tmp_path: Path):
    assert pids(demand(read(tmp_path, records(), neighbours="2"))[0].locality["img_topk"]) == ["12", "11"]
    assert set(demand(read(tmp_path, records(), neighbours="0"))[0].locality) == {"text", "random_image"}
    for unfit in ("two", "-1", "²"):
        with pytest.raises(InputError, match="neighbours"):
            read(tmp_path, records(), neighbours=unfit)


def test_kgi_scores_neighbours_by_their_own_answers(tmp_path: Path):
    assert demand(read(tmp_path, records()))[0].portability == {}
    case = demand(read(tmp_path, records(), kgi="true"))[0]
    assert set(case.portability) == set(LISTS)
    assert case.portability["img_topk"] == case.locality["img_topk"]
    with pytest.raises(InputError, match="kgi"):
        read(tmp_path, records(), kgi="yes")


def test_a_neighbour_without_answer_has_no_portability(tmp_path: Path):
    values = records()
    values[1]["answer"] = ""
    reading = read(tmp_path, values, kgi="true")
    case = reading.cases[0]
    assert pids(case.locality["txt_topk"]) == ["12"]
    assert "txt_topk" not in case.portability
    assert [(bad.index, bad.field) for bad in reading.bad] == [(1, "answer")]


def test_right_answers_stand_in_a_file_of_their_own(tmp_path: Path):
    reading = read(tmp_path, records())
    assert any(RIGHT_FILE in note for note in reading.notes)
    case = demand(read(tmp_path, records(), with_right=True))[0]
    assert case.locality["ori_rt_img_topk"][0].image == tmp_path / "VSR/images/0.jpg"
    assert {RIGHT + name for name in LISTS} <= set(case.locality)


def test_a_file_of_right_answers_that_was_told_must_be_there(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path, records(), right=str(tmp_path / "absent.json"))


def test_a_pid_that_no_record_has_is_told(tmp_path: Path):
    reading = read(tmp_path, [neighbour(3, txt_topk=[99])])
    assert [(bad.field, "99" in bad.text) for bad in reading.bad] == [("txt_topk", True)]


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        ({"pid": None}, "pid"),
        ({"pid": "3"}, "pid"),
        ({"answer": ""}, "answer"),
        ({"img_topk": "3"}, "img_topk"),
        ({"locality_prompt": None}, "locality_prompt"),
        ({"multimodal_locality_image": 3.5}, ""),
    ],
)
def test_unfit_fields_are_named(tmp_path: Path, damage: dict[str, Any], field: str):
    path = write_json(tmp_path / "t.json", [{**neighbour(3), **damage}])
    reading = benchmarks.read("comprehendedit", Files(path, (tmp_path,)))
    assert [bad.field for bad in reading.bad] == ([field] if field else [])


def test_a_pid_given_twice_is_told(tmp_path: Path):
    reading = read(tmp_path, [neighbour(3), neighbour(3)])
    assert [(bad.index, bad.field) for bad in reading.bad] == [(1, "id")]


def test_a_missing_neighbour_costs_that_probe_only(tmp_path: Path):
    values = records()
    reading = read(tmp_path, values)
    (tmp_path / "GQA/images/12.jpg").unlink()
    reading = benchmarks.read("comprehendedit", Files(tmp_path / "ComprehendEdit_test.json", (tmp_path,)))
    assert reading.left_out == ("comprehendedit/00012",)
    assert pids(reading.cases[0].locality["img_topk"]) == ["11", "14", "15", "16"]
    assert reading.dropped == {
        "locality/img_last_topk": 1,
        "locality/img_topk": 1,
        "locality/txt_last_topk": 1,
        "locality/txt_topk": 1,
    }


def test_another_data_sets_picture_of_the_same_name_is_not_taken(tmp_path: Path):
    path = write_json(tmp_path / "t.json", [neighbour(3)])
    draw(tmp_path, "MathVista/images/3.jpg", "val2014/COCO_val2014_000000297147.jpg")
    reading = benchmarks.read("comprehendedit", Files(path, (tmp_path,)))
    assert [missing.name for missing in reading.missing] == ["GQA/images/3.jpg"]


def test_a_setting_that_it_does_not_have_is_refused(tmp_path: Path):
    with pytest.raises(UnknownNameError, match="Did you mean 'neighbours'"):
        read(tmp_path, records(), neighbors="2")
