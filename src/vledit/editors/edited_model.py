"""`EditedModel`: what the user holds, a frozen model and its edits, with PEFT's verbs.

Routing is decided once per request, on the prompt, row by row, and kept for the whole answer (BalancEdit, Eq. 1).  The base
weights are never written to, so removing an edit restores the previous behaviour bit for bit.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..codebook import Codebook, Decision
from ..codebook.relation import Fact, conflict
from ..data.case import EditRequest
from ..errors import InputError, UnknownNameError
from ..vlm.base import VLM, Encoded, Transformation, Verified, transformed
from ..vlm.decoding import decode
from . import weights as always_on
from .balancedit import pool
from .base import Edit
from .fitting import as_full
from .registry import editor as make_editor

if TYPE_CHECKING:
    from ..codebook import Query

CODEBOOK_FILE = "codebook.vledit"
BASE = Decision(None, None, None, None, False, "No edits: the base model answers.")


@dataclass(frozen=True)
class Answer:
    """An answer and why it is what it is.

    Args:
        text: the greedy answer.
        decision: which entry fired or was nearest, distance and radius (Fig. 4).
    """

    text: str
    decision: Decision

    @property
    def explanation(self) -> str:
        return self.decision.explanation

    def __str__(self) -> str:
        return self.text


class EditedModel:
    """A frozen vision-language model with edits.

    Threads may share it: requests run one after the other, and so do edits.

    Args:
        vlm: the base; shared, never changed.
        codebook: gated edits (a new, empty one in memory where None is given).
        weights: always-on edits by id, as weight editors make them.
    """

    def __init__(self, vlm: VLM, codebook: Codebook | None = None, weights: Mapping[str, Edit] | None = None):
        self.vlm = vlm
        self.codebook = codebook if codebook is not None else new_codebook(vlm)
        self.weights: dict[str, Edit] = dict(weights or {})
        self._always = always_on.changes(self.weights)
        self._enabled = True
        self._editing = threading.RLock()

    def __repr__(self) -> str:
        return (
            f"EditedModel({self.vlm.name!r}, {len(self.codebook.active())} entries, {len(self.weights)} weight edits)"
        )

    # --- editing ----------------------------------------------------------------------------------------------------

    def edit(
        self,
        request: EditRequest,
        editor: str = "balancedit",
        *,
        check: bool = True,
        strict: bool = False,
        **settings: Any,
    ) -> Edit:
        """Makes an edit with the named editor and adds it.  Returns the edit; see `Editor.edit` for what it raises.

        Args:
            check: look which older edits no longer answer their own request since this one was added (`Edit.breaks`).
            strict: refuse an edit that breaks older ones; nothing has changed then.

        Raises: InputError for what `strict` refuses.
        """
        method = make_editor(editor, **settings)
        with self._editing:
            if method.gated:
                made = method.edit(self.vlm, request, self.codebook)
            else:
                site = self.vlm.resolve_site(method.config.site or self.vlm.default_site)
                made = method.edit(self.vlm, request, self.codebook, start=self._always.get(str(site)))
                made = replace(made, parent=next(reversed(self.weights), None))
            made = self.add(made)
            if (check or strict) and made.keeps_something:
                made = replace(made, breaks=tuple(self._broken_by(made)))
                if strict and made.breaks:
                    self.remove(made.id)
                    if made.entry is not None:
                        self.purge(made.id)
                    raise InputError(
                        f"strict: with this edit {', '.join(map(repr, made.breaks))} would no longer answer its own request; "
                        "nothing was changed. Remove the older edit first, or edit without strict."
                    )
        return made

    def add(self, edit: Edit) -> Edit:
        """Adds an edit and returns it as it is held; an entry retires what holds the same fact with another answer.

        What is the same fact is decided on what the codebook holds at this moment: where another process has added it with
        the same answer meanwhile, nothing changes, and the relation of what is returned says so.

        Raises: InputError for an id that is taken, or a weight edit that was trained on top of others than those here.
        """
        with self.vlm.lock:
            relation = edit.relation
            if not edit.keeps_something:
                for id in relation.retires if relation is not None else ():
                    if id in self.codebook:
                        self.codebook.retire(id)
                return edit
            if edit.entry is not None:
                same_fact = str(edit.entry.notes.get("same_fact", "record"))
                held = self.codebook.add(edit.entry, same_fact=same_fact)
                if held.id != edit.entry.id:
                    same = self.codebook.holding(Fact.of(held))
                    return replace(edit, id=held.id, entry=None, relation=same)
                retired = tuple(one.id for one in self.codebook.entries() if one.retired_by == held.id)
                if retired != (() if relation is None else relation.retires):
                    edit = replace(edit, relation=conflict(retired, None if relation is None else relation.inside))
                return edit
            always_on.check_new(self.weights, edit)
            self.weights[edit.id] = edit
            self._always = always_on.changes(self.weights)
            return edit

    def _broken_by(self, edit: Edit) -> list[str]:
        """Older edits that no longer answer their own request since `edit` is there.

        Entries: those with an equal key; of others the nearest to their own request are they themselves.  Always-on edits
        are asked again, those whose pictures are at hand.
        """
        if edit.entry is not None:
            return self.codebook.hidden_by(edit.entry)
        others = [one for one in self.weights.values() if one.id != edit.id]
        others = [one for one in others if one.request.image is not None or one.image_key is None]
        broken: list[str] = []
        for some in self.vlm.batches([one.request for one in others]) if others else ():
            requests = [others[i].request for i in some]
            images, questions, answers = zip(*((one.image, one.question, one.answer) for one in requests), strict=True)
            right = self.verify(images, questions, answers).exact.tolist()
            broken += [others[i].id for i, holds in zip(some, right, strict=True) if not holds]
        return broken

    def remove(self, id: str) -> None:
        """Takes an edit out; what it did is gone bit for bit.  A codebook entry is kept aside: `restore`, `purge`.

        Raises: UnknownNameError where there is no such edit; InputError for a weight edit that later ones started from.
        """
        with self.vlm.lock:
            if id in self.weights:
                always_on.check_removal(self.weights, id)
                del self.weights[id]
                self._always = always_on.changes(self.weights)
            elif id in (entries := {entry.id for entry in self.codebook.entries()}):
                self.codebook.remove(id)
            else:
                raise UnknownNameError("edit", id, [*self.weights, *entries])

    def restore(self, id: str) -> None:
        """Puts a removed or retired codebook entry back, with the bits it had."""
        with self.vlm.lock:
            self.codebook.restore(id)

    def purge(self, id: str) -> None:
        """Deletes a codebook entry for good; the codebook's history keeps that there was one."""
        with self.vlm.lock:
            self.codebook.purge(id)

    @contextmanager
    def disable(self) -> Iterator[EditedModel]:
        """Within the block the base model answers; other threads wait.  Source: PEFT's `disable_adapter`."""
        with self._editing, self.vlm.lock:  # in the order of `edit`, which may be called within the block
            before, self._enabled = self._enabled, False
            try:
                yield self
            finally:
                self._enabled = before

    # --- asking -----------------------------------------------------------------------------------------------------

    def answer(self, image: object | None, question: str, max_new_tokens: int | None = None) -> Answer:
        """The greedy answer to one question about a picture (or None), with its explanation."""
        return self.answers([image], [question], max_new_tokens)[0]

    def answers(
        self, images: Sequence[object | None], questions: Sequence[str], max_new_tokens: int | None = None
    ) -> list[Answer]:
        """As `answer`, for a batch; every row is routed by itself."""
        with self.vlm.lock:
            encoded = self.vlm.encode(images, questions)
            decisions = self.route_encoded(encoded, questions)
            with self._acting(decisions):
                texts = self.vlm.answer_encoded(encoded, max_new_tokens)
        return [Answer(text, decision) for text, decision in zip(texts, decisions, strict=True)]

    def verify(self, images: Sequence[object | None], questions: Sequence[str], answers: Sequence[str]) -> Verified:
        """Would the greedy answers be exactly these?  One pass, without generating; routed on the prompts alone."""
        with self.vlm.lock:
            decisions = self.route(images, questions)
            encoded = self.vlm.encode(images, questions, answers)
            with self._acting(decisions):
                return self.vlm.verify(encoded)

    def route(self, images: Sequence[object | None], questions: Sequence[str]) -> list[Decision]:
        """What the codebook says to each request, without answering."""
        with self.vlm.lock:
            return self.route_encoded(self.vlm.encode(images, questions), questions)

    def route_encoded(self, encoded: Encoded, questions: Sequence[str]) -> list[Decision]:
        """As `route`, for prompts that are encoded already."""
        router = self.codebook.router
        if not self._enabled or not len(router):
            return [BASE] * len(encoded)
        return router.decide(self._keys(router.queries(), encoded, questions))

    def _keys(self, queries: Sequence[Query], encoded: Encoded, questions: Sequence[str]) -> dict[Query, Tensor]:
        """The keys that the router asks for; the trunk is run once per (prompt, layer)."""
        prompts: dict[str, Encoded] = {"full": encoded}
        inputs: dict[tuple[str, str], Tensor] = {}
        keys = {}
        for query in queries:
            if query.prompt not in prompts:
                prompts[query.prompt] = self.vlm.encode([None] * len(encoded), questions)
            prompt = prompts[query.prompt]
            if (query.prompt, query.site) not in inputs:
                site = self.vlm.resolve_site(query.site)
                inputs[query.prompt, query.site] = self.vlm.site_input(self.vlm.trunk(prompt, site.layer), site)
            # at inference there is no answer: a key made of prompt and answer is compared with the prompt's mean
            tokens = "mean" if query.key_tokens == "prompt+answer" else query.key_tokens
            keys[query] = pool(inputs[query.prompt, query.site], prompt, tokens)
        return keys

    def generate(self, images: Sequence[object | None], questions: Sequence[str], **settings: Any) -> Any:
        """Hugging Face's `generate` with any decoding strategy; routed on the prompt, the decision kept throughout.

        Args:
            settings: as for `generate` (num_beams, use_cache, cache_implementation, prefill_chunk_size, assistant_model,
                prompt_lookup_num_tokens, ...); see `vlm.decoding.decode`.
        Returns: token ids (B', ·), prompt and answer; or what `return_dict_in_generate` asks for.
        Raises: InputError for several rows with assisted decoding.
        """
        with self.vlm.lock:
            encoded = self.vlm.encode(images, questions)
            with self._acting(self.route_encoded(encoded, questions)):
                return decode(self.vlm, encoded, **settings)

    @contextmanager
    def _acting(self, decisions: Sequence[Decision]) -> Iterator[None]:
        """Within the block, whatever is run on this batch, every row computes with what was decided for it."""
        sites: dict[str, list[Transformation | None]] = {}
        known: dict[str | None, dict[str, Transformation]] = {}
        for row, decision in enumerate(decisions):
            if decision.entry not in known:
                known[decision.entry] = self._changes(decision)
            for site, change in known[decision.entry].items():
                sites.setdefault(site, [None] * len(decisions))[row] = change
        with ExitStack() as stack:
            stack.enter_context(self.vlm.lock)
            for site, rows in sites.items():
                stack.enter_context(transformed(self.vlm, self.vlm.resolve_site(site), rows))
            yield

    def _changes(self, decision: Decision) -> dict[str, Transformation]:
        """What acts on a row, by site: the entry that fired, which was trained on the base, or else the always-on edits."""
        if not self._enabled:
            return {}
        found = self._always
        if decision.entry is not None:
            entry = self.codebook.get(decision.entry)
            found = {entry.site: entry.transformation}
        return {site: change.to(self.vlm.device) for site, change in found.items()}

    # --- keeping ----------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the edits (not the base) into `folder`: the codebook, and always-on edits under PEFT's file names."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with self.vlm.lock:
            self.codebook.save(folder / CODEBOOK_FILE, overwrite=True)
            always_on.save(folder, self.weights, self.vlm.fingerprint, self.vlm.name)

    @classmethod
    def from_pretrained(cls, vlm: VLM, folder: str | Path) -> EditedModel:
        """The edits in `folder`, on the base they were made for.

        The codebook stays the folder's file: what is edited from here on is in it at once.  Always-on edits are written
        by `save_pretrained` alone.

        Raises: ModelMismatchError on another base; CodebookError where files are missing or damaged.
        """
        weights = always_on.load(Path(folder), vlm.fingerprint, vlm.name)
        book = Codebook.open(Path(folder) / CODEBOOK_FILE, fingerprint=vlm.fingerprint, model_name=vlm.name)
        return cls(vlm, book, weights)

    def merge(self) -> Any:
        """A copy of the Hugging Face model with the always-on edits added to its weights.

        Raises: InputError where there are codebook entries, which act on some requests only, or where a site's weights
            are quantised: they cannot be merged.
        """
        if self.codebook.active():
            raise InputError("merge: codebook entries act on some requests only; they cannot be merged into weights.")
        with self.vlm.lock:
            model = copy.deepcopy(self.vlm.model)
            names = {id(module): name for name, module in self.vlm.model.named_modules()}
            for site, change in self._always.items():
                try:
                    self.vlm.site_weight(site)
                except InputError as error:
                    raise InputError(f"merge: {error}") from None
                weight = model.get_submodule(names[id(self.vlm.site_module(site))]).weight
                with torch.no_grad():
                    weight.add_(as_full(change).weight_delta.to(weight))  # type: ignore[arg-type]
        return model


def new_codebook(vlm: VLM) -> Codebook:
    """An empty codebook for this model."""
    return Codebook(fingerprint=vlm.fingerprint, model_name=vlm.name)
