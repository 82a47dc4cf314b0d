"""`Held`: edits that have been made, and their effect on each probe of a prepared case."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from ..codebook import Decision
from ..data.case import EditRequest
from ..editors.answering import BASE, CodebookRouting
from ..editors.base import Edit
from ..editors.edited_model import EditedModel
from ..editors.effect import Effect
from ..editors.registry import editor as make_editor
from ..errors import CheckFailedError
from ..vlm.acting import lowest
from ..vlm.base import VLM
from ..vlm.surroundings import on_cpu_unless_named
from .as_released import way_of
from .checks import check_routed_key
from .manifest import Variant
from .prepared import PreparedCase
from .trunk_rows import Acting


class Routed(NamedTuple):
    """What decides whether an edit acts on a probe; NaN and "" for edits that are always on."""

    distance: float = math.nan
    radius: float = math.nan
    fired: bool = False
    entry: str = ""
    readings: tuple[tuple[str, float, float], ...] = ()


ALWAYS = Routed(fired=True)
NEVER = Routed()


class Held:
    """A base with the edits of one variant, made one after the other; each sees those before it."""

    def __init__(self, vlm: VLM, variant: Variant):
        self.vlm, self.variant = vlm, variant
        self.model = EditedModel(vlm)
        self.edits: dict[str, Edit] = {}
        self._entries: dict[str, Acting] = {}
        self._way = way_of(variant)

    @on_cpu_unless_named
    def make(self, request: EditRequest, begun: Any = None) -> Edit:
        """Makes an edit and adds it; see `EditedModel.edit` for what it raises.

        Args:
            begun: what the editor's `begin` made of it together with others.
        """
        method = make_editor(self.variant.editor, **self.variant.settings)
        edit = self.model.add(self.model.make(method, request, begun))
        self.edits[request.id] = edit
        if self._way is not None:
            self._entries = {}
            self._way.made(edit, self.model.memories.get(self.variant.editor))
        return edit

    def begun(self, requests: Sequence[EditRequest], apart: bool = False) -> list[Any]:
        """What the editor makes of several requests together, before any of them is made; None for each where it cannot.

        Args:
            apart: each will be made on the base alone.

        What goes wrong here goes wrong again, and is recorded, when the edits are made one by one.
        """
        method = make_editor(self.variant.editor, **self.variant.settings)
        begin = getattr(method, "begin", None) or (getattr(method, "begin_apart", None) if apart else None)
        if self._way is not None or begin is None:
            return [None] * len(requests)
        try:
            return begin(self.vlm, requests)
        except (MemoryError, CheckFailedError):
            raise
        except Exception:
            return [None] * len(requests)

    def acting(self, prepared: PreparedCase, alone: bool = False) -> tuple[list[Effect | None], list[Routed]]:
        """What happens to each probe of a case, and why.

        Args:
            alone: there is one edit: what a codebook entry does is given for probes outside its scope too (they are marked as not
                fired), so that another radius can be tried later without a model.

        Raises: CheckFailedError where keys are not those of the prompts alone.
        """
        count = len(prepared)
        way = self._way
        if way is not None and len(self.edits) < way.until:
            return [None] * count, [NEVER] * count
        deciders = self.model.deciders()
        found: list[Effect | None] = [None] * count
        if deciders.before:
            if way is None:
                pictures = [prepared.picture(row) for row in range(count)]
                questions = [one.probe.question for one in prepared.asked]
            else:
                pictures, questions = way.requests(prepared)
            found = deciders.request_effects(pictures, questions)
        decisions: list[Decision | None] = [None] * count
        if len(self.model.codebook.router):
            decisions = list(self._decisions(prepared))
        inside = replace(deciders, inside=[one for one in deciders.inside if not isinstance(one, CodebookRouting)])
        if inside.inside:
            seen = {read.key: prepared.read(read) for read in inside.reads()}
            others = inside.prefill_effects(seen, count)
        else:
            others = [None] * count
        effects: list[Effect | None] = []
        routed: list[Routed] = []
        for early, decision, late in zip(found, decisions, others, strict=True):
            own = None if decision is None else self._entry(decision, alone and not deciders.always)
            effect = next((one for one in (early, own, late) if one is not None and one.decision.fired), None)
            reason = next((one.decision for one in (effect, early, own, late) if one is not None), None)
            route = NEVER if reason is None else _routed(reason)
            if effect is None and deciders.always:
                effect, route = Effect(BASE, deciders.always), ALWAYS if reason is None else route._replace(fired=True)
            elif effect is None and own is not None and own.changes:
                effect = own  # outside its scope
            effects.append(effect)
            routed.append(route)
        self._lower(prepared, effects)
        return effects, routed

    def _decisions(self, prepared: PreparedCase) -> list[Decision]:
        queries = self.model.codebook.router.queries()
        for query in queries:
            check_routed_key(prepared, query)
        return self.model.codebook.router.decide({query: prepared.keys(query) for query in queries})

    def _lower(self, prepared: PreparedCase, effects: Sequence[Effect | None]) -> None:
        """Trunks have to end at or below every site at which something acts on the base's own prompt."""
        points = {point for one in effects if one is not None and one.keeps_prompt for point in one.changes}
        if points:
            prepared.lower(lowest(self.vlm, points))

    def _entry(self, decision: Decision, outside: bool) -> Effect:
        """What the codebook does to a request; where `outside`, also what the nearest entry would do outside its scope."""
        if decision.nearest is None or not (decision.fired or outside):
            return Effect(decision)
        if (
            decision.nearest not in self._entries
        ):  # one object per entry, so that rows that share it are computed together
            newest = self._way is not None and self._way.shared
            entry = self.model.codebook.get(list(self.edits.values())[-1].id if newest else decision.nearest)
            self._entries[decision.nearest] = {entry.site: entry.transformation.to(self.vlm.device)}
        return Effect(decision, self._entries[decision.nearest])


def _routed(decision: Decision) -> Routed:
    """The decision as numbers: no distance is NaN."""
    if decision.nearest is None:
        return NEVER
    several = decision.readings if len(decision.readings) > 1 else ()
    readings = tuple((one.scope, one.distance, one.radius) for one in several)
    distance = math.nan if decision.distance is None else decision.distance
    radius = math.nan if decision.radius is None else decision.radius
    return Routed(distance, radius, decision.fired, decision.nearest, readings)


def digest(edit: Edit) -> str:
    """16 hex digits over the bits of what an edit changes, and over its keys and radii."""
    found = hashlib.sha256()
    changes: Mapping[str, Any] = edit.weights or {}
    if edit.payload is not None:
        found.update(json.dumps(dict(edit.payload.meta), sort_keys=True, default=str).encode())
        for name, tensor in sorted(edit.payload.tensors.items()):
            found.update(f"{name}:{tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    if edit.entry is not None:
        changes = {edit.entry.site: edit.entry.transformation}
        if edit.entry.key_site != edit.entry.site:
            found.update(edit.entry.key_site.encode())
        for scope in edit.entry.scopes:
            found.update(f"{scope.name}:{scope.radius!r}".encode() + scope.key.tobytes())
    for site, change in sorted(changes.items()):
        for name, tensor in sorted(change.tensors().items()):
            found.update(f"{site}:{name}:{tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]
