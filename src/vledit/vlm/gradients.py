"""Gradients through layers that do not propagate any, such as packed ones (dynamic int8, int8 activations, GPTQ kernels).

The output of such a layer is left as it is, bit for bit.  In the backward pass it is treated as the equivalent plain linear
layer, whose weight is computed from inputs and outputs: the columns of W are the outputs for the rows of the identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .measures import is_plain
from .places import first
from .spread import is_spread

if TYPE_CHECKING:
    from .layered import Layered

_ROWS = 256
"""Rows of the identity that are run at once."""


@contextmanager
def passing_gradients(vlm: Layered, layer: int, read: dict[nn.Module, Tensor] | None = None) -> Iterator[None]:
    """Within the context gradients pass through every linear from decoder layer `layer` on, and the vocabulary projection.

    Nothing is done where no gradient is computed, or where all linears pass it by themselves.

    Args:
        read: keeps the weights that were read off, for the next time; as large as those layers unpacked.
    """
    if not torch.is_grad_enabled():
        yield
        return
    kept = {} if read is None else read

    def through(module: Any, args: tuple, output: Tensor) -> Tensor:
        return _Through.apply(args[0], output, module, kept) if args[0].requires_grad else output

    handles = [module.register_forward_hook(through) for module in _opaque(vlm, layer)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _opaque(vlm: Layered, layer: int) -> list[nn.Module]:
    """The linears that pass no gradient, from decoder layer `layer` on; each is looked at once."""
    known: dict[nn.Module, bool] = vlm.__dict__.setdefault("_passes_gradient", {})
    found = []
    for part in (*list(vlm.layers)[layer:], vlm.anatomy.lm_head):
        for module in part.modules():
            if not _is_packed(module):
                continue
            if module not in known:
                known[module] = passes_gradient(module)
            if not known[module]:
                found.append(module)
    return found


def _is_packed(module: Any) -> bool:
    """Whether a module is a linear that is neither plain nor one around another (an adapted one)."""
    if not isinstance(getattr(module, "in_features", None), int) or is_plain(module):
        return False
    if is_spread(getattr(module, "weight", None)):  # it passes gradients, and takes its own rank's part alone
        return False
    return not any(hasattr(child, "in_features") for child in module.modules() if child is not module)


def passes_gradient(module: Any) -> bool:
    """Whether a linear's output has a gradient to its input that is not zero."""
    x = _like_inputs(module, torch.ones(2, module.in_features)).requires_grad_()
    try:
        y = first(module(x))  # a router gives two things
        (gradient,) = torch.autograd.grad(y.float().square().sum(), x, allow_unused=True)
    except RuntimeError:  # there is none, or the kernel has no way back
        return False
    return gradient is not None and bool(gradient.any())


def _like_inputs(module: Any, x: Tensor) -> Tensor:
    held = next(iter((*module.parameters(), *module.buffers())), None)
    return x if held is None else x.to(held.device)


def columns(module: Any, like: Tensor) -> Tensor:
    """(in, out): what a linear makes of each of its inputs alone, its bias taken out."""
    eye = torch.eye(module.in_features, dtype=like.dtype, device=like.device)
    with torch.no_grad():
        none = module.forward(torch.zeros_like(eye[:1]))
        return torch.cat([module.forward(rows) - none for rows in eye.split(_ROWS)])


class _Through(torch.autograd.Function):
    """The given output forward; backward the plain linear's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, output: Tensor, module: Any, kept: dict[nn.Module, Tensor]) -> Tensor:
        ctx.module, ctx.kept, ctx.like = module, kept, x[..., :1].detach()
        return output.detach().clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        if ctx.module not in ctx.kept:
            ctx.kept[ctx.module] = columns(ctx.module, ctx.like)
        found = ctx.kept[ctx.module]
        return (gradients[0].to(found.dtype) @ found.T).to(ctx.like.dtype), None, None, None
