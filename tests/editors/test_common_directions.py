"""The directions that span edits do not read: measured once for a model, kept in the cache under all that they depend on."""

import pytest
import torch

import vledit
from tests.vlm.models import tiny
from vledit.editors import common_directions
from vledit.editors.common_directions import measure
from vledit.editors.fitting import FittingConfig
from vledit.editors.training import artefact


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


def test_what_was_written_for_a_package_is_read_where_it_fits_and_else_measured(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(artefact, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(common_directions, "COUNT", 4)
    vlm = loaded()
    folder = common_directions.write_shipped(vlm)
    site = vlm.resolve_site(vlm.default_site)
    expected = common_directions._measure(vlm, site, 4)
    with monkeypatch.context() as patched:
        patched.setattr(common_directions, "_measure", None)  # measuring would fail
        assert torch.equal(measure(loaded(), site, 4), expected)
    assert files(tmp_path) == []
    assert common_directions.shipped(vlm, site, 3) is None
    assert common_directions.shipped(vlm, vlm.resolve_site("0.mlp.in"), 4) is None
    weights = folder / artefact.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    assert torch.equal(measure(loaded(), site, 4), expected)
    assert len(files(tmp_path)) == 1


def test_those_of_pocket_come_with_the_package_and_hold_what_its_inputs_have_in_common():
    """Of two prompts, which are among those that were measured, they hold nearly all; drawn directions hold 40 of 1,536 parts."""
    vlm = vledit.load("pocket").vlm
    site = vlm.resolve_site(vlm.default_site)
    directions = common_directions.shipped(vlm, site, FittingConfig().common_directions)
    assert directions is not None
    assert torch.allclose(directions @ directions.T, torch.eye(40), atol=1e-5)
    encoded = vlm.encode([None, None], list(common_directions.QUESTIONS[:2]))
    x = vlm.site_input(vlm.trunk(encoded, site.layer), site)[encoded.last_prompt_mask]
    drawn = torch.linalg.qr(torch.randn(x.shape[1], 40, generator=torch.Generator().manual_seed(0))).Q.T
    x = x.float()
    held = [((x @ some.T).norm(dim=1) / x.norm(dim=1)).min().item() for some in (directions, drawn)]
    assert held[0] > 0.9
    assert held[1] < 0.3


def test_whoever_watches_is_told_what_takes_long_and_only_the_first_time(loaded, monkeypatch, capsys):
    monkeypatch.setattr(common_directions.sys.stderr, "isatty", lambda: True, raising=False)
    measure(loaded(), "-1.mlp.out", 4)
    assert "span: measuring" in capsys.readouterr().err
    measure(loaded(), "-1.mlp.out", 4)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(common_directions.sys.stderr, "isatty", lambda: False, raising=False)
    measure(loaded(), "-1.mlp.out", 3)
    assert capsys.readouterr() == ("", "")
