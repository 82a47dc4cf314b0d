"""`EditedModel`: what the user holds, a frozen model and its edits, with PEFT's verbs.

Routing is decided once per request, on the prompt, row by row, and kept for the whole answer (BalancEdit, Eq. 1).  The base
weights are never written to, so removing an edit restores the previous behaviour bit for bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..codebook import Codebook, Decision, FullTransformation
from ..data.case import EditRequest
from ..errors import InputError, UnknownNameError
from ..vlm.base import VLM, Encoded, Transformation, transformed
from ..vlm.hooks import as_rows
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

    Args:
        vlm: the base; shared, never changed.
        codebook: gated edits (a new, empty one in memory where None is given).
        weights: always-on edits by id, as weight editors make them.
    """

    def __init__(self, vlm: VLM, codebook: Codebook | None = None, weights: Mapping[str, Edit] | None = None):
        self.vlm = vlm
        self.codebook = codebook if codebook is not None else new_codebook(vlm)
        self.weights: dict[str, Edit] = dict(weights or {})
        self._enabled = True

    def __repr__(self) -> str:
        return (
            f"EditedModel({self.vlm.name!r}, {len(self.codebook.active())} entries, {len(self.weights)} weight edits)"
        )

    # --- editing ----------------------------------------------------------------------------------------------------

    def edit(self, request: EditRequest, editor: str = "balancedit", **settings: Any) -> Edit:
        """Makes an edit with the named editor and adds it.  Returns the edit; see `Editor.edit` for what it raises."""
        method = make_editor(editor, **settings)
        if editor == "ft":
            site = self.vlm.resolve_site(method.config.site or self.vlm.default_site)
            made = method.edit(self.vlm, request, self.codebook, start=self._always(str(site)))
        else:
            made = method.edit(self.vlm, request, self.codebook)
        self.add(made)
        return made

    def add(self, edit: Edit) -> None:
        """Adds an edit; an entry in conflict with older ones retires them.  Raises: InputError for an id that is taken."""
        if edit.entry is not None:
            retires = edit.relation.retires if edit.relation is not None else ()
            self.codebook.add(edit.entry, retires=retires)
            return
        if edit.id in self.weights:
            raise InputError(f"id: there is an edit '{edit.id}' already; remove it first or give another id.")
        self.weights[edit.id] = edit

    def remove(self, id: str) -> None:
        """Takes an edit out; what it did is gone bit for bit.  A codebook entry can be restored.

        Raises: UnknownNameError where there is no such edit; InputError for a weight edit that later ones started from.
        """
        if id in self.weights:
            newest = next(reversed(self.weights))
            if id != newest:
                raise InputError(f"id: later weight edits were trained on top of '{id}'; remove '{newest}' first.")
            del self.weights[id]
        elif id in {entry.id for entry in self.codebook.entries()}:
            self.codebook.remove(id)
        else:
            raise UnknownNameError("edit", id, [*self.weights, *(entry.id for entry in self.codebook.entries())])

    def restore(self, id: str) -> None:
        """Puts a removed or retired codebook entry back, with the bits it had."""
        self.codebook.restore(id)

    @contextmanager
    def disable(self) -> Iterator[EditedModel]:
        """Within the block the base model answers.  Source: PEFT's `disable_adapter`."""
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
            found: list[Answer | None] = [None] * len(decisions)
            for (site, _), rows in self._groups(decisions).items():
                part = encoded.select(rows) if len(rows) < len(encoded) else encoded
                changes = [self._change(decisions[row], site) for row in rows]
                texts = self.vlm.answer_encoded(part, max_new_tokens, changes, site)
                for row, text in zip(rows, texts, strict=True):
                    found[row] = Answer(text, decisions[row])
        return [answer for answer in found if answer is not None]

    def route(self, images: Sequence[object | None], questions: Sequence[str]) -> list[Decision]:
        """What the codebook says to each request, without answering."""
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

    def generate(self, images: Sequence[object | None], questions: Sequence[str], **kwargs: Any) -> Tensor:
        """Hugging Face `generate` with any decoding strategy; routed on the prompt, the decision kept throughout.

        Args:
            kwargs: passed to the model's `generate` (num_beams, do_sample, max_new_tokens, cache_implementation, ...).
        Returns: token ids (B, ·), as the model's own `generate` gives them.
        Raises: InputError where the rows fire at different sites (answer them in separate calls).
        """
        with self.vlm.lock:
            encoded = self.vlm.encode(images, questions)
            decisions = self.route_encoded(encoded, questions)
            groups = self._groups(decisions)
            if len(groups) > 1:
                raise InputError("questions: rows of one batch fire at different sites; generate them one by one.")
            site = next(iter(groups))[0]
            changes = [self._change(decision, site) for decision in decisions]
            inputs = {k: v for k, v in encoded.model_inputs.items() if k != "position_ids"}
            with (
                transformed(self.vlm, self.vlm.resolve_site(site), as_rows(changes, len(encoded))),
                torch.inference_mode(),
            ):
                return self.vlm.model.generate(**inputs, **kwargs)

    def _groups(self, decisions: Sequence[Decision]) -> dict[tuple[str, bool], list[int]]:
        """Rows by the site at which they are changed; rows that do not fire go with the default site."""
        always = self._always_site()
        groups: dict[tuple[str, bool], list[int]] = defaultdict(list)
        fallback = always or next((d.site for d in decisions if d.fired and d.site), str(self.vlm.default_site))
        for row, decision in enumerate(decisions):
            site = decision.site if decision.fired and decision.site else fallback
            groups[str(site), True].append(row)
        return groups

    def _change(self, decision: Decision, site: str) -> Transformation | None:
        """What acts on one row at `site`: the entry that fired, or else the always-on edits."""
        if not self._enabled:
            return None
        if decision.fired and decision.entry is not None:
            return self._on_device(self.codebook.get(decision.entry).transformation)
        return self._always(site)

    def _on_device(self, transformation: Any) -> Transformation:
        return transformation.to(self.vlm.device)

    # --- always-on edits --------------------------------------------------------------------------------------------

    def _always_site(self) -> str | None:
        sites = {site for edit in self.weights.values() for site in edit.weights or {}}
        if len(sites) > 1:
            raise InputError(
                f"site: weight edits at several sites at once ({', '.join(sorted(sites))}) are not supported."
            )
        return next(iter(sites), None)

    def _always(self, site: str) -> Transformation | None:
        """The sum of the always-on edits at a site; where an edit continued from others, it holds them already."""
        changes = [edit.weights[site] for edit in self.weights.values() if edit.weights and site in edit.weights]
        if not changes or not self._enabled:
            return None
        return self._on_device(changes[-1])

    # --- keeping ----------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the edits (not the base) into `folder`.  Raises: InputError for weight edits: merge them instead."""
        if self.weights:
            raise InputError("save_pretrained: weight edits are not codebook entries; use merge() and save the model.")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.codebook.save(folder / CODEBOOK_FILE, overwrite=True)

    @classmethod
    def from_pretrained(cls, vlm: VLM, folder: str | Path) -> EditedModel:
        """The edits in `folder`, on the base they were made for.  Raises: ModelMismatchError on another base."""
        return cls(vlm, Codebook.open(Path(folder) / CODEBOOK_FILE, fingerprint=vlm.fingerprint, model_name=vlm.name))

    def merge(self) -> Any:
        """A copy of the Hugging Face model with the always-on edits added to its weights.

        Raises: InputError where there are codebook entries: they act on some requests only and cannot be merged.
        """
        import copy

        if self.codebook.active():
            raise InputError("merge: codebook entries act on some requests only; they cannot be merged into weights.")
        with self.vlm.lock:
            model = copy.deepcopy(self.vlm.model)
        site = self._always_site()
        if site is not None:
            change = self._always(site)
            assert change is not None
            full: FullTransformation = as_full(change)  # type: ignore[arg-type]
            merged = VLM(model, self.vlm.processor, self.vlm.family, self.vlm.name)
            module = merged.site_module(site)
            with torch.no_grad():
                module.weight.add_(full.weight_delta.to(module.weight))
        return model


def new_codebook(vlm: VLM) -> Codebook:
    """An empty codebook for this model."""
    return Codebook(fingerprint=vlm.fingerprint, model_name=vlm.name)
