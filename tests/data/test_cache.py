"""The cache directory and its writes."""

from __future__ import annotations

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
