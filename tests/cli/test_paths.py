"""Paths that cannot be used, given to every command that writes: exit code 2, the path and what to do, no traceback."""

from __future__ import annotations

import pytest

WRITERS = {
    "codebook export": ("codebook", "export", "codebook.vledit", "{}"),
    "edit": ("edit", "--question", "Who?", "--answer", "me", "--codebook", "{}"),
    "demo": ("demo", "--out", "{}"),
    "bench": ("bench", "--editors", "ft", "--out", "{}"),
    "fit": ("fit", "--editor", "mend", "--out", "{}"),
}


@pytest.mark.parametrize("place", ["file/below", "/proc/nowhere/at-all"])
@pytest.mark.parametrize("command", WRITERS)
def test_a_place_that_cannot_be_written_is_named(cli, tmp_path, command, place):
    from vledit.codebook import Codebook

    Codebook.create(tmp_path / "codebook.vledit", "of some model").close()
    (tmp_path / "file").write_text("")
    ran = cli(*(argument.format(place) for argument in WRITERS[command]))
    assert ran.code == 2, ran.err
    assert "Give" in ran.err or "there is no folder" in ran.err
    assert place.split("/")[-2] in ran.err
    assert "unexpected" not in ran.err
