"""`EditedModel`: what the user works with, a frozen model and its edits. The method names follow PEFT.

Routing is decided once per request, on the prompt, for each row, and the decision holds for the whole answer (BalancEdit, Eq. 1).
The base weights are never written to, so removing an edit restores the previous behaviour bit for bit.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import copies
from ..codebook import Codebook, Decision
from ..codebook.relation import Fact, conflict
from ..data.case import EditRequest
from ..errors import InputError, UnknownNameError
from ..vlm.acting import acting
from ..vlm.base import VLM, Encoded, Verified
from ..vlm.decoding import decode
from ..vlm.pictures import open_picture
from ..vlm.surroundings import lasting, on_cpu_unless_named
from ..vlm.verify import score
from . import weights as always_on
from .answering import NOTHING, CodebookRouting, Deciders, decide, forced, merged, one_kind, run
from .base import Edit
from .effect import Effect
from .keeping import Keeping
from .memory import Memory
from .registry import editor as make_editor
from .talking import Talking
from .together import begun_together


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


class EditedModel(Talking, Keeping):
    """A frozen vision-language model with edits.

    Several threads may share it: requests run one after the other, and so do edits.

    Args:
        vlm: the base; shared, never changed.
        codebook: gated edits; None: a new, empty codebook in memory.
        weights: always-on edits by id, as weight editors make them.
        memories: edits of methods that have a memory of their own, by the method's name.

    Gated edits take precedence over always-on ones. Memories that look only at the request are asked first, then the codebook,
    then memories that read the prompt, in the order in which they were added; the first that fires acts. If none fires, the
    always-on edits act.
    """

    def __init__(
        self,
        vlm: VLM,
        codebook: Codebook | None = None,
        weights: Mapping[str, Edit] | None = None,
        memories: Mapping[str, Memory] | None = None,
    ):
        super().__init__(vlm, codebook, weights, memories)
        self._enabled = True
        self._editing = threading.RLock()

    def __repr__(self) -> str:
        held = [f"{len(self.codebook)} entries", f"{len(self.weights)} weight edits"]
        held += [f"{len(memory)} of {name}" for name, memory in self.memories.items()]
        return f"EditedModel({self.vlm.name!r}, {', '.join(held)})"

    def __copy__(self) -> EditedModel:
        return copies.shallow_copy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> EditedModel:
        return copies.deep_copy(self, memo)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return copies.rebuilt, (type(self), *copies.state(self))

    # --- editing ----------------------------------------------------------------------------------------------------

    @on_cpu_unless_named
    def edit(
        self,
        request: EditRequest | Iterable[EditRequest],
        editor: str = "balancedit",
        *,
        check: bool = True,
        strict: bool = False,
        **settings: Any,
    ) -> Any:
        """Make an edit with the named editor, add it and return it; see `Editor.edit` for the errors.

        Args:
            request: one request, or several, whose edits are returned as a list. If one fails, those before it are kept. If the
                method supports it, several edits share their passes and are trained together (up to `together.EDITS`); decisions
                that depend on earlier edits are taken one after the other.
            editor: name of the method.
            check: find older edits that no longer answer their own request since this one was added (`Edit.breaks`).
            strict: refuse an edit that breaks older ones; nothing is changed then.

        Raises: InputError for an edit that `strict` refuses.
        """
        method = make_editor(editor, **settings)
        if not isinstance(request, EditRequest):
            return [
                self._edit(method, one, check, strict, begun)
                for one, begun in begun_together(self.vlm, method, request)
            ]
        return self._edit(method, request, check, strict)

    def _edit(self, method: Any, request: EditRequest, check: bool, strict: bool, begun: Any = None) -> Edit:
        with self._editing:
            made = self.make(method, request, begun)
            made = self.add(made)
            if (check or strict) and made.keeps_something:
                made = replace(made, breaks=tuple(self._broken_by(made)))
                if strict and made.breaks:
                    self.remove(made.id)
                    if made.weights is None:
                        self.purge(made.id)
                    raise InputError(
                        f"strict: with this edit {', '.join(map(repr, made.breaks))} would no longer answer its own request; "
                        "nothing was changed. Remove the older edit first, or edit without strict."
                    )
        return made

    @lasting
    def make(self, method: Any, request: EditRequest, begun: Any = None) -> Edit:
        """Make an edit with an editor object, as it would be made now, without adding it.

        Args:
            begun: what the editor's `begin` returned for this request together with others.
        """
        with self._editing:
            if begun is not None:
                return method.edit(self.vlm, request, self.codebook, begun=begun)
            if hasattr(method, "memory"):
                return method.edit(self.vlm, request, self.memory_of(method))
            if method.gated:
                return method.edit(self.vlm, request, self.codebook)
            if getattr(method, "adds_up", False):
                return method.edit(self.vlm, request)
            made = method.edit(self.vlm, request, start=self._always)
            return replace(made, parent=next(reversed(self.weights), None))

    def memory_of(self, method: Any) -> Memory:
        """Return the memory that holds the edits of a method; an empty one if there are none yet."""
        if method.name not in self.memories:
            self.memories[method.name] = method.memory(self.vlm)
        return self.memories[method.name]

    def edits(self) -> list[str]:
        """Return the ids of all edits, whatever their status: those of the codebook, always-on ones, those of memories."""
        held = [entry.id for entry in self.codebook.entries()]
        return [*held, *self.weights, *(id for memory in self.memories.values() for id in memory.kept)]

    def add(self, edit: Edit) -> Edit:
        """Add an edit and return it as it is stored; an entry retires an older one about the same fact with another answer.

        Which edit is about the same fact is decided on the current contents of the codebook. If another process has added the
        same fact with the same answer in the meantime, nothing changes, and the relation of the returned edit says so.

        Raises: InputError for an id that is taken, or a weight edit that was trained on top of edits which are not here.
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
                retired = self.codebook.replaced_by(held.id)
                if retired != (() if relation is None else relation.retires):
                    edit = replace(edit, relation=conflict(retired, None if relation is None else relation.inside))
                return edit
            if edit.id in self.edits():
                removed = edit.id in self.codebook and self.codebook.get(edit.id).status != "active"
                way = "`restore` it, `purge` it" if removed else "remove it first"
                state = "a removed edit" if removed else "an edit"
                raise InputError(f"id: there is {state} '{edit.id}' already; {way}, or give another id.")
            if edit.payload is not None:
                if edit.editor not in self.memories:
                    made_with = edit.payload.meta.get("settings", {})
                    self.memories[edit.editor] = make_editor(edit.editor, **made_with).memory(self.vlm)
                return self.memories[edit.editor].add(edit)
            always_on.check_new(self.weights, edit)
            self._always = always_on.extended(self._always, edit)
            self.weights[edit.id] = edit
            return edit

    def _broken_by(self, edit: Edit) -> list[str]:
        """Older edits that no longer answer their own request since `edit` is there.

        Entries: those with an equal key; of others the nearest to their own request are they themselves.  Other edits are asked
        again, those of the same method whose pictures are at hand.
        """
        if edit.entry is not None:
            return self.codebook.hidden_by(edit.entry)
        memory = None if edit.weights is not None else self.memories[edit.editor]
        held = self.weights.values() if memory is None else [one.edit for one in memory.active()]
        others = [one for one in held if one.id != edit.id]
        others = [one for one in others if one.request.image is not None or one.image_key is None]
        broken: list[str] = []
        for some in self.vlm.batches([one.request for one in others]) if others else ():
            requests = [others[i].request for i in some]
            images, questions, answers = zip(*((one.image, one.question, one.answer) for one in requests), strict=True)
            right = self.verify(images, questions, answers).exact.tolist()
            broken += [others[i].id for i, holds in zip(some, right, strict=True) if not holds]
        return broken

    def remove(self, id: str) -> None:
        """Remove an edit; its effect is gone bit for bit.  A codebook entry is kept and can be restored (`restore`, `purge`).

        Raises: UnknownNameError if there is no such edit; InputError for a weight edit on which later ones were trained.
        """
        with self.vlm.lock:
            if id in self.weights:
                always_on.check_removal(self.weights, id)
                del self.weights[id]
                self._always = always_on.changes(self.weights)
            else:
                self._holder(id).remove(id)

    def restore(self, id: str) -> None:
        """Restore a removed or retired edit, with the bits it had; always-on edits are not kept when they are removed."""
        with self.vlm.lock:
            self._holder(id).restore(id)

    def purge(self, id: str) -> None:
        """Delete an edit for good; the history of the codebook still records that it existed."""
        with self.vlm.lock:
            self._holder(id).purge(id)

    def _holder(self, id: str) -> Any:
        """What holds the edit `id`, always-on ones apart.  Raises: UnknownNameError."""
        for memory in self.memories.values():
            if id in memory:
                return memory
        if not self.codebook.has(id):
            raise UnknownNameError("edit", id, self.edits())
        return self.codebook

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

    @on_cpu_unless_named
    def answer(self, image: object | None, question: str, max_new_tokens: int | None = None) -> Answer:
        """Return the greedy answer to one question about a picture (or None), with its explanation."""
        return self.answers([image], [question], max_new_tokens)[0]

    @on_cpu_unless_named
    def answers(
        self, images: Sequence[object | None], questions: Sequence[str], max_new_tokens: int | None = None
    ) -> list[Answer]:
        """As `answer`, for a batch; each row is decided separately, if possible inside the pass that answers it."""

        def work(vlm: VLM, encoded: Encoded) -> list[str]:
            return vlm.answer_encoded(encoded, max_new_tokens)

        images, questions = _batch(images, questions)
        found: dict[int, Answer] = {}
        with self.vlm.lock:
            deciders = self.deciders()
            for rows, texts, decisions in run(deciders, self._opened(deciders, images), questions, work):
                found |= {row: Answer(text, one) for row, text, one in zip(rows, texts, decisions, strict=True)}
        return [found[row] for row in range(len(questions))]

    @on_cpu_unless_named
    def verify(self, images: Sequence[object | None], questions: Sequence[str], answers: Sequence[str]) -> Verified:
        """Return whether the greedy answers would be exactly these, without generating; decided on the prompts alone."""
        images, questions = _batch(images, questions)
        with self.vlm.lock, torch.inference_mode():
            deciders = self.deciders()
            parts = [
                (rows, score(logits, encoded))
                for rows, logits, encoded, _ in forced(
                    deciders, self._opened(deciders, images), questions, list(answers)
                )
            ]
        return merged(parts)

    @on_cpu_unless_named
    def route(self, images: Sequence[object | None], questions: Sequence[str]) -> list[Decision]:
        """Return the decision for each request, without answering."""
        return [effect.decision for effect in self.effects(images, questions)]

    def effects(self, images: Sequence[object | None], questions: Sequence[str]) -> list[Effect]:
        """Return what happens to each request, without answering."""
        images, questions = _batch(images, questions)
        with self.vlm.lock:
            deciders = self.deciders()
            found = decide(deciders, self._opened(deciders, images), questions)
            return [effect or NOTHING for effect in found]

    def effects_of(self, encoded: Encoded, questions: Sequence[str]) -> list[Effect]:
        """As `effects`, for prompts that are encoded already (conversations).  Memories that need the request as the user gave
        it are not asked.
        """
        with self.vlm.lock:
            deciders = self.deciders()
            return [deciders.final(one) for one in deciders.decide_beforehand(encoded, questions)]

    @contextmanager
    def acting(self, encoded: Encoded, effects: Sequence[Effect]) -> Iterator[None]:
        """Within the context, whatever the base computes on this batch is computed with these effects, row by row."""
        with acting(self.vlm, [effect.changes for effect in effects], encoded):
            yield

    @on_cpu_unless_named
    def generate(self, images: Sequence[object | None], questions: Sequence[str], **settings: Any) -> Any:
        """Hugging Face's `generate` with any decoding strategy; the decision is taken on the prompt and holds throughout.

        Args:
            settings: as for `generate` (num_beams, use_cache, cache_implementation, prefill_chunk_size, assistant_model,
                prompt_lookup_num_tokens, ...); see `vlm.decoding.decode`.

        Returns: token ids (B', ·), prompt and answer; or what `return_dict_in_generate` asks for.

        Raises: InputError for several rows with assisted decoding, or rows that different models answer.
        """
        images, questions = _batch(images, questions)
        whole = settings.get("prefill_chunk_size") is None
        with self.vlm.lock:
            deciders = self.deciders()
            work = lambda vlm, encoded: decode(vlm, encoded, **settings)  # noqa: E731
            return one_kind(list(run(deciders, self._opened(deciders, images), questions, work, whole)))[1]

    def attached(self) -> AbstractContextManager[Any]:
        """Within the context, the Hugging Face model itself uses the edits: `with model.attached() as hf_model: …`.

        This holds for `hf_model.generate(**inputs)`, pipelines and any other caller; each prompt is decided in its first pass.
        After the context nothing is left on the model.

        Raises: InputError if a memory does not support this; the message says which and why.
        """
        from .attached import attached

        return attached(self)

    def deciders(self) -> Deciders:
        """All that decides for this model at the moment; nothing within `disable()`."""
        if not self._enabled:
            return Deciders(self.vlm, (), (), {})
        memories = [memory for memory in self.memories.values() if len(memory)]
        inside: list[Any] = [CodebookRouting(self.vlm, self.codebook)] if len(self.codebook.router) else []
        inside += [memory for memory in memories if memory.when == "prefill"]
        always = {point: change.to(self.vlm.device) for point, change in self._always.items()}
        return Deciders(self.vlm, [memory for memory in memories if memory.when == "request"], inside, always)

    def _opened(self, deciders: Deciders, images: list[Any]) -> list[Any]:
        """Pictures are opened for memories that look at the request; else they are read when they are encoded."""
        if not deciders.before:
            return images
        read = lambda one: [open_picture(each) for each in one] if isinstance(one, list | tuple) else open_picture(one)  # noqa: E731
        return [None if image is None else read(image) for image in images]


def _batch(images: Sequence[Any], questions: Sequence[str]) -> tuple[list[Any], list[str]]:
    images, questions = list(images), list(questions)
    if not questions or len(images) != len(questions):
        raise InputError(
            f"images, questions: must be equally many and at least one; got {len(images)} images, {len(questions)} questions."
        )
    return images, questions
