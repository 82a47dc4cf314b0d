"""A build is whole or goes on where it was, notices damage, and keeps one of what repeats."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys

import pytest

from vledit.data.icons import CorruptPicture, NotBuilt, builder, load, render
from vledit.errors import UnknownNameError

from . import miniature


@pytest.fixture
def root(monkeypatch, tmp_path):
    return miniature.use(monkeypatch, tmp_path)


@pytest.fixture
def rendered(monkeypatch):
    """Count what is rendered."""
    calls = []
    real = render.render
    monkeypatch.setattr(render, "render", lambda *args: calls.append(args) or real(*args))
    return calls


def test_build_gives_concepts_with_facts_and_square_pictures(root):
    data = builder.build(progress=False, root=root)
    assert data.concepts["things/dog"].facts == {
        "name": "dog",
        "category": "mammal",
        "group": "animal",
        "letter": "D",
        "spanish": "perro",
    }
    assert data.concepts["things/owl"].facts["spanish"] == "búho"
    assert {data.picture(drawing).size for drawing in data.drawings} == {(192, 192)}
    assert {drawing.split for drawing in data.drawings if drawing.hand == "emojione"} == {"held_out"}


def test_a_repeated_drawing_is_kept_once_and_the_train_one_stays(root):
    data = builder.build(progress=False, root=root)
    sets = {drawing.set for drawing in data.drawings_of("things/dog")}
    assert "twemoji" in sets
    assert "emojione" not in sets
    assert "emojione" in {drawing.set for drawing in data.drawings_of("things/cat")}


def test_an_empty_drawing_is_left_out(root):
    data = builder.build(progress=False, root=root)
    assert "noto" not in {drawing.set for drawing in data.drawings_of("things/owl")}


def test_second_build_renders_nothing(root, rendered):
    first = builder.build(progress=False, root=root)
    rendered.clear()
    assert builder.build(progress=False, root=root).version == first.version
    assert not rendered


@pytest.mark.parametrize("damage", ["changed", "missing", "cut short"])
def test_a_damaged_pack_is_noticed_and_rebuilt(root, rendered, damage):
    data = builder.build(progress=False, root=root)
    drawing = data.drawings_of("things/cat", "train")[0]
    pack = root / "sets" / drawing.pack
    content = pack.read_bytes()
    if damage == "missing":
        pack.unlink()
    else:
        middle = len(content) // 2
        changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        pack.write_bytes(changed if damage == "changed" else content[:middle])
    rendered.clear()
    again = builder.build(progress=False, root=root)
    assert pack.read_bytes() == content
    assert 0 < len(rendered) <= len(miniature.NAMES), "only the damaged set is rendered again"
    assert again.version == data.version


def test_a_picture_that_changed_on_disk_is_refused(root):
    data = builder.build(progress=False, root=root)
    drawing = data.drawings_of("things/cat")[0]
    pack = root / "sets" / drawing.pack
    content = bytearray(pack.read_bytes())
    start = content.index(b"WEBP", content.index(drawing.file.encode()))
    content[start + 20] ^= 1
    pack.write_bytes(content)
    with pytest.raises(CorruptPicture, match="vledit data build icons"):
        load(root).picture(drawing)


def test_a_build_stopped_midway_goes_on_where_it_was(root, rendered, monkeypatch):
    real = builder.render_set

    def stop(source, *rest):
        if source.icon_set.name == "noto":
            raise KeyboardInterrupt
        return real(source, *rest)

    monkeypatch.setattr(builder, "render_set", stop)
    with pytest.raises(KeyboardInterrupt):
        builder.build(progress=False, root=root)
    with pytest.raises(NotBuilt):
        load(root)
    monkeypatch.setattr(builder, "render_set", real)
    before = len(rendered)
    builder.build(progress=False, root=root)
    assert before == 2 * len(miniature.NAMES)
    assert len(rendered) == len(miniature.SETS) * len(miniature.NAMES), "what was done is not done again"


@pytest.mark.skipif(sys.platform == "win32", reason="kills a forked process")
def test_a_killed_build_leaves_nothing_half_written(root, monkeypatch):
    def killed():
        real = os.replace
        done = []

        def replace(self, target):
            done.append(target)
            if len(done) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            real(self, target)

        monkeypatch.setattr("pathlib.Path.replace", replace)
        builder.build(progress=False, root=root)

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert list((root / "sets").glob(".*.part")), "it was killed in mid-write"
    data = builder.build(progress=False, root=root)
    assert all(data.picture(drawing) for drawing in data.drawings)


def test_more_concepts_reuse_the_pictures_that_are_there(root, rendered, monkeypatch):
    from vledit.data.icons import things

    table = things.TABLE
    whole = table.read_text(encoding="utf-8")
    table.write_text("".join(whole.splitlines(keepends=True)[:-1]), encoding="utf-8")
    builder.build(progress=False, root=root)
    rendered.clear()
    table.write_text(whole, encoding="utf-8")
    assert "things/owl" in builder.build(progress=False, root=root).concepts
    assert len(rendered) == len(miniature.SETS), "the owls only"


def test_a_part_asked_for_later_does_not_replace_the_whole_of_an_older_version(root):
    whole = {drawing.set for drawing in builder.build(progress=False, root=root).drawings}
    index = json.loads((root / "index.json").read_text())
    (root / "index.json").write_text(json.dumps({**index, "plan": "of an older version"}))
    after = builder.build(only=["twemoji", "openmoji"], progress=False, root=root)
    assert {drawing.set for drawing in after.drawings} == whole


def test_only_says_what_it_knows():
    with pytest.raises(UnknownNameError, match="Did you mean 'flags'"):
        builder.chosen(["flag-s"])
    sets, domains = builder.chosen(["brands"])
    assert domains == ["brands"]
    assert all("brands" in one.domains for one in sets)


def test_demo_needs_few_sets():
    sets, domains = builder.chosen(["demo"])
    assert tuple(domains) == ("brands",)
    assert len(sets) < 20
    assert {"twemoji", "mdi", "vscode-icons"}.isdisjoint(one.name for one in sets)


def test_load_says_how_to_build(tmp_path):
    with pytest.raises(NotBuilt, match="vledit data build icons"):
        load(tmp_path)
