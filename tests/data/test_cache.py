"""The cache directory and its writes."""

from __future__ import annotations

import os
import stat
import time

import pytest

from vledit.data import cache


def test_the_environment_chooses_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VLEDIT_CACHE", str(tmp_path / "here"))
    assert cache.cache_root() == tmp_path / "here"
    monkeypatch.delenv("VLEDIT_CACHE")
    assert cache.cache_root().name == "vledit"


def test_a_write_that_fails_leaves_the_old_file(monkeypatch, tmp_path):
    path = tmp_path / "deep" / "file.bin"
    cache.write_atomic(path, b"old")

    def full(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        cache.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [one.name for one in path.parent.iterdir()] == ["file.bin"]


def test_hashes_agree_and_ignore_key_order(tmp_path):
    cache.write_atomic(tmp_path / "x", b"abc")
    assert cache.sha256_file(tmp_path / "x") == cache.sha256_bytes(b"abc")
    assert cache.sha256_json({"a": 1, "b": 2}) == cache.sha256_json({"b": 2, "a": 1})


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_the_umask_decides_who_may_read(tmp_path, umask, file, folder):
    before = os.umask(umask)
    try:
        cache.write_atomic(tmp_path / "x", b"abc")
        with cache.staging(tmp_path / "model"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == file
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == folder


def test_a_staged_folder_takes_its_place_whole(tmp_path):
    target = tmp_path / "model"
    with cache.staging(target, mark="UNFINISHED") as folder:
        (folder / "weights").write_text("new")
        assert (folder / "UNFINISHED").exists()
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["weights"]
    with cache.staging(target) as folder:
        (folder / "weights").write_text("newer")
    assert (target / "weights").read_text() == "newer"
    assert list(tmp_path.iterdir()) == [target]


def test_folders_that_a_killed_build_left_go_after_a_day(tmp_path):
    old, young, other = (tmp_path / name for name in ("model.tmpaa", "model.tmpbb", "other.tmpcc"))
    for folder in (old, young, other):
        folder.mkdir()
    long_ago = time.time() - 2 * cache.STALE_SECONDS
    for folder in (old, other):
        os.utime(folder, (long_ago, long_ago))
    with cache.staging(tmp_path / "model"):
        assert not old.exists()
        assert young.exists()
        assert other.exists()
    with cache.staging(tmp_path / "model", leftovers="*.tmp*"):
        assert not other.exists()
