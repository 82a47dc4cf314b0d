"""`attached`: the Hugging Face model itself shows the edits, for whatever calls it.

A request begins where the model is called with an empty cache (or none) on a prompt that does not continue the last one; its rows
are decided in that pass, from the ids and the attention mask alone, and what was decided is kept until the next request begins.
Models that hold a whole language model (BLIP-2 and its kin) call it with embeddings into which they have put the pictures: the
ids are then those that were embedded just before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..vlm.acting import Read, change_rows, is_vision, last_columns, vision_changed
from ..vlm.asked import Asked, asked
from ..vlm.encoded import CACHE, Encoded
from ..vlm.hooks import site_changed
from .answering import Deciders, read_site, reads_question

if TYPE_CHECKING:
    from ..vlm.base import VLM
    from .edited_model import EditedModel


@contextmanager
def attached(edited: EditedModel) -> Iterator[Any]:
    """See `EditedModel.attached`."""
    deciders = edited.deciders()
    _check(edited, deciders)
    vlm = edited.vlm
    request = _Request(deciders)
    points = dict.fromkeys([*deciders.points(), *(p for p in deciders.always if not is_vision(p))])
    reads = deciders.reads() if deciders.inside_the_pass else []
    site = vlm.resolve_site(reads[0].site) if reads else None
    with vlm.lock, ExitStack() as stack:
        stack.enter_context(_called(vlm.model.get_input_embeddings(), lambda args, _: request.embedding(args)))
        stack.enter_context(_called(vlm.anatomy.causal, lambda _, kwargs: request.begin(kwargs)))
        for point in filter(is_vision, deciders.always):
            stack.enter_context(vision_changed(vlm, point, deciders.always[point]))
        if site is not None:
            stack.enter_context(site_changed(vlm, site, request.at_site))
        for point in points:
            if site is None or vlm.resolve_site(point) != site:
                stack.enter_context(site_changed(vlm, vlm.resolve_site(point), request.at_point(point)))
        yield vlm.model


def _check(edited: EditedModel, deciders: Deciders) -> None:
    for memory in edited.memories.values():
        if len(memory) and (reason := memory.refuse_attach()):
            raise InputError(
                f"attached: '{memory.editor}' cannot work so: {reason}. Use EditedModel.answers or .generate."
            )
    if deciders.inside and any(map(is_vision, deciders.always)):
        raise InputError(
            "attached: always-on edits of the vision side ('ft_v') stand beside edits that act on some requests only; which "
            "of them acts is decided after the pictures were seen. Use EditedModel.answers or EditedModel.generate."
        )


class _Request:
    """The request that runs: its prompt, and what acts on each of its rows."""

    def __init__(self, deciders: Deciders):
        self.deciders, self.vlm = deciders, deciders.vlm
        self.prompt: Tensor | None = None
        self.encoded: Encoded | None = None
        self.rows: Sequence[Mapping[str, Any] | None] | None = None
        self.start = 0
        self._embedded: Tensor | None = None
        self._reading = False

    def embedding(self, args: tuple) -> None:
        """Notes the ids that are embedded."""
        if args and isinstance(args[0], Tensor) and args[0].ndim == 2:
            self._embedded = args[0]

    def begin(self, kwargs: dict[str, Any]) -> None:
        """Notes how the model is called, and whether a new request begins."""
        if self._reading:
            return
        past = kwargs.get(CACHE)
        self.start = 0 if past is None else int(past.get_seq_length())
        if self.start:
            return
        ids = self._ids(kwargs)
        if self.prompt is not None and past is None and self._continues(ids):
            return
        self.prompt = ids
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.ndim == 2 and mask.shape != ids.shape:
            raise InputError(
                "attached: the prompt comes in pieces, but is decided on whole; leave out prefill_chunk_size."
            )
        self.encoded = _FromIds.of(self.vlm, ids, mask)
        self.rows = None
        if not self.deciders.inside:
            self.rows = [dict(self.deciders.always) or None] * len(ids)
        elif not self.deciders.inside_the_pass:
            self.rows = [effect.changes for effect in self._beforehand(kwargs)]

    def _ids(self, kwargs: dict[str, Any]) -> Tensor:
        """(B, T): the prompt's ids, also where the language model is given embeddings."""
        ids, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        noted, self._embedded = self._embedded, None
        if embeds is not None and noted is not None:
            repeats, rest = divmod(len(embeds), len(noted))
            if repeats and not rest and noted.shape[1] == embeds.shape[1]:
                return noted.repeat_interleave(repeats, 0)
        if ids is None or embeds is not None:
            raise InputError("attached: the model was called with embeddings; call it with input_ids.")
        return ids

    def _continues(self, ids: Tensor) -> bool:
        """Whether this is the same prompt with more behind it (decoding without a cache)."""
        known = self.prompt
        assert known is not None
        same = len(known) == len(ids) and known.shape[1] < ids.shape[1]
        return same and torch.equal(ids[:, : known.shape[1]], known)

    def _beforehand(self, kwargs: dict[str, Any]) -> list[Any]:
        """What is decided where the answer's own pass cannot: keys at several sites or of the question alone, or always-on
        edits beside gated ones.  The base reads the prompt once more for it."""
        assert isinstance(self.encoded, _FromIds)
        self._reading, before, self.rows = True, self.rows, []
        try:
            alone = [read for read in self.deciders.reads() if reads_question(read)]
            seen = self._read([read for read in self.deciders.reads() if not reads_question(read)], kwargs)
            if alone:
                questions = [one.question for one in self.encoded.asked()]
                prompts = self.vlm.encode([None] * len(questions), questions)
                seen |= {read.key: read.pool(read_site(self.vlm, prompts, read), prompts) for read in alone}
        finally:
            self._reading, self.rows = False, before
        found = self.deciders.prefill_effects(seen, len(self.encoded))
        return [self.deciders.final(effect) for effect in found]

    def _read(self, reads: Sequence[Read], kwargs: dict[str, Any]) -> dict[tuple[str, bool, str], Tensor]:
        """What the reads see in a pass of the base over the prompt."""
        seen: dict[tuple[str, bool, str], Tensor] = {}

        def keep(read: Read) -> Any:
            def look(x: Tensor, y: Tensor) -> Tensor:
                seen[read.key] = read.pool(y if read.output else x, self.encoded)  # type: ignore[arg-type]
                return y

            return look

        with ExitStack() as stack, torch.no_grad():
            for read in reads:
                stack.enter_context(site_changed(self.vlm, self.vlm.resolve_site(read.site), keep(read)))
            if reads:
                self.vlm.anatomy.causal(**{**kwargs, CACHE: None, "use_cache": False})
        return seen

    def at_site(self, x: Tensor, y: Tensor) -> Tensor:
        if self._reading:
            return y
        if self.rows is None:
            assert self.encoded is not None
            length = self.encoded.prompt_mask.shape[1]
            seen = {
                read.key: read.pool((y if read.output else x)[:, :length], self.encoded)
                for read in self.deciders.reads()
            }
            found = self.deciders.prefill_effects(seen, len(x))
            self.rows = [None if effect is None else effect.changes for effect in found]
        return self._changed(str(self.vlm.resolve_site(self.deciders.reads()[0].site)), x, y)

    def at_point(self, point: str) -> Any:
        return lambda x, y: self._changed(point, x, y)

    def _changed(self, point: str, x: Tensor, y: Tensor) -> Tensor:
        if not self.rows or self.encoded is None:
            return y
        return change_rows(self.rows, point, x, y, last_columns(self.encoded), self.start)


