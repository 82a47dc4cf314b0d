"""The only module that puts hooks on a model: reading the input of a module, stopping early, changing a site."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..errors import InputError
from .encoded import CACHE, LayerCall
from .places import entering

if TYPE_CHECKING:
    from .layered import Layered
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


class _CallRecord:
    """Stands in for the `forward` of decoder layers: computes nothing, notes how each of them is called."""

    def __init__(self) -> None:
        self.hidden: Tensor | None = None
        self.calls: list[LayerCall] = []
        self._given: Tensor | None = None

    def seen(self, entering: Tensor) -> None:
        """`entering`: what goes into the next layer, or into the final norm."""
        if self.hidden is None:
            self.hidden = entering
        elif entering is not self._given:  # zeros were given, so this is what the model has added
            self.calls[-1].added = entering

    def in_place_of(self, layer: nn.Module) -> Callable[..., Tensor]:
        names = list(signature(layer.forward).parameters)

        def forward(*args: Any, **kwargs: Any) -> Tensor:
            hidden = layer_hidden(args, kwargs)
            self.seen(hidden)
            rest = dict(zip(names[1:], args[1:], strict=False))
            given = rest | {k: v for k, v in kwargs.items() if k != "hidden_states"}
            if (
                given.get(CACHE) is not None
            ):  # some models make one unasked: replayed twice, a layer would see itself before
                given[CACHE] = None
            self.calls.append(LayerCall(given))
            self._given = torch.zeros_like(hidden)
            return self._given

        return forward


@contextmanager
def _replaced(layers: Sequence[nn.Module], record: _CallRecord) -> Iterator[None]:
    own = [layer.__dict__.get("forward") for layer in layers]  # accelerate puts a forward on the module itself
    try:
        for layer in layers:
            layer.forward = record.in_place_of(layer)  # type: ignore[method-assign]
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward  # type: ignore[method-assign]


def record_calls(
    run: Callable[[], Any], layers: Sequence[nn.Module], end: nn.Module | None
) -> tuple[Tensor, list[LayerCall]]:
    """Runs `run` up to the first of `layers`; from there on nothing is computed, but it is seen how each is called.

    The layers give zeros, so that what comes into the next one is what the model itself adds in between.

    Args:
        layers: decoder layers in the order in which they are called.
        end: the module that is called after the last of them; nothing from there on is run. None: all of `run` is.

    Returns:
        hidden (B, T, H) entering the first of `layers`; one call for each of `layers`.

    Raises:
        RuntimeError: `run` ended without calling the layers one after the other.
    """
    record = _CallRecord()

    def stop(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        record.seen(layer_hidden(args, kwargs))
        raise _Stopped

    handle = end.register_forward_pre_hook(stop, with_kwargs=True) if end is not None else None
    try:
        with _replaced(layers, record):
            run()
    except _Stopped:
        pass
    finally:
        if handle is not None:
            handle.remove()
    if record.hidden is None or len(record.calls) != len(layers):
        raise RuntimeError(
            f"{len(record.calls)} of {len(layers)} decoder layers were called: the model's forward is not as expected"
        )
    return record.hidden, record.calls


@contextmanager
def recording(modules: Mapping[str, nn.Module], inputs: bool = False) -> Iterator[dict[str, Any]]:
    """Within the context, keeps the last output (or first argument) of each module, by its name in `modules`."""
    seen: dict[str, Any] = {}
    handles = []
    try:
        for name, module in modules.items():

            def keep(_module: nn.Module, args: tuple, kwargs: dict, output: Any, name: str = name) -> None:
                seen[name] = entering(args, kwargs) if inputs else output

            handles.append(module.register_forward_hook(keep, with_kwargs=True))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def arguments(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[tuple, dict[str, Any]]]]:
    """Within the context, keeps what each module was last called with, by its name in `modules`."""
    seen: dict[str, tuple[tuple, dict[str, Any]]] = {}
    handles = []
    try:
        for name, module in modules.items():

            def keep(_module: nn.Module, args: tuple, kwargs: dict, name: str = name) -> None:
                seen[name] = (args, kwargs)

            handles.append(module.register_forward_pre_hook(keep, with_kwargs=True))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def site_changed(vlm: Layered, site: Site, change: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Within the context, the site's output y becomes `change(x, y)`; x: (B, T, in), y: (B, T, out).

    B and T are those of the decoder layer: OPT hands its MLP a flattened (B·T, in).  The model is locked for the time
    of the context; contexts may be nested and then act one after the other.
    """
    site = vlm.resolve_site(site)
    place = vlm.site_place(site)
    shape: list[tuple[int, int]] = []
    entered: list[Tensor] = []

    def note_shape(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        batch, length = layer_hidden(args, kwargs).shape[:2]
        shape[:] = [(batch, length)]

    def note_input(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        entered[:] = [place.take(args, kwargs)]

    def apply(_module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        x = entered.pop()
        changed = change(x.reshape(*shape[0], -1), place.read(output).reshape(*shape[0], -1))
        return place.write(output, changed, args, kwargs)

    with vlm.lock:
        handles = []
        try:
            handles.append(vlm.layers[site.layer].register_forward_pre_hook(note_shape, with_kwargs=True))
            handles.append(place.entry.register_forward_pre_hook(note_input, with_kwargs=True))
            handles.append(place.exit.register_forward_hook(apply, with_kwargs=True))
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
    vlm: Layered, site: Site, transforms: Sequence[Transformation | None] | Transformation | None
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


@contextmanager
def called_with(module: nn.Module, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[None]:
    """Within the context, `module`, which is called by keywords alone, is called with what `change` makes of them."""

    def put(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, change(dict(kwargs))

    handle = module.register_forward_pre_hook(put, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def prompt_embedded(causal: nn.Module, embed: nn.Module, prompts: Tensor) -> Iterator[None]:
    """Within the context, a language model that is called with token ids sees the embedded prompts in their place.

    A call covers the columns from the cache's length on.  Those inside the prompt are taken from the embedded prompts,
    later ones are embedded as text; rows that `generate` repeats (beams) are repeated alike.

    Args:
        causal: called with `input_ids` by keyword, as `generate` does.
        embed: its input embeddings.
        prompts: (B, T, E), pictures put in.
    """

    def put_in(given: dict[str, Any]) -> dict[str, Any]:
        ids, past = given["input_ids"], given.get("past_key_values")
        start = 0 if past is None else int(past.get_seq_length())
        known = prompts[:, start : start + ids.shape[1]].repeat_interleave(len(ids) // len(prompts), 0)
        embeds = torch.cat([known, embed(ids[:, known.shape[1] :]).to(known)], 1)
        return {**given, "input_ids": None, "inputs_embeds": embeds}

    with called_with(causal, put_in):
        yield
