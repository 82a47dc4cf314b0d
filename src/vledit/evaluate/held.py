"""`Held`: edits that have been made, and what they do to each probe of a prepared case."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ..codebook import Decision
from ..data.case import EditRequest
from ..editors.base import Edit
from ..editors.edited_model import EditedModel
from ..vlm.base import VLM, Transformation
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

    def make(self, request: EditRequest) -> Edit:
        """Makes an edit and adds it; see `EditedModel.edit` for what it raises."""
        edit = self.model.edit(request, self.variant.editor, **self.variant.settings)
        self.edits[request.id] = edit
        return edit

    def acting(self, prepared: PreparedCase, alone: bool = False) -> tuple[list[Acting | None], list[Routed]]:
        """What acts on each probe of a case, and why.

        Args:
            alone: there is one edit: what acts is given for probes outside its scope too (they are marked as not fired), so
                that another radius can be tried later without a model.

        Raises: CheckFailedError where keys are not those of the prompts alone.
        """
        count = len(prepared)
        always = self._always()
        if not len(self.model.codebook):
            self._lower(prepared, [always])
            return [always or None] * count, [ALWAYS if always else NEVER] * count
        queries = self.model.codebook.router.queries()
        for query in queries:
            check_routed_key(prepared, query)
        decisions = self.model.codebook.router.decide({query: prepared.keys(query) for query in queries})
        changes: list[Acting | None] = []
        for decision in decisions:
            gated = decision.nearest is not None and (decision.fired or (alone and not always))
            changes.append(self._entry(decision.nearest) if gated else always or None)
        self._lower(prepared, changes)
        routed = [_routed(decision) for decision in decisions]
        return changes, [one if not always or one.fired else one._replace(fired=True) for one in routed]

    def _lower(self, prepared: PreparedCase, changes: Sequence[Acting | None]) -> None:
        """Trunks have to end at or below every site."""
        sites = {site for change in changes for site in change or ()}
        if sites:
            prepared.lower(min(self.vlm.resolve_site(site).layer for site in sites))

    def _always(self) -> dict[str, Transformation]:
        """Site → what the always-on edits do there together."""
        return {site: change.to(self.vlm.device) for site, change in self.model._always.items()}

    def _entry(self, id: str | None) -> Acting:
        assert id is not None
        if id not in self._entries:  # one object per entry, so that rows that share it are computed together
            entry = self.model.codebook.get(id)
            self._entries[id] = {entry.site: entry.transformation.to(self.vlm.device)}
        return self._entries[id]


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
    if edit.entry is not None:
        changes = {edit.entry.site: edit.entry.transformation}
        for scope in edit.entry.scopes:
            found.update(f"{scope.name}:{scope.radius!r}".encode() + scope.key.tobytes())
    for site, change in sorted(changes.items()):
        for name, tensor in sorted(change.tensors().items()):
            found.update(f"{site}:{name}:{tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]
