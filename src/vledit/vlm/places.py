"""`Place`: where in a decoder layer a site's inputs come in and its outputs come out.

A place is a matter of what goes in and what comes out, never of a class: an adapted (PEFT), quantised or tensor-parallel
linear has one as a plain `nn.Linear` has, and so has the whole MLP block of a layer, whatever is inside of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import VLEditError
from .site import BLOCK, LAYER, ROLES, expert_of
from .spread import gives_parts, whole

BLOCKS = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "mixer")
"""By these names decoder layers call their MLP block."""

_FIRST = ("fc1", "c_fc", "dense_h_to_4h")
_NAMES = {
    "mlp.in": ("gate_proj", "w1", *_FIRST),
    "mlp.up": ("up_proj", "w3", *_FIRST),
    "mlp.out": ("down_proj", "w2", "fc2", "c_proj", "dense_4h_to_h"),
}
_SHARED = ("shared_expert", "shared_experts", "shared_mlp")
"""By these names mixtures call the expert that all tokens pass."""
_EXPERTS = "experts"
"""By this name they call the others, one module for all."""
_FUSED = "gate_up_proj"
"""One linear that gives gate and up, the gate's half of its outputs first."""

_STATEFUL = "ShortConv"
"""In the class name of convolutions that are no `Conv1d`."""


