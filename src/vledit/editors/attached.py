"""`attached`: the Hugging Face model itself shows the edits, for whatever calls it.

A request begins where the model is called with an empty cache (or none) on a prompt that does not continue the last one; its rows
are decided in that pass, from the ids and the attention mask alone, and what was decided is kept until the next request begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..vlm.acting import VISION, applied, change_rows, is_vision
from ..vlm.anatomy import module_at
from ..vlm.encoded import CACHE, Encoded
from ..vlm.hooks import site_changed
from .answering import Deciders

if TYPE_CHECKING:
    from .edited_model import EditedModel


@contextmanager
def attached(edited: EditedModel) -> Iterator[Any]:
    """See `EditedModel.attached`."""
    deciders = edited.deciders()
    _check(edited, deciders)
    vlm = edited.vlm
    request = _Request(deciders)
    with vlm.lock, ExitStack() as stack:
        stack.enter_context(_called(vlm.anatomy.causal, request.begin))
        points = list(dict.fromkeys([*deciders.points(), *(p for p in deciders.always if not is_vision(p))]))
        for point in filter(is_vision, deciders.always):
            stack.enter_context(_vision(vlm.model, point, deciders.always[point]))
        reads = deciders.reads()
        site = vlm.resolve_site(reads[0].site) if reads else None
        if site is not None:
            stack.enter_context(site_changed(vlm, site, request.at_site))
        for point in points:
            if site is None or vlm.resolve_site(point) != site:
                stack.enter_context(site_changed(vlm, vlm.resolve_site(point), request.at_point(point)))
        yield vlm.anatomy.causal if vlm.anatomy.causal is vlm.model else vlm.model


def _check(edited: EditedModel, deciders: Deciders) -> None:
    vlm = edited.vlm
    if vlm.anatomy.causal is not vlm.model:
        raise InputError(
            f"attached: pictures of {vlm.family.title} are put into the prompt by VLEdit, which an ordinary call of the model "
            "does otherwise. Use EditedModel.answers or EditedModel.generate."
        )
    for memory in edited.memories.values():
        if len(memory) and (reason := memory.refuse_attach()):
            raise InputError(
                f"attached: '{memory.editor}' cannot work so: {reason}. Use EditedModel.answers or .generate."
            )
    if deciders.inside and not deciders.inside_the_pass:
        raise InputError(
            "attached: these edits cannot be decided inside one pass (keys at several sites or of the question alone, or "
            "always-on edits beside them). Use EditedModel.answers or EditedModel.generate."
        )


class _Request:
    """The request that runs: its prompt, and what acts on each of its rows."""

    def __init__(self, deciders: Deciders):
        self.deciders = deciders
        self.prompt: Tensor | None = None
        self.encoded: Encoded | None = None
        self.rows: Sequence[Mapping[str, Any] | None] | None = None
        self.start = 0

    def begin(self, kwargs: dict[str, Any]) -> None:
        """Notes how the model is called, and whether a new request begins."""
        past, ids = kwargs.get(CACHE), kwargs.get("input_ids")
        self.start = 0 if past is None else int(past.get_seq_length())
        if self.start:
            return
        if ids is None:
            raise InputError("attached: the model was called with embeddings; call it with input_ids.")
        if self.prompt is not None and past is None and self._continues(ids):
            return
        self.prompt = ids
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.ndim == 2 and mask.shape != ids.shape:
            raise InputError(
                "attached: the prompt comes in pieces, but is decided on whole; leave out prefill_chunk_size."
            )
        self.encoded = _encoded(self.deciders.vlm, ids, mask)
        always = dict(self.deciders.always)
        self.rows = None if self.deciders.inside else [always or None] * len(ids)

    def _continues(self, ids: Tensor) -> bool:
        """Whether this is the same prompt with more behind it (decoding without a cache)."""
        known = self.prompt
        assert known is not None
        same = len(known) == len(ids) and known.shape[1] < ids.shape[1]
        return same and torch.equal(ids[:, : known.shape[1]], known)

    def at_site(self, x: Tensor, y: Tensor) -> Tensor:
        if self.rows is None:
            assert self.encoded is not None
            length = self.encoded.prompt_mask.shape[1]
            seen = {
                read.key: read.pool((y if read.output else x)[:, :length], self.encoded)
                for read in self.deciders.reads()
            }
            found = self.deciders.prefill_effects(seen, len(x))
            self.rows = [None if effect is None else effect.changes for effect in found]
        return self._changed(str(self.deciders.vlm.resolve_site(self.deciders.reads()[0].site)), x, y)

    def at_point(self, point: str) -> Any:
        return lambda x, y: self._changed(point, x, y)

    def _changed(self, point: str, x: Tensor, y: Tensor) -> Tensor:
        if not self.rows:
            return y
        last = torch.full((len(self.rows),), (self.prompt.shape[1] if self.prompt is not None else 1) - 1)
        return change_rows(self.rows, point, x, y, last, self.start)


def _encoded(vlm: Any, ids: Tensor, mask: Tensor | None) -> Encoded:
    """The masks of prompts of which only the ids are known; which tokens are the question's cannot be told."""
    prompt = torch.ones_like(ids, dtype=torch.bool) if mask is None or mask.ndim != 2 else mask.bool()
    visual = (ids == vlm.image_token_id) & prompt
    nothing = torch.zeros_like(prompt)
    inputs = {"input_ids": ids, "attention_mask": prompt.long()}
    return Encoded(inputs, prompt, visual, nothing, nothing, visual.any(1))


@contextmanager
def _called(module: nn.Module, note: Any) -> Iterator[None]:
    handle = module.register_forward_pre_hook(lambda _module, _args, kwargs: note(kwargs), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _vision(model: Any, point: str, change: Any) -> Iterator[None]:
    def add(_module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        flat = output.reshape(-1, output.shape[-1])
        return applied(change, args[0].reshape(-1, args[0].shape[-1]), flat).reshape(output.shape)

    handle = module_at(model, point.removeprefix(VISION)).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
