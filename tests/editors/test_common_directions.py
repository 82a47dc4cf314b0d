"""The directions that span edits do not read: measured once for a model, kept in the cache under all that they depend on."""

import pytest
import torch

from tests.vlm.models import tiny
from vledit.editors import common_directions
from vledit.editors.common_directions import measure


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("VLEDIT_CACHE", str(tmp_path))

    def load():
        """The same model as if it had just been loaded."""
        vlm = tiny("pocket")
        vlm.__dict__.pop("_common_directions", None)
        return vlm

    return load


def files(folder):
    return sorted((folder / "common_directions").glob("*"))


def test_a_model_that_is_loaded_again_reads_what_was_measured(loaded, tmp_path, monkeypatch):
    first = measure(loaded(), "-1.mlp.out", 4)
    assert torch.allclose(first @ first.T, torch.eye(4), atol=1e-5)
    assert len(files(tmp_path)) == 1
    with monkeypatch.context() as patched:
        patched.setattr(common_directions, "_measure", None)  # measuring would fail
        again = measure(loaded(), "-1.mlp.out", 4)
    assert torch.equal(first, again)
    other = measure(loaded(), "-1.mlp.out", 3)
    assert other.shape[0] == 3
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_what_is_damaged_is_measured_again(loaded, tmp_path, content):
    first = measure(loaded(), "-1.mlp.out", 4)
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    assert torch.equal(first, measure(loaded(), "-1.mlp.out", 4))
    assert len(files(tmp_path)) == 1


def test_a_cache_that_cannot_be_written_only_costs_time(loaded, tmp_path):
    (tmp_path / "common_directions").write_text("a file where the folder would be")
    assert measure(loaded(), "-1.mlp.out", 4).shape[0] == 4