class _FromIds(Encoded):
    """Prompts of which only the ids are known; which tokens are the question's is found out where a key is made of them."""

    vlm: VLM
    _asked: list[Asked] | None = None

    @classmethod
    def of(cls, vlm: VLM, ids: Tensor, mask: Tensor | None) -> _FromIds:
        prompt = torch.ones_like(ids, dtype=torch.bool) if mask is None or mask.ndim != 2 else mask.bool()
        visual = (ids == vlm.image_token_id) & prompt
        nothing = torch.zeros_like(prompt)
        inputs = {"input_ids": ids, "attention_mask": prompt.long()}
        made = cls(inputs, prompt, visual, nothing, nothing, visual.any(1))
        made.vlm = vlm
        return made

    def asked(self) -> list[Asked]:
        """The question of each row.  Raises: InputError where a prompt is not written as the family writes it."""
        if self._asked is None:
            rows = zip(self.input_ids, self.prompt_mask, strict=True)
            self._asked = [asked(self.vlm, *row) for row in rows]
        return self._asked

    @property
    def question_mask(self) -> Tensor:  # type: ignore[override]
        return torch.stack([one.mask for one in self.asked()])

    @question_mask.setter
    def question_mask(self, value: Tensor) -> None:
        """Given by the base class's `__init__`; it is not known yet."""


@contextmanager
def _called(module: nn.Module, note: Any) -> Iterator[None]:
    handle = module.register_forward_pre_hook(lambda _module, args, kwargs: note(args, kwargs), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
