"""The next state of a codebook while it is prepared, and the rules of which entry retires which.

Each entry stores whether it is removed and which entry retired it; "active" and "retired" follow from that.  So removing an
entry and restoring it are exact inverses, however many edits replaced one another.
Source: BalancEdit, Sec. 3.2 (a conflicting edit replaces the old one) and 4.7 (reversal).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import InputError, UnknownNameError
from .entry import BY_HAND, Entry, now
from .reading import Event


@dataclass
class Draft:
    """A change: the entries after it, and what is written to the history.

    Args:
        entries: at first as they are before the change: all, or those that it concerns.
    Attributes:
        before: the entries as they were.
    """

    entries: dict[str, Entry]
    action: str
    id: str
    detail: str = ""
    added: Entry | None = None
    purged: bool = False
    events: list[Event] = field(default_factory=list)
    before: Mapping[str, Entry] = field(init=False)

    def __post_init__(self) -> None:
        self.before = dict(self.entries)


def find(entries: Mapping[str, Entry], id: str) -> Entry:
    """Return the entry of this id.  Raises: UnknownNameError."""
    if id not in entries:
        raise UnknownNameError("entry", id, entries)
    return entries[id]


def retire(draft: Draft, id: str, by: str) -> None:
    """Note that `by` (an entry, or BY_HAND) takes the place of `id`.

    Raises: UnknownNameError; InputError where `id` is not active, `by` is removed, or the two would retire each other.
    """
    entry = find(draft.entries, id)
    if entry.status != "active":
        raise InputError(f"entry '{id}' is {entry.status}: only an active one can be retired.")
    successor = None if by == BY_HAND else find(draft.entries, by)
    if successor is not None and successor.status == "removed":
        raise InputError(f"by: entry '{by}' is removed.")
    while successor is not None:
        if successor.id == id:
            raise InputError(f"by: '{by}' is '{id}' itself, or was retired by it.")
        successor = draft.entries.get(successor.retired_by or "")
    draft.entries[id] = entry.with_status("retired", by)


def settle(draft: Draft) -> list[Entry]:
    """Set who is retired after the change and log it; returns the entries that differ from those before."""
    before = draft.before
    for entry in list(draft.entries.values()):
        if entry.status == "retired" or (entry.retired_by is not None and entry.status != "removed"):
            status = "retired" if _stands(draft.entries, entry) else "active"
            if status != entry.status:
                draft.entries[entry.id] = entry.with_status(status, entry.retired_by)
    changed = [entry for id, entry in draft.entries.items() if id in before and entry is not before[id]]
    time = now()
    draft.events = [Event(time, draft.action, draft.id, draft.detail)]
    for entry in changed:
        if entry.id != draft.id and entry.status != before[entry.id].status:
            retired = entry.status == "retired"
            detail = f"by '{entry.retired_by}'" if retired else f"'{draft.id}' was {draft.action}"
            draft.events.append(Event(time, "retired" if retired else "restored", entry.id, detail))
    return changed


def _stands(entries: Mapping[str, Entry], entry: Entry) -> bool:
    """Whether what retired `entry` is still there: a removed successor passes the question on to its own successor."""
    by = entry.retired_by
    while by is not None and by != BY_HAND:
        successor = entries.get(by)
        if successor is None or successor.status != "removed":
            return successor is not None
        by = successor.retired_by
    return by == BY_HAND
