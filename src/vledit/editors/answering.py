"""How a batch of requests runs on an edited model: which part decides when, in one pass if possible.

1. Memories that look only at the request decide before anything is run.
2. The codebook and prefill memories decide inside the answer's own first pass, at the site where they read.  A separate pass up
   to that site is needed only in these cases: keys at several sites or of the question alone, a prompt that comes in chunks,
   always-on edits beside gated ones (keys are read on the base).
3. The first gated edit that fires acts alone, as it was made for the base; if none fires, the always-on edits act.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..codebook import Codebook, Decision, Query
from ..codebook.scope import pool_key
from ..errors import InputError
from ..vlm.acting import (
    Read,
    acting,
    deciding,
    is_vision,
    layers_acting,
    lowest,
    prompt_acting,
)
from ..vlm.base import VLM, Encoded
from ..vlm.verify import Verified
from .effect import Effect

if TYPE_CHECKING:
    from .memory import Memory

BASE = Decision(None, None, None, None, False, "No edits: the base model answers.")
NOTHING = Effect(BASE)
ALWAYS = "The always-on edits act on every request."
Texts = Callable[[VLM, Encoded], Any]
"""What is run on an encoded batch, on a model."""


class InPrefill(Protocol):
    """What decides by what it reads of the prompt."""

    def __len__(self) -> int: ...

    def reads(self) -> tuple[Read, ...]: ...

    def points(self) -> tuple[str, ...]: ...

    def prefill_effects(self, seen: Mapping[tuple[str, bool, str], Tensor], rows: int) -> list[Effect | None]: ...


def pool(x: Tensor, encoded: Encoded, key_tokens: str) -> Tensor:
    """(B, T, in) site inputs → (B, in) keys on the CPU, float32."""
    return pool_key(
        x,
        encoded.prompt_mask,
        key_tokens,
        visual_mask=encoded.visual_mask,
        question_mask=encoded.question_mask if key_tokens == "question" else None,
        answer_mask=encoded.answer_mask,
    )


def asked_tokens(query: Query) -> str:
    """At inference there is no answer: a key made of prompt and answer is compared with the prompt's mean."""
    return "mean" if query.key_tokens == "prompt+answer" else query.key_tokens


class CodebookRouting:
    """A codebook as what decides inside the prefill."""

    def __init__(self, vlm: VLM, codebook: Codebook):
        self.vlm, self.codebook = vlm, codebook

    def __len__(self) -> int:
        return len(self.codebook.router)

    def queries(self) -> tuple[Query, ...]:
        return self.codebook.router.queries()

    def reads(self) -> tuple[Read, ...]:
        return tuple({read.key: read for read in map(self._read, self.queries())}.values())

    def _read(self, query: Query) -> Read:
        tokens = asked_tokens(query)
        return Read(query.site, lambda x, encoded: pool(x, encoded, tokens), name=f"{query.prompt}/{tokens}")

    def points(self) -> tuple[str, ...]:
        return self.codebook.router.sites()

    def prefill_effects(self, seen: Mapping[tuple[str, bool, str], Tensor], rows: int) -> list[Effect | None]:
        decisions = self.codebook.decide({query: seen[self._read(query).key] for query in self.queries()})
        return list(map(self.effect, decisions))

    def effect(self, decision: Decision) -> Effect:
        """What the codebook does where it has decided so."""
        if decision.entry is None:
            return Effect(decision)
        entry = self.codebook.get(decision.entry)
        return Effect(decision, {entry.site: entry.transformation.to(self.vlm.device)})


