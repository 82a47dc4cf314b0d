"""`Plan`: which published tensors every tensor of the new model is made of, with none missing and none left over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .naming import COPY, LAST_BLOCKS, Rule, fate
from .sources import Shape, Source

SHOWN = 8
"""Names that a message lists of each kind of fault; the number of all of them is told."""


class ConversionError(InputError):
    """The published pieces and the new model do not account for each other tensor by tensor."""


@dataclass(frozen=True)
class Piece:
    """One published piece and what becomes of its tensors.

    Args:
        prefix: what stands before each of the names that the rules know; tensors without it are of no concern here.
        not_prefix: tensors with this prefix are of another piece.
        last_layers: (start of the new name, number of layers): layers from that number on are left out.
    """

    source: Source
    rules: Sequence[Rule]
    prefix: str = ""
    not_prefix: str | None = None
    last_layers: tuple[str, int] | None = None

    def names(self) -> list[str]:
        """The published names that this piece is answerable for."""
        mine = (name for name in self.source.shapes if name.startswith(self.prefix))
        return sorted(name for name in mine if self.not_prefix is None or not name.startswith(self.not_prefix))


@dataclass(frozen=True)
class Part:
    """One published tensor that goes into a new one; `slot` as in `Rule`."""

    source: Source
    name: str
    slot: str

    @property
    def shape(self) -> Shape:
        return self.source.shapes[self.name]

    def __str__(self) -> str:
        return f"{self.source.name}: {self.name}"


@dataclass(frozen=True)
class Dropped:
    """A published tensor that is left out, and why."""

    source: str
    name: str
    why: str


@dataclass
class Plan:
    """What every new tensor is made of.

    Attributes:
        parts: new name → its parts.
        sizes: new name → its size in the new model.
        dropped: what is left out.
        grown: new name → the row that rows beyond the published ones are copies of.
    """

    parts: dict[str, list[Part]] = field(default_factory=dict)
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    grown: Mapping[str, int] = field(default_factory=dict)

    def dtype(self, name: str) -> torch.dtype:
        """The dtype that the tensor was published in."""
        return self.parts[name][0].shape.dtype

    def how(self, name: str) -> str:
        """In words, how the tensor is made of its parts."""
        if len(self.parts[name]) > 1:
            return "q_bias, zeros (keys have no bias), v_bias, one after the other"
        rows = self.sizes[name][0] - self.parts[name][0].shape.size[0] if name in self.grown else 0
        return f"copy, and {rows} rows more that repeat row {self.grown[name]}" if rows else "copy"

    def read(self, name: str) -> Tensor:
        """Makes one new tensor."""
        found = {part.slot: part.source.read(part.name) for part in self.parts[name]}
        if COPY not in found:
            return torch.cat([found["q"], torch.zeros_like(found["v"]), found["v"]])
        tensor = found[COPY]
        if name in self.grown and (rows := self.sizes[name][0] - len(tensor)) > 0:
            row = tensor[self.grown[name]]
            tensor = torch.cat([tensor, row.expand(rows, *row.shape)])
        return tensor


def make_plan(pieces: Sequence[Piece], sizes: Mapping[str, tuple[int, ...]], grown: Mapping[str, int]) -> Plan:
    """Accounts for every tensor of the pieces and of the new model.

    Args:
        sizes: new name → size, of the whole new model.
        grown: see `Plan.grown`.

    Raises:
        ConversionError: naming each tensor that is missing, unknown, there twice or of another size.
    """
    plan, unknown = Plan(sizes=dict(sizes), grown=grown), []
    for piece in pieces:
        for name in piece.names():
            found = fate(name.removeprefix(piece.prefix), piece.rules)
            if found is None:
                unknown.append(f"{piece.source.name}: {name}")
            elif found.target is None:
                plan.dropped.append(Dropped(piece.source.name, name, found.why))
            elif _is_beyond(found.target, piece.last_layers):
                plan.dropped.append(Dropped(piece.source.name, name, LAST_BLOCKS))
            elif found.target not in sizes:
                unknown.append(f"{piece.source.name}: {name} (would be {found.target})")
            else:
                plan.parts.setdefault(found.target, []).append(Part(piece.source, name, found.slot))
    missing, doubled, unfit = _faults(plan)
    told = (
        ("missing", missing),
        ("surplus, known neither as needed nor as left out", unknown),
        ("there twice", doubled),
        ("of another size", unfit),
    )
    if faults := [f"{len(names)} {kind}: {_some(names)}" for kind, names in told if names]:
        raise ConversionError(
            f"the pieces do not fit together. {'. '.join(faults)}. Check that each file is the one that is asked for."
        )
    return plan


def _is_beyond(target: str, last_layers: tuple[str, int] | None) -> bool:
    if last_layers is None or not target.startswith(last_layers[0]):
        return False
    return int(target.removeprefix(last_layers[0]).split(".")[0]) >= last_layers[1]


def _faults(plan: Plan) -> tuple[list[str], list[str], list[str]]:
    missing, doubled, unfit = [], [], []
    for name, size in plan.sizes.items():
        parts = plan.parts.get(name, [])
        slots = sorted(part.slot for part in parts)
        if slots == ["q"] or slots == ["v"]:
            missing.append(f"{name} (its {'v' if slots == ['q'] else 'q'}_bias)")
        elif not slots:
            missing.append(name)
        elif slots not in ([COPY], ["q", "v"]):
            doubled.append(f"{name} ({' and '.join(map(str, parts))})")
        elif not _fits(found := _made_size(parts), size, name in plan.grown):
            unfit.append(f"{name}: {list(found)} in {parts[0]}, {list(size)} in the model")
    return missing, doubled, unfit


def _made_size(parts: list[Part]) -> tuple[int, ...]:
    sizes: dict[str, Any] = {part.slot: part.shape.size for part in parts}
    if COPY in sizes:
        return sizes[COPY]
    return (sizes["q"][0] + 2 * sizes["v"][0],)


def _fits(found: tuple[int, ...], wanted: tuple[int, ...], may_grow: bool) -> bool:
    if may_grow and len(found) == len(wanted):
        return found[0] <= wanted[0] and found[1:] == wanted[1:]
    return found == wanted


def _some(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return "; ".join(names[:SHOWN]) + (f"; and {rest} more" if rest > 0 else "")
