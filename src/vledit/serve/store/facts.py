"""What is kept about an edit beside itself, and who is active given that.

Kept are only facts: whether the edit is disabled or removed, who took its place, a radius set by hand.  Whether it acts
follows from the facts of all.  So remove and restore, disable and enable are exact inverses, and going back to a revision is
to write down its facts again.  The rules are those of `vledit.codebook.draft`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ...errors import InputError, UnknownNameError

ACTIVE, DISABLED, RETIRED, REMOVED = "active", "disabled", "retired", "removed"


@dataclass(frozen=True)
class Facts:
    """What is kept about one edit.

    Args:
        disabled: switched off; what it replaced stays replaced.
        removed: taken out as if it had never been made; what it replaced is active again.
        replaced_by: id of the newer edit that took its place, or None.
        radius: set by hand, or None for the one it was made with.
    """

    disabled: bool = False
    removed: bool = False
    replaced_by: str | None = None
    radius: float | None = None


State = Mapping[str, Facts]
"""Edit id → facts."""


def status(state: State, id: str) -> str:
    """ "removed", "disabled", "retired" (a newer edit stands in its place) or "active"."""
    facts = state[id]
    if facts.removed:
        return REMOVED
    if _replaced(state, facts):
        return RETIRED
    return DISABLED if facts.disabled else ACTIVE


def _replaced(state: State, facts: Facts) -> bool:
    """Whether what took its place is still there: a removed one passes the question on to what took *its* place."""
    seen: set[str] = set()
    by = facts.replaced_by
    while by is not None and by not in seen:
        seen.add(by)
        successor = state.get(by)
        if successor is None or not successor.removed:
            return successor is not None
        by = successor.replaced_by
    return False


def find(state: State, id: str) -> Facts:
    """Raises: UnknownNameError."""
    if id not in state:
        raise UnknownNameError("edit", id, list(state)[-50:])
    return state[id]


def added(state: State, id: str, retires: Iterable[str] = ()) -> dict[str, Facts]:
    """A new edit that takes the place of `retires`.

    Raises: InputError where the id is taken or something to replace does not act.
    """
    if id in state:
        raise InputError(f"id: '{id}' is taken by a {status(state, id)} edit. Choose another, or none.")
    changed = {id: Facts()}
    for old in retires:
        find(state, old)
        if status(state, old) not in (ACTIVE, DISABLED):
            raise InputError(f"id: edit '{old}' is {status(state, old)} and cannot be replaced.")
        changed[old] = replace(state[old], replaced_by=id)
    return changed


def gone(state: State, ids: Iterable[str]) -> dict[str, Facts]:
    """Edits that are not needed any more, since the base answers so: disabled, those that act."""
    return {id: replace(state[id], disabled=True) for id in ids if id in state and status(state, id) == ACTIVE}


def removed(state: State, id: str) -> dict[str, Facts]:
    """Raises: UnknownNameError; InputError where it is removed already."""
    if find(state, id).removed:
        raise InputError(f"id: edit '{id}' is removed already. 'restore' brings it back.")
    return {id: replace(state[id], removed=True)}


def restored(state: State, id: str) -> dict[str, Facts]:
    """A removed edit as it was before; a retired one beside its successor.

    Raises: UnknownNameError; InputError where there is nothing to restore.
    """
    facts = find(state, id)
    if facts.removed:
        return {id: replace(facts, removed=False)}
    if status(state, id) == RETIRED:
        return {id: replace(facts, replaced_by=None)}
    hint = " 'enable' switches it on." if facts.disabled else ""
    raise InputError(f"id: edit '{id}' is {status(state, id)}; there is nothing to restore.{hint}")


def switched(state: State, id: str, on: bool) -> dict[str, Facts]:
    """Disables or enables.  Raises: UnknownNameError; InputError where it is so already, or removed."""
    facts = find(state, id)
    if facts.removed:
        raise InputError(f"id: edit '{id}' is removed. 'restore' brings it back.")
    if facts.disabled != on:
        raise InputError(f"id: edit '{id}' is {'enabled' if on else 'disabled'} already.")
    return {id: replace(facts, disabled=not on)}


def resized(state: State, id: str, radius: float | None) -> dict[str, Facts]:
    """Sets the radius by hand, or back to what it was made with.  Raises: UnknownNameError."""
    return {id: replace(find(state, id), radius=radius)}


def rolled_back(state: State, then: State) -> dict[str, Facts]:
    """The facts that differ from those of an earlier revision; edits that were made since are removed."""
    changed = {}
    for id, facts in state.items():
        earlier = then.get(id, replace(facts, removed=True))
        if earlier != facts:
            changed[id] = earlier
    return changed
