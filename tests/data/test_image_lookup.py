"""Pictures are found in the layouts that archives unpack to, and never a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from vledit.data.image_lookup import ImageLookup, MissingPicture

from .miniature_benchmarks import draw

COCO = "val2014/COCO_val2014_000000000042.jpg"


@pytest.mark.parametrize(
    ("stored", "root"),
    [
        (COCO, "."),
        (f"images/{COCO}", "."),
        (COCO, "val2014"),
        (f"a/b/{COCO}", "."),
        ("elsewhere/COCO_val2014_000000000042.jpg", "."),
    ],
)
def test_layouts(tmp_path: Path, stored: str, root: str):
    draw(tmp_path, stored)
    assert ImageLookup([tmp_path / root], by_name=True).find(COCO) == tmp_path / stored


def test_several_roots(tmp_path: Path):
    draw(tmp_path / "coco", COCO)
    draw(tmp_path / "mmedit", "val2014_image_rephrase/1.png")
    lookup = ImageLookup([tmp_path / "mmedit", tmp_path / "coco"])
    assert lookup.find(COCO) == tmp_path / "coco" / COCO
    assert lookup.find("val2014_image_rephrase/1.png") == tmp_path / "mmedit" / "val2014_image_rephrase/1.png"


def test_another_entitys_picture_of_the_same_name_is_not_taken(tmp_path: Path):
    draw(tmp_path, "VLKEB_images/m.0104lr/google_15.jpg")
    lookup = ImageLookup([tmp_path], ("VLKEB_images",))
    assert lookup.find("m.0104lr/google_15.jpg") == tmp_path / "VLKEB_images/m.0104lr/google_15.jpg"
    assert isinstance(lookup.find("m.0zzzzz/google_15.jpg"), MissingPicture)
    assert isinstance(ImageLookup([tmp_path / "VLKEB_images/m.0104lr"]).find("m.0zzzzz/google_15.jpg"), MissingPicture)


def test_two_files_that_could_be_it_are_not_chosen_between(tmp_path: Path):
    draw(tmp_path, "one/1.jpg", "two/1.jpg")
    found = ImageLookup([tmp_path], by_name=True).find("val2014/1.jpg")
    assert isinstance(found, MissingPicture)
    assert "2 files" in found.reason


def test_a_missing_picture_says_where_it_was_looked_for(tmp_path: Path):
    found = ImageLookup([tmp_path]).find("a/b.jpg")
    assert found == MissingPicture("a/b.jpg", f"no such file below {tmp_path}")
    assert ImageLookup([tmp_path]).find(" ") == MissingPicture(" ", "the name is empty")


def test_names_do_not_lead_out_of_the_root(tmp_path: Path):
    draw(tmp_path, "secret.jpg", "root/inside.jpg")
    lookup = ImageLookup([tmp_path / "root"], by_name=True)
    for name in ("../secret.jpg", "/etc/passwd", f"{tmp_path}/secret.jpg", "..\\secret.jpg"):
        assert isinstance(lookup.find(name), MissingPicture)
    assert lookup.find(".\\inside.jpg") == tmp_path / "root" / "inside.jpg"


def test_links_are_followed_once(tmp_path: Path):
    draw(tmp_path / "store", "deep/x.jpg")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "root")
    assert ImageLookup([tmp_path / "root"], by_name=True).find("x.jpg") == tmp_path / "root" / "link" / "deep" / "x.jpg"
