"""Entries and transformations."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from codebook_samples import entry, scope, span, tensor
from PIL import Image

import vledit
from vledit.codebook import FullTransformation, LazyTransformation, SpanTransformation, Transformation
from vledit.codebook.entry import make_thumbnail
from vledit.errors import InputError, UnknownNameError


def test_full_adds_what_the_changed_weights_would():
    full = FullTransformation(tensor(3, 4), tensor(3))
    weight, bias, x = tensor(3, 4, seed=1), tensor(3, seed=1), tensor(2, 5, 4)
    changed = torch.nn.functional.linear(x, weight + full.weight_delta, bias + full.bias_delta)
    assert torch.allclose(torch.nn.functional.linear(x, weight, bias) + full.delta(x), changed, atol=1e-5)


def test_span_is_the_product_of_its_factors():
    small, x = span(), tensor(2, 3, 4)
    assert small.delta(x).shape == (2, 3, 5)
    assert torch.allclose(small.delta(x), FullTransformation(small.directions @ small.inputs).delta(x), atol=1e-5)
    assert (span(rank=0).delta(x) == 0).all()


@pytest.mark.parametrize(
    "made", [FullTransformation(tensor(3, 4)), FullTransformation(tensor(3, 4), tensor(3)), span()]
)
def test_transformations_share_their_verbs(made):
    assert isinstance(made, Transformation)
    assert made.nbytes == sum(4 * one.numel() for one in made.tensors().values())
    half = made.to(dtype=torch.bfloat16)
    assert type(half) is type(made)
    assert half.nbytes * 2 == made.nbytes
    x = tensor(2, 4)
    assert half.delta(x).dtype == torch.float32
    assert torch.allclose(half.delta(x), made.delta(x), atol=0.2)
    again = type(made).from_tensors(made.tensors())
    assert torch.equal(again.delta(x), made.delta(x))
    lazy = LazyTransformation(made.kind, made.nbytes, lambda: made)
    assert isinstance(lazy, Transformation)
    assert torch.equal(lazy.delta(x), made.delta(x))


def test_training_reaches_the_tensors_through_delta():
    weight = torch.zeros(2, 3, requires_grad=True)
    FullTransformation(weight).delta(torch.ones(1, 3)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_transformations_refuse_shapes_and_names():
    with pytest.raises(InputError, match="weight_delta: shape"):
        FullTransformation(tensor(3))
    with pytest.raises(InputError, match="bias_delta: shape"):
        FullTransformation(tensor(3, 4), tensor(4))
    with pytest.raises(InputError, match=r"directions \(out, r\)"):
        SpanTransformation(tensor(3, 2), tensor(3, 4))
    with pytest.raises(InputError, match="do not fit"):
        SpanTransformation.from_tensors({"weight_delta": tensor(3, 4)})


def test_entry_shows_its_primary_scope():
    made = entry("e1", scope([1.0, 2.0], 3.0, distance="cosine", key_tokens="last"), scope(name="question"))
    assert (made.key.tolist(), made.radius, made.distance, made.key_tokens) == ([1, 2], 3.0, "cosine", "last")
    assert made.alpha == 0.2
    assert made.anchors is not None
    assert made.anchors.negative == "black"
    assert made.nbytes == 8 + 16 + 4 * 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "Entry.id"),
        ({"id": "(user)"}, "Entry.id"),
        ({"id": "a\nb"}, "Entry.id"),
        ({"answer": " "}, "Entry.answer"),
        ({"question": "\ud800"}, "Entry.question.*UTF-8"),
        ({"site": "-1.mlp.out"}, "Entry.site.*from 0"),
        ({"site": "mlp out"}, "Entry.site"),
        ({"image_key": ""}, "Entry.image_key"),
        ({"status": "dead"}, "unknown Entry.status 'dead'"),
        ({"transformation": None}, "Entry.transformation: NoneType"),
        ({"thumbnail": "x"}, "Entry.thumbnail"),
        ({"created": "yesterday"}, "Entry.created"),
        ({"notes": {"x": float("nan")}}, "Entry.notes"),
        ({"notes": {"x": object()}}, "Entry.notes"),
    ],
)
def test_entry_refuses_and_names_the_field(change, message):
    with pytest.raises((InputError, UnknownNameError), match=message):
        entry(**{"id": "e1", **change})


def test_entry_refuses_scopes_of_one_name():
    with pytest.raises(InputError, match="names must differ"):
        entry("e1", scope(), scope())
    with pytest.raises(InputError, match="at least one Scope"):
        type(entry())(**{**vars(entry()), "scopes": ()})


def test_thumbnail_is_small_and_leaves_the_picture_alone():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 4), dtype=np.uint8), "RGBA")
    small = make_thumbnail(picture)
    assert len(small) < 20_000
    assert Image.open(BytesIO(small)).size == (96, 72)
    assert picture.size == (400, 300)


def test_codebook_loads_without_torch():
    code = "import sys, vledit.codebook.book; sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    root = str(Path(vledit.__file__).parents[1])
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": root}, timeout=60).returncode == 0


def test_tensors_are_laid_out_as_a_file_gives_them_back():
    """A product with a transposed matrix has other bits than one with its copy."""
    import torch

    from vledit.codebook import FullTransformation, SpanTransformation

    span = SpanTransformation(torch.randn(2, 5).T, torch.randn(7, 2).T)
    assert all(tensor.is_contiguous() for tensor in span.tensors().values())
    assert FullTransformation(torch.randn(2, 5).T).weight_delta.is_contiguous()
