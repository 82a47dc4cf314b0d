"""The one place where hooks are put on a model: reading what enters a module, stopping early, changing a site."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..errors import InputError

if TYPE_CHECKING:
    from .base import VLM
    from .site import Site


@runtime_checkable
class Transformation(Protocol):
    """What an edit does at its site: `y = W x + b` becomes `y + delta(x)`."""

    def delta(self, x: Tensor) -> Tensor:
        """x: (N, in) → (N, out)."""
        ...


Transforms = Transformation | Sequence[Transformation | None] | None
"""One for all rows, or one (or None) per row of the batch, or nothing at all."""


class _Stopped(Exception):
    """Raised inside a forward pass to leave it; never seen outside this module."""


def layer_hidden(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The hidden states (B, T, H) among the arguments of a decoder layer."""
    return args[0] if args else kwargs["hidden_states"]


def call_until(run: Callable[[], Any], module: nn.Module) -> tuple[tuple, dict[str, Any]]:
    """Runs `run` until `module` is called and returns the arguments of that call; nothing from there on is computed.

    Raises:
        RuntimeError: `run` ended without calling `module`.
    """
    seen: list[tuple[tuple, dict[str, Any]]] = []

    def stop(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        seen.append((args, kwargs))
        raise _Stopped

    handle = module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        run()
    except _Stopped:
        pass
    finally:
        handle.remove()
    if not seen:
        raise RuntimeError(f"{type(module).__name__} was never called: the model's forward is not as expected")
    return seen[0]


@contextmanager
def recording(modules: Mapping[str, nn.Module], inputs: bool = False) -> Iterator[dict[str, Tensor]]:
    """Within the context, keeps the last output (or first argument) of each module, by its name in `modules`."""
    seen: dict[str, Tensor] = {}
    handles = []
    try:
        for name, module in modules.items():

            def keep(_module: nn.Module, args: tuple, output: Any, name: str = name) -> None:
                value = args[0] if inputs else output
                seen[name] = value[0] if isinstance(value, tuple) else value

            handles.append(module.register_forward_hook(keep))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def site_changed(vlm: VLM, site: Site, change: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Within the context, the site's output y becomes `change(x, y)`; x: (B, T, in), y: (B, T, out).

    B and T are those of the decoder layer: OPT hands its MLP a flattened (B·T, in).  The model is locked for the time
    of the context; contexts may be nested and then act one after the other.
    """
    site = vlm.resolve_site(site)
    shape: list[tuple[int, int]] = []

    def note_shape(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        batch, length = layer_hidden(args, kwargs).shape[:2]
        shape[:] = [(batch, length)]

    def apply(_module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        changed = change(args[0].reshape(*shape[0], -1), output.reshape(*shape[0], -1))
        return changed.reshape(output.shape)

    with vlm.lock:
        handles = []
        try:
            handles.append(vlm.layers[site.layer].register_forward_pre_hook(note_shape, with_kwargs=True))
            handles.append(vlm.site_module(site).register_forward_hook(apply))
            yield
        finally:
            for handle in handles:
                handle.remove()


def as_rows(transforms: Transforms, batch: int) -> list[Transformation | None]:
    """One entry per row of a batch of `batch` rows.

    Raises:
        InputError: a list of another length.
    """
    if transforms is None or not isinstance(transforms, Sequence):
        return [transforms] * batch
    if len(transforms) != batch:
        raise InputError(
            f"transforms: {len(transforms)} given for a batch of {batch} rows. Give one (or None) per row."
        )
    return list(transforms)


def _groups(rows: Sequence[Transformation | None], beams: int) -> list[tuple[Transformation, list[int]]]:
    """The rows of each transformation, so that it is computed once; row i stands at i·beams … of the batch."""
    groups: dict[int, tuple[Transformation, list[int]]] = {}
    for row, transform in enumerate(rows):
        if transform is not None:
            group = groups.setdefault(id(transform), (transform, []))
            group[1].extend(range(row * beams, (row + 1) * beams))
    return list(groups.values())


@contextmanager
def transformed(
    vlm: VLM, site: Site, transforms: Sequence[Transformation | None] | Transformation | None
) -> Iterator[None]:
    """Within the context, the model computes with these transformations at `site`, row by row.

    A row with None is not touched: its bits are the base's.  Beam search repeats rows, row i becoming i·n … i·n+n−1: a
    batch that is n times as long as `transforms` is read so.  It makes no difference whether the model sees whole
    prompts, chunks of them or one token at a time.

    Args:
        transforms: one per row, or one for every row.

    Raises:
        InputError: (inside the forward pass) the batch is no multiple of the number of transformations.
    """
    rows = list(transforms) if isinstance(transforms, Sequence) else [transforms]
    if all(transform is None for transform in rows):
        with vlm.lock:
            yield
        return

    def add(x: Tensor, y: Tensor) -> Tensor:
        beams, rest = divmod(len(x), len(rows))
        if rest or not beams:
            raise InputError(f"transforms: {len(rows)} given for a batch of {len(x)} rows. Give one (or None) per row.")
        for transform, members in _groups(rows, beams):
            index = torch.tensor(members, device=x.device)
            chosen = x[index]
            delta = transform.delta(chosen.reshape(-1, chosen.shape[-1])).reshape(*chosen.shape[:2], -1)
            y = y.index_add(0, index, delta.to(y.dtype))
        return y

    with site_changed(vlm, site, add):
        yield
