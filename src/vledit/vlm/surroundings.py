"""Global settings that a caller may have switched on, and how our calls give the same results within them.

Server code may run in `torch.inference_mode()`, and scripts may set a default device.  Tensors that are kept or trained on must
still be ordinary ones, and code that names no device (in image processors, optimisers, layers) must still use the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def cpu_unless_named() -> Iterator[None]:
    """Within the context a tensor that is made without naming a device is on the CPU, whatever the default device is."""
    if torch.get_default_device().type == "cpu":
        yield
        return
    with torch.device("cpu"):
        yield


def on_cpu_unless_named(function: Callable[P, R]) -> Callable[P, R]:
    """`cpu_unless_named` around every call of a function."""

    @wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with cpu_unless_named():
            return function(*args, **kwargs)

    return inside


def lasting(function: Callable[P, R]) -> Callable[P, R]:
    """As `on_cpu_unless_named`; and within inference mode the function runs outside of it (without gradient), so that what it
    gives can be kept and trained on."""

    @wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as stack:
            stack.enter_context(cpu_unless_named())
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
                stack.enter_context(torch.no_grad())
            return function(*args, **kwargs)

    return inside


@lasting
def made_ordinary(model: Any) -> Any:
    """The same model; weights and buffers that were made within inference mode, through which no gradient can pass, become
    copies of their values.  What shares a weight goes on sharing it."""
    copies: dict[int, Any] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is None or not tensor.is_inference():
                    continue
                if id(tensor) not in copies:
                    values = tensor.detach().clone()
                    is_parameter = isinstance(tensor, nn.Parameter)
                    copies[id(tensor)] = tensor, nn.Parameter(values, requires_grad=False) if is_parameter else values
                held[name] = copies[id(tensor)][1]
    return model
