"""Names of one thing in many sets are found, and those of another thing are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vledit.data.icons import brands, exclusions, flags, sets, things
from vledit.data.icons.sources import Source, plain_hexcode, slug_of


def iconify(folder: Path, set_name: str, icons: list[str], aliases: dict[str, str] | None = None) -> Source:
    one = sets.BY_NAME[set_name]
    (folder / one.package).mkdir(parents=True)
    content = {
        "icons": {name: {"body": f"<path id='{name}'/>"} for name in icons},
        "aliases": {name: {"parent": parent} for name, parent in (aliases or {}).items()},
        "width": 10,
        "height": 20,
    }
    (folder / one.package / "icons.json").write_text(json.dumps(content))
    return Source(one, folder)


def emoji(label: str, *names: str) -> things.Emoji:
    return things.Emoji(label, "0", (label.replace(" ", ""), *names), "")


def test_a_label_goes_before_a_short_code_of_another(tmp_path):
    source = iconify(tmp_path, "emojione", ["dog", "dog-face"])
    found = things.match_emoji(source, [emoji("dog face", "dogface", "dog"), emoji("dog", "dog2")])
    assert found == {"dog face": ["dog-face"], "dog": ["dog"]}


def test_an_icon_with_another_name_in_older_sets_is_not_taken(tmp_path):
    source = iconify(tmp_path, "emojione", ["cricket-game"], {"cricket": "cricket-game"})
    found = things.match_emoji(source, [emoji("cricket"), emoji("cricket game")])
    assert found == {"cricket game": ["cricket-game"]}


def test_numbered_drawings_of_one_thing_are_all_taken(tmp_path):
    source = iconify(tmp_path, "streamline-emojis", ["bird-1", "bird-2", "2"])
    assert things.match_emoji(source, [emoji("bird")]) == {"bird": ["bird-1", "bird-2"]}


def test_old_unicode_names_are_known(tmp_path):
    source = iconify(tmp_path, "fxemoji", ["aubergine"])
    assert things.match_emoji(source, [emoji("eggplant", "aubergine")]) == {"eggplant": ["aubergine"]}


def test_an_alias_that_turns_its_parent_is_another_picture(tmp_path):
    source = iconify(tmp_path, "noto", ["arrow"])
    source._iconify["aliases"] = {"arrow-left": {"parent": "arrow", "hFlip": True}}
    assert source.names == {"arrow": "arrow"}


def test_svg_has_the_icons_own_box(tmp_path):
    svg = iconify(tmp_path, "logos", ["a"]).picture_bytes("a").decode()
    assert 'viewBox="0 0 10 20"' in svg


@pytest.mark.parametrize(
    ("icon", "found"),
    [("brand-apple", True), ("apple", False), ("brand-apple-filled", True), ("brand-apple-arcade", False)],
)
def test_tabler_names_brands_with_a_prefix(tmp_path, icon, found):
    assert bool(brands.icons_of(iconify(tmp_path, "tabler", [icon]), {"apple"})) is found


@pytest.mark.parametrize(
    ("full", "short"),
    [
        ("Mexican Peso", "peso"),
        ("West African CFA Franc", "CFA franc"),
        ("Israeli New Shekel", "shekel"),
        ("Euro", "euro"),
        ("Tongan Paʻanga", "pa'anga"),
    ],
)
def test_currencies_are_called_as_at_home(full, short):
    assert flags.currency_name(full) == short


@pytest.mark.parametrize(("label", "word"), [("cara de perro", "perro"), ("zorro", "zorro"), ("Bandera: Perú", "Perú")])
def test_spanish_labels_are_made_simple(label, word):
    assert things.simple_spanish(label) == word


def test_code_points_and_slugs_have_one_spelling():
    assert plain_hexcode("1F32A-FE0F") == plain_hexcode("1f32a") == "1f32a"
    assert slug_of("São Tomé and Príncipe") == "sao-tome-and-principe"
    assert slug_of("jack-o'-lantern") == "jack-o-lantern"


def test_sets_that_must_be_avoided_are_not_there():
    packages = {one.package for one in sets.SETS}
    assert not {name for name in packages for bad in ("cbi", "icomoon", "facebook", "joypixels") if bad in name}
    assert all(one.licence for one in sets.SETS)


def test_exclusions_name_sets_of_their_domain():
    for domain, names in exclusions.EXCLUDED.items():
        for name in names:
            assert domain in sets.BY_NAME[name.partition(":")[0]].domains
