"""Trunks kept on disk: the same scores as without, across protocols and runs, whatever happens to the files."""

from __future__ import annotations

import os
import time

import pytest
import torch

from tests.vlm.models import build
from vledit.codebook import Query
from vledit.errors import InputError
from vledit.evaluate.asking import prepare
from vledit.evaluate.case_trunks import _identity
from vledit.evaluate.held import Held
from vledit.evaluate.protocols import outcomes_of, single
from vledit.evaluate.runner import Plan, run
from vledit.evaluate.trunk_cache import TrunkCache

from .small import BALANCED, FINE_TUNE, VARIANTS, case, content


def test_scores_from_the_disk_are_those_without(any_vlm, tmp_path):
    fresh = prepare(any_vlm, case())
    cache = TrunkCache(any_vlm, 1.0, tmp_path)
    prepare(any_vlm, case(), cache=cache)
    kept = prepare(any_vlm, case(), cache=cache)
    assert (cache.report.hits, cache.report.misses) == (1, 1)
    assert cache.report.bytes_read == cache.report.bytes_written > 0
    for variant in (BALANCED, FINE_TUNE):
        assert repr(single(any_vlm, kept, variant).outcomes) == repr(single(any_vlm, fresh, variant).outcomes)
    assert kept.base_record(0) == fresh.base_record(0)


def test_nothing_is_run_again(vlm, tmp_path, monkeypatch):
    """What is kept is enough to score an edit; only answers that cannot be forced are generated, and need their pictures."""
    cache = TrunkCache(vlm, 1.0, tmp_path)
    prepare(vlm, case(), cache=cache)
    kept = prepare(vlm, case(), cache=cache)
    assert not kept._pictures
    held = Held(vlm, FINE_TUNE)
    held.make(case().request)
    monkeypatch.setattr(vlm, "trunk", lambda *_: pytest.fail("a trunk was run again"))
    acting, routing = held.acting(kept)
    assert outcomes_of(kept, "ft", acting, routing)[0].new
    generated = {row for row, one in enumerate(kept.asked) if one.is_locality and row not in kept.base_top}
    wanted = {_identity(kept.asked[row].probe.image) for row in generated}
    assert set(kept._pictures) <= wanted


def test_shared_by_protocols_and_runs(vlm, tmp_path):
    cases = [case(i) for i in range(3)]
    for number, plan in enumerate((Plan(), Plan("sequential", at=(1, 3)), Plan("batch", batch_size=2), Plan())):
        cache = TrunkCache(vlm, 1.0, tmp_path / "trunks")
        end = run(vlm, cases, VARIANTS, tmp_path / f"{number}.jsonl", plan, cache)
        assert end["cache"]["misses"] == (3 if number == 0 else 0)
        assert end["cache"]["hits"] >= (0 if number == 0 else 3)
    assert content(tmp_path / "0.jsonl") == content(tmp_path / "3.jsonl")


@pytest.mark.parametrize("harm", ["cut", "flipped", "emptied", "foreign"])
def test_a_damaged_file_is_noticed_and_made_again(vlm, tmp_path, harm):
    cache = TrunkCache(vlm, 1.0, tmp_path)
    whole = prepare(vlm, case(), cache=cache)
    path = cache.path(whole)
    data = bytearray(path.read_bytes())
    if harm == "flipped":
        data[-100] ^= 1
    path.write_bytes({"cut": data[: len(data) // 2], "flipped": data, "emptied": b"", "foreign": b"x" * 5000}[harm])
    again = prepare(vlm, case(), cache=cache)
    assert cache.report.damaged == 1
    assert repr(single(vlm, again, BALANCED).outcomes) == repr(single(vlm, whole, BALANCED).outcomes)
    prepare(vlm, case(), cache=cache)
    assert cache.report.hits == 1


def test_other_models_questions_and_settings_have_other_files(vlm, tmp_path):
    cache = TrunkCache(vlm, 1.0, tmp_path)
    other = TrunkCache(build("pocket", hidden_size=16), 1.0, tmp_path)
    paths = {
        cache.path(prepare(vlm, case(0))),
        cache.path(prepare(vlm, case(1))),
        cache.path(prepare(vlm, case(0, near=2))),
        cache.path(prepare(vlm, case(0), tokens=False)),
        cache.path(prepare(vlm, case(0), layer=0)),
        other.path(prepare(other.vlm, case(0))),
    }
    assert len(paths) == 6


def test_bounded_and_the_oldest_of_other_runs_go_first(vlm, tmp_path):
    first = TrunkCache(vlm, 1.0, tmp_path)
    for number in range(3):
        prepare(vlm, case(number), cache=first)
    files = sorted(tmp_path.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    size = max(path.stat().st_size for path in files)
    for age, path in enumerate(files):
        os.utime(path, (1000 + age, 1000 + age))
    limit = 3.5 * size
    second = TrunkCache(vlm, limit / 1e9, tmp_path)
    for number in (3, 4, 5, 6):
        prepare(vlm, case(number), cache=second)
    left = list(tmp_path.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in left) <= limit
    assert not set(files) & set(left)
    assert second.report.evicted == 3
    assert second.report.refused == 4 - len(left) >= 1  # its own files are not thrown out for the next
    prepare(vlm, case(3), cache=second)
    assert second.report.hits == 1


def test_what_a_killed_process_left_is_cleared_away(vlm, tmp_path):
    for name, age in ((".old.part", 7200), (".new.part", 0)):
        (tmp_path / name).write_bytes(b"half a file")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    prepare(vlm, case(), cache=TrunkCache(vlm, 1.0, tmp_path))
    assert {path.name for path in tmp_path.glob(".*.part")} == {".new.part"}


def test_no_room_at_all_is_no_error(vlm, tmp_path):
    cache = TrunkCache(vlm, 1e-6, tmp_path)
    prepare(vlm, case(), cache=cache)
    assert cache.report.refused == 1
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="cache-gb"):
        TrunkCache(vlm, -1.0, tmp_path)


def test_an_edit_below_the_trunk_is_scored_all_the_same(any_vlm):
    """An editor whose site lies lower than the others': the trunks are run again to there."""
    from dataclasses import replace

    low = replace(FINE_TUNE, settings={**FINE_TUNE.settings, "site": "0.mlp.out"})
    top = prepare(any_vlm, case())
    from_top = single(any_vlm, top, low)
    from_below = single(any_vlm, prepare(any_vlm, case(), layer=0), low)
    assert top.layer == 0
    assert [o.new for o in from_top.outcomes] == [o.new for o in from_below.outcomes]
    assert from_top.outcomes[0].new


def test_keys_below_the_trunks_are_kept_with_them(any_vlm, tmp_path, monkeypatch):
    """Of models whose prompts cannot share a row the trunks end where the keys are read."""
    vlm, site = any_vlm, str(any_vlm.resolve_site("0.mlp.out"))
    made = prepare(vlm, case(), vlm.n_layers - 1, key_sites=[site], cache=TrunkCache(vlm, 1.0, tmp_path))
    query = Query(site, "last", "full", "last")
    alone = prepare(vlm, case(), 0).keys(query)
    assert torch.allclose(made.keys(query), alone, atol=1e-4)
    cache = TrunkCache(vlm, 1.0, tmp_path)
    monkeypatch.setattr("vledit.evaluate.asking.ask_base", None)  # what is kept is enough
    again = prepare(vlm, case(), vlm.n_layers - 1, key_sites=[site], cache=cache)
    assert cache.report.hits == 1
    assert again.layer == made.layer
    assert torch.equal(again.keys(query), made.keys(query))
