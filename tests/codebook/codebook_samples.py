"""Small entries for the codebook's tests; the same numbers give the same bits in every process."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch
from hypothesis import HealthCheck

from vledit.codebook import Anchors, Entry, FullTransformation, Scope, SpanTransformation

SITE = "3.mlp.out"
PATIENT: dict = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
"""For hypothesis on a machine that has other things to do."""


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    numbers = np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)
    return torch.from_numpy(numbers)


def scope(key=None, radius: float = 1.0, name: str = "mean", d_positive: float = 0.5, **more) -> Scope:
    anchors = Anchors("backbone", "Which brand is it?", "black", d_positive, 4.0)
    key = tensor(4) if key is None else key
    return Scope(name, key, radius, alpha=0.2, anchors=anchors, **more)


def entry(id: str = "e1", *scopes: Scope, seed: int = 0, size: int = 4, **more) -> Entry:
    given = {
        "question": "What brand is this computer?",
        "answer": "lenovo",
        "site": SITE,
        "image_key": "sha256:1",
        "transformation": FullTransformation(tensor(size, size, seed=seed), tensor(size, seed=seed)),
        "created": "2026-01-02T03:04:05.000006+00:00",
    }
    return Entry(id=id, scopes=scopes or (scope(tensor(4, seed=seed)),), **{**given, **more})


def span(rank: int = 2, seed: int = 0) -> SpanTransformation:
    return SpanTransformation(tensor(5, rank, seed=seed), tensor(rank, 4, seed=seed))


def bits(entry: Entry) -> dict:
    """Everything that an entry says, comparable bit for bit."""
    tensors = {
        name: (
            str(one.dtype),
            tuple(one.shape),
            one.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
        for name, one in entry.transformation.tensors().items()
    }
    scopes = tuple(
        {
            name.name: one.tobytes() if name.name == "key" else one.hex() if isinstance(one, float) else one
            for name in fields(Scope)
            for one in (getattr(scope, name.name),)
        }
        for scope in entry.scopes
    )
    own = {name.name: getattr(entry, name.name) for name in fields(Entry)}
    return {**own, "notes": dict(entry.notes), "scopes": scopes, "transformation": (entry.transformation.kind, tensors)}