@dataclass
class Deciders:
    """All that decides for one edited model, in order.

    Args:
        before: memories that look at the request alone.
        inside: the codebook, then memories that read the prompt; empty ones left out.
        always: point → what the always-on edits do there together.
    """

    vlm: VLM
    before: Sequence[Memory]
    inside: Sequence[InPrefill]
    always: Mapping[str, Any]

    def __bool__(self) -> bool:
        return bool(self.before or self.inside or self.always)

    def request_effects(self, images: Sequence[Any], questions: Sequence[str]) -> list[Effect | None]:
        """What is decided before any pass: per row the first effect that fires, else the first explanation, else None."""
        found: list[Effect | None] = [None] * len(questions)
        for memory in self.before:
            found = [
                _first(old, new) for old, new in zip(found, memory.request_effects(images, questions), strict=True)
            ]
        return found

    def prefill_effects(self, seen: Mapping[tuple[str, bool, str], Tensor], rows: int) -> list[Effect | None]:
        """As `request_effects`, from what was read of the prompts."""
        found: list[Effect | None] = [None] * rows
        for one in self.inside:
            found = [_first(old, new) for old, new in zip(found, one.prefill_effects(seen, rows), strict=True)]
        return found

    def reads(self) -> list[Read]:
        return list({read.key: read for one in self.inside for read in one.reads()}.values())

    def points(self) -> list[str]:
        return list(dict.fromkeys(point for one in self.inside for point in one.points()))

    @property
    def inside_the_pass(self) -> bool:
        """Whether what reads the prompt can decide inside the answer's own first pass."""
        reads, resolve = self.reads(), self.vlm.resolve_site
        if len({read.site for read in reads}) != 1 or self.always or any(map(reads_question, reads)):
            return False
        site = resolve(reads[0].site)
        return all(site.known_before(resolve(point)) for point in self.points())

    def decide_beforehand(self, encoded: Encoded, questions: Sequence[str]) -> list[Effect | None]:
        """What reads the prompt decides, in passes of its own that end at the sites it reads."""
        prompts: dict[bool, Encoded] = {False: encoded}
        seen = {}
        for read in self.reads():
            alone = reads_question(read)
            if alone not in prompts:
                prompts[alone] = self.vlm.encode([None] * len(encoded), questions)
            seen[read.key] = read.pool(read_site(self.vlm, prompts[alone], read), prompts[alone])
        return self.prefill_effects(seen, len(encoded))

    def final(self, effect: Effect | None) -> Effect:
        """What happens to a request for which this was decided: a gated edit alone, or else the always-on ones."""
        effect = effect or NOTHING
        if effect.decision.fired or not self.always:
            return effect
        return Effect(effect.decision, self.always)


def read_site(vlm: VLM, encoded: Encoded, read: Read) -> Tensor:
    """(B, T, width): what a read sees, from a pass that ends there."""
    site = vlm.resolve_site(read.site)
    trunk = vlm.trunk(encoded, site.layer)
    return vlm.site_output(trunk, site) if read.output else vlm.site_input(trunk, site)


def reads_question(read: Read) -> bool:
    """Whether a read is of the question alone, without its picture."""
    return read.name.startswith("question/")


def _first(old: Effect | None, new: Effect | None) -> Effect | None:
    if old is None or (new is not None and new.decision.fired and not old.decision.fired):
        return new
    return old


# --- running ------------------------------------------------------------------------------------------------------------


def encode(
    vlm: VLM,
    images: Sequence[Any],
    questions: Sequence[str],
    effects: Sequence[Effect | None],
    answers: Sequence[str | None] | None = None,
) -> Encoded:
    """The prompts as the model reads them, with what is put into them."""
    inserts = [None if effect is None else effect.insert for effect in effects]
    read = [q if one is None else one.question(q) for q, one in zip(questions, inserts, strict=True)]
    soft = [None if one is None else one.soft for one in inserts]
    return vlm.encode(images, read, answers, soft if any(one is not None for one in soft) else None)