@dataclass(frozen=True)
class Place:
    """What a site is in one decoder layer.

    Attributes:
        entry: the module whose first argument is the site's input, (B, T, in) or (B·T, in).
        exit: the module whose output is the site's output; of a tuple the first.  The same module, but for layers that hold
            their MLP's linears themselves (OPT), where the block is from the first to the second.
        half: 0 or 1, where the outputs are one half of those of `exit` (gate and up in one linear); None: all of them.
        expert: its number, where the site is one of the experts that `exit` runs together; None: it is all of `exit`.
        stacked: how many of them there are, where `exit` is called with what each is to see, expert after expert; 0: it is
            called with all tokens, and with which experts each is sent to.
    """

    entry: nn.Module
    exit: nn.Module
    half: int | None = None
    expert: int | None = None
    stacked: int = 0

    def take(self, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        """The site's input in what `entry` is called with."""
        return self._own(whole(entering(args, kwargs), self.entry))

    def weights(self, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        """(N, 1): by how much an expert takes part in what is made of each token; 0 where the router sends it elsewhere."""
        if self.stacked:  # what is not sent there is scaled to nothing
            return self._own(entering(args, kwargs)).abs().amax(-1, keepdim=True).gt(0)
        _, chosen, share = [*args, *kwargs.values()][:3]
        return (share * (chosen == self.expert)).sum(-1, keepdim=True)

    def _own(self, value: Tensor) -> Tensor:
        """(experts · N, H), expert after expert → (N, H); of any other place all of it."""
        return value.reshape(self.stacked, -1, value.shape[-1])[self.expert] if self.stacked else value

    def read(self, output: Any) -> Tensor:
        """The site's output in what `exit` gives; of an expert that is not `stacked` what all give together."""
        value = self._own(first(output))
        return value if self.half is None else value.chunk(2, -1)[self.half]

    def write(self, output: Any, changed: Tensor, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """What `exit` gives, with `changed` (in any shape with as many values) as the site's output.

        Args:
            args, kwargs: what `exit` was called with.
        """
        value = first(output)
        if self.expert is not None:
            own = self._own(value)
            change = (changed.reshape(own.shape) - own) * self.weights(args, kwargs or {}).to(own.dtype)
            if not self.stacked:
                return value + change
            parts = list(value.reshape(self.stacked, -1, value.shape[-1]))
            parts[self.expert] = parts[self.expert] + change
            return torch.cat(parts).reshape(value.shape)
        changed = changed.reshape(*value.shape[:-1], -1)
        if self.half is not None:
            parts = list(value.chunk(2, -1))
            parts[self.half] = changed
            changed = torch.cat(parts, -1)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed


def first(output: Any) -> Tensor:
    """A module's output; of a tuple (blocks of experts give what their router says, too) the first."""
    return output[0] if isinstance(output, tuple) else output


def entering(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """What a module is called with: its first argument, or `hidden_states`."""
    return args[0] if args else kwargs["hidden_states"] if "hidden_states" in kwargs else next(iter(kwargs.values()))


def place(layer: nn.Module, role: str) -> Place:
    """The place of a role (see `site.ROLES`) in a decoder layer.

    Raises:
        VLEditError: the layer has none; the message says which roles it has.
    """
    found = _find(layer, role)
    if found is None:
        there = [name for name in ROLES if _find(layer, name) is not None]
        hint = f"Sites of this layer: {', '.join(there)}." if there else "It has no MLP of a known form."
        raise VLEditError(f"{type(layer).__name__} has no {_wanted(layer, role)}. {hint}")
    return found


def _wanted(layer: nn.Module, role: str) -> str:
    """What a role asks of a layer that does not have it."""
    if (number := expert_of(role)) is not None:
        count = n_experts(layer)
        return f"expert {number}; its experts are 0 … {count - 1}" if count else f"experts, which '{role}' names one of"
    if role.startswith("mlp.shared."):
        return f"linear for '{role}': no expert that all tokens pass (looked for {', '.join(_SHARED)}), or not of that form"
    looked = ", ".join(BLOCKS if role == BLOCK else _NAMES[role])
    if role in _NAMES and any(gives_parts(_module(owner, _NAMES[role])) for owner in (_module(layer, BLOCKS), layer)):
        return (
            f"linear for '{role}' that one rank can change: its outputs are spread over the ranks (tensor parallelism)"
        )
    return f"{'block' if role == BLOCK else 'linear'} for '{role}' (looked for {looked})"


def n_experts(layer: nn.Module) -> int:
    """How many experts a layer's router chooses from; 0 where it is no mixture, or not of a form that can be named."""
    module = _experts(layer)
    for name in ("num_experts", "num_local_experts"):
        if isinstance(count := getattr(module, name, None), int):
            return count
    return 0


def _experts(layer: nn.Module) -> nn.Module | None:
    return _module(_module(layer, BLOCKS), (_EXPERTS,)) or _module(layer, (_EXPERTS,))


def roles(layer: nn.Module) -> tuple[str, ...]:
    """The roles that have a place in a decoder layer, in the order of `site.ROLES`."""
    return tuple(role for role in ROLES if _find(layer, role) is not None)


def is_gated(layer: nn.Module) -> bool:
    """Whether the MLP is act(gate(x)) · up(x)."""
    return place(layer, "mlp.in") != place(layer, "mlp.up")


def is_recurrent(layer: nn.Module) -> bool:
    """Whether a decoder layer carries a state from token to token: a gated delta net, Mamba, a short convolution.

    Such a layer reads its row from left to right, so that what comes later cannot be laid out as a tree (`forest`).
    """
    return any(isinstance(module, nn.Conv1d) or _STATEFUL in type(module).__name__ for module in layer.modules())


def _find(layer: nn.Module, role: str) -> Place | None:
    if role == LAYER:
        return Place(layer, layer)
    block = _module(layer, BLOCKS)
    if role == BLOCK:
        if block is not None:
            return Place(block, block)
        ends = _module(layer, _FIRST), _module(layer, _NAMES["mlp.out"])
        return Place(ends[0], ends[1]) if ends[0] is not None and ends[1] is not None else None
    if (number := expert_of(role)) is not None:
        experts, count = _experts(layer), n_experts(layer)
        if experts is None or number >= count:
            return None
        stacked = count if len(signature(type(experts).forward).parameters) == 2 else 0
        return Place(experts, experts, expert=number, stacked=stacked)
    owners = (_module(block, _SHARED),) if role.startswith("mlp.shared.") else (block, layer)
    role = role.replace(".shared", "")
    for owner in owners:
        if (module := _module(owner, _NAMES[role])) is not None and not gives_parts(module):
            return Place(module, module)
        if role != "mlp.out" and (module := _module(owner, (_FUSED,))) is not None and not gives_parts(module):
            return Place(module, module, ("mlp.in", "mlp.up").index(role))
    return None


def _module(owner: Any, names: tuple[str, ...]) -> nn.Module | None:
    found = (getattr(owner, name, None) for name in names)
    return next((module for module in found if isinstance(module, nn.Module)), None)