def kinds(effects: Sequence[Effect | None]) -> list[list[int]]:
    """Rows that can go through one model together: those of one responder, with the same changes on the vision side."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for row, effect in enumerate(effects):
        changes = {} if effect is None else effect.changes
        vision = tuple(sorted((point, id(change)) for point, change in changes.items() if is_vision(point)))
        groups.setdefault((id(effect.responder if effect else None), vision), []).append(row)
    return list(groups.values())


def decide(
    deciders: Deciders, images: Sequence[Any], questions: Sequence[str], all_of_it: bool = True
) -> list[Effect | None]:
    """What happens to each request.

    Args:
        all_of_it: in passes of their own, also what reads the prompt; else only what is decided before any pass.
    """
    effects = deciders.request_effects(images, questions)
    if not all_of_it:
        return effects
    rows = [row for row, effect in enumerate(effects) if effect is None or not effect.decision.fired]
    if rows and deciders.inside:
        asked = [questions[row] for row in rows]
        found = deciders.decide_beforehand(deciders.vlm.encode([images[row] for row in rows], asked), asked)
        for row, effect in zip(rows, found, strict=True):
            effects[row] = _first(effects[row], effect)
    return [deciders.final(effect) for effect in effects]


def run(
    deciders: Deciders,
    images: Sequence[Any],
    questions: Sequence[str],
    work: Texts,
    whole_prompts: bool = True,
) -> Iterator[tuple[list[int], Any, list[Decision]]]:
    """Runs `work` on these requests, each with what is decided for it.

    Args:
        work: called with a model and an encoded batch, in a context where everything acts that has to.
        whole_prompts: whether the first pass of `work` holds the whole prompts.

    Yields: (rows, what `work` gave, their decisions), for rows that go through one model together.
    """
    inside = deciders.inside_the_pass and whole_prompts
    effects = decide(deciders, images, questions, all_of_it=not inside)
    for rows in kinds(effects):
        part = [effects[row] for row in rows]
        vlm = next((one.responder for one in part if one is not None and one.responder is not None), deciders.vlm)
        encoded = encode(
            vlm,
            [images[row] for row in rows],
            [questions[row] for row in rows],
            part,
        )
        decided: list[Effect | None] = list(part)
        undecided = any(one is None or not one.decision.fired for one in decided)
        with _running(deciders, vlm, encoded, decided, inside and undecided):
            result = work(vlm, encoded)
        yield rows, result, [(effect or NOTHING).decision for effect in decided]


@contextmanager
def _running(
    deciders: Deciders, vlm: VLM, encoded: Encoded, effects: list[Effect | None], inside: bool
) -> Iterator[None]:
    """The context in which a batch runs; what is decided in it is put into `effects`."""
    rows = [None if effect is None else effect.changes for effect in effects]
    with prompt_acting(vlm, rows, encoded), layers(deciders, vlm, encoded, effects, inside):
        yield


@contextmanager
def layers(
    deciders: Deciders, vlm: VLM, encoded: Encoded, effects: list[Effect | None], inside: bool
) -> Iterator[None]:
    """The part of it in the decoder layers."""
    closed = [not inside or (effect is not None and effect.decision.fired) for effect in effects]
    known = [
        effect.changes if done and effect is not None else None for effect, done in zip(effects, closed, strict=True)
    ]

    def decide(seen: Mapping[tuple[str, bool, str], Tensor]) -> list[Mapping[str, Any] | None]:
        found = deciders.prefill_effects(seen, len(effects))
        for row, effect in enumerate(found):
            if not closed[row]:
                effects[row] = _first(effects[row], effect)
        return [None if effect is None else effect.changes for effect in found]

    with ExitStack() as stack:
        stack.enter_context(layers_acting(vlm, known, encoded))
        if inside:
            stack.enter_context(deciding(vlm, encoded, deciders.reads(), deciders.points(), decide, closed))
        yield


def forced(
    deciders: Deciders, images: Sequence[Any], questions: Sequence[str], answers: Sequence[str]
) -> Iterator[tuple[list[int], Tensor, Encoded, list[Decision]]]:
    """Teacher-forces answers behind the prompts.

    Yields: (rows, logits (n, V) at the positions that predict the answers' tokens, the encoded batch, decisions), for rows that
        go through one model together.
    """
    final = [effect or NOTHING for effect in decide(deciders, images, questions)]
    for rows in kinds(final):
        part = [final[row] for row in rows]
        some = ([images[row] for row in rows], [questions[row] for row in rows], [answers[row] for row in rows])
        logits, encoded = forced_with(deciders.vlm, part, *some)
        yield rows, logits, encoded, [effect.decision for effect in part]


def forced_with(
    base: VLM, effects: Sequence[Effect], images: Sequence[Any], questions: Sequence[str], answers: Sequence[str]
) -> tuple[Tensor, Encoded]:
    """Logits (n, V) that predict the answers, with these effects; all rows of one kind (see `kinds`)."""
    vlm = next((effect.responder for effect in effects if effect.responder is not None), base)
    encoded = encode(vlm, images, questions, effects, answers)
    rows = [effect.changes for effect in effects]
    points = [point for one in rows for point in one]
    with torch.inference_mode(), vlm.lock:
        with prompt_acting(vlm, rows, encoded):
            trunk = vlm.trunk(encoded, lowest(vlm, points))
        with layers_acting(vlm, rows, encoded):
            return vlm.head(trunk, positions=encoded.predict_mask), encoded


def answer_with(
    base: VLM, effect: Effect, images: Sequence[Any], questions: Sequence[str], max_new_tokens: int | None = None
) -> list[str]:
    """Greedy answers with one effect that is decided already."""
    vlm = effect.responder or base
    encoded = encode(vlm, images, questions, [effect] * len(questions))
    with acting(vlm, [effect.changes] * len(questions), encoded):
        return vlm.answer_encoded(encoded, max_new_tokens)


def merged(parts: Sequence[tuple[list[int], Verified]]) -> Verified:
    """What teacher forcing said of rows that were run apart, in the order of the rows."""
    order = [row for rows, _ in parts for row in rows]
    back = torch.tensor(order).argsort()
    join = lambda name: torch.cat([getattr(one, name).cpu() for _, one in parts])[back]  # noqa: E731
    predicted = [one for _, part in parts for one in part.predicted]
    return Verified(join("exact"), join("token"), [predicted[i] for i in back.tolist()], join("log_probability"))


def one_kind(found: Sequence[Any]) -> Any:
    """The only part of a run whose rows went through one model together.  Raises: InputError where there are several."""
    if len(found) != 1:
        raise InputError(
            "generate: these requests are answered by different models, or with different changes on the vision side; ask them "
            "one at a time."
        )
    return found[0]
