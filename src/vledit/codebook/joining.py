"""Two codebooks of one model: merged into one, or compared fact by fact.

A fact is defined by `Fact`: a question about a picture (or about none), in one of its wordings.  Entries that both files have
from a common ancestor are recognised by their content and are kept once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import InputError, ModelMismatchError, UnknownNameError
from .book import Codebook
from .draft import Draft, settle
from .entry import Entry, now
from .facts import FactIndex
from .publish import write_whole
from .reading import Event
from .record import Progress
from .relation import Fact

PREFER = ("first", "second", "newest")


@dataclass(frozen=True)
class Conflict:
    """Both codebooks answer one fact, and differently.

    Args:
        first, second: the entries, of either codebook.
        kept: "first" or "second"; "" while it is not decided.
    """

    first: Entry
    second: Entry
    kept: str = ""


@dataclass
class Joined:
    """What `join` made of two codebooks.

    Args:
        entries: of the joined codebook, by the time they were made.
        events: its history.
        conflicts: facts with different answers.
        same: (id in the first, id in the second) of entries that give the same answer to the same fact; the first's is kept.
        shared: ids of entries that are in both.
        renamed: id in the second → id in the joined codebook, where the first has another entry of that id.
        statuses: id → the status it has now, where the two codebooks had different ones: the later change counts.
        added: ids of the entries that came from the second.
    """

    entries: list[Entry]
    events: list[Event]
    conflicts: list[Conflict] = field(default_factory=list)
    same: list[tuple[str, str]] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)

    @property
    def open_conflicts(self) -> list[Conflict]:
        """Conflicts that nobody has decided."""
        return [one for one in self.conflicts if not one.kept]


def join(first: Codebook, second: Codebook, prefer: str | None = None) -> Joined:
    """Joins two codebooks of one model in memory; neither is changed.

    Args:
        prefer: which answer counts where both answer the same fact differently: "first", "second", or "newest" (of the entry
            that was made later). The other entry is retired by it and can be restored. None: the conflicts are told, and
            both entries stay active.

    Raises: ModelMismatchError where the codebooks are of different models; UnknownNameError for another `prefer`.
    """
    if prefer is not None and prefer not in PREFER:
        raise UnknownNameError("prefer", prefer, PREFER)
    if first.fingerprint != second.fingerprint:
        raise ModelMismatchError(
            f"the codebooks are of different models ('{first.model_name}' and '{second.model_name}'). Edits of one model cannot "
            "be used on another: make them again with `vledit edit`."
        )
    mine = {entry.id: entry for entry in first.entries()}
    theirs = {entry.id: entry for entry in second.entries()}
    shared = [id for id, entry in theirs.items() if id in mine and _is_same_edit(mine[id], entry)]
    made = Joined([], [], shared=shared)
    from_second = _settle_shared(made, first, second, mine, theirs)
    names = _new_ids(mine, theirs, shared)
    index = FactIndex(entry for entry in mine.values() if entry.status == "active")
    left_out: dict[str, str] = {}
    rivals: list[tuple[Entry, Entry]] = []
    for entry in theirs.values():
        if entry.id in shared or entry.status != "active":
            continue
        fact = Fact.of(entry)
        asking = [mine[id] for id in index.candidates(fact) if Fact.of(mine[id]).asks_as(fact)]
        equal = next((one for one in asking if Fact.of(one).answers_as(fact)), None)
        if equal is not None:
            left_out[entry.id] = equal.id
            made.same.append((equal.id, entry.id))
        else:
            rivals += [(one, entry) for one in asking]
    names |= left_out
    for id in from_second:
        mine[id] = mine[id].with_status(mine[id].status, names.get(mine[id].retired_by or "", mine[id].retired_by))
    made.renamed = {old: new for old, new in names.items() if old != new and old not in left_out}
    entries = dict(mine)
    for entry in theirs.values():
        if entry.id not in shared and entry.id not in left_out:
            entries[names[entry.id]] = _renamed(entry, names)
            made.added.append(names[entry.id])
    events = _history(first, second, names)
    _decide(made, entries, rivals, names, prefer, events)
    draft = Draft(entries, "merged", "")
    settle(draft)
    made.entries = sorted(draft.entries.values(), key=lambda entry: entry.created)
    note = f"{len(made.added)} entries of the second codebook, {len(shared)} that are in both"
    made.events = [*events, Event(now(), "merged", "", note)]
    return made


def merge(
    first: str | Path,
    second: str | Path,
    out: str | Path,
    prefer: str | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Joined:
    """Joins two codebook files into a third, which appears whole or not at all.

    Args:
        first: path of a codebook file, which is not changed.
        second: path of another one of the same model, which is not changed.
        out: path of the file to write.
        prefer: see `join`.
        overwrite: replace the file at `out`.
        progress: called with the number of entries that are written, and of all.

    Raises: InputError where facts are in conflict and `prefer` does not say which answer counts (each conflict is named, and
        nothing is written), or `out` is one of the two files; CodebookError where `out` exists; and see `join`.
    """
    target = Path(out)
    for one in (first, second):
        if target.exists() and target.samefile(one):
            raise InputError(f"out: '{out}' is one of the codebooks to join. Give another path.")
    with Codebook.open(first, readonly=True) as mine, Codebook.open(second, readonly=True) as theirs:
        made = join(mine, theirs, prefer)
        if made.open_conflicts:
            lines = "".join(f"\n  {conflict_text(one)}" for one in made.open_conflicts)
            raise InputError(
                f"{len(made.open_conflicts)} facts have different answers in the two codebooks; nothing was written. Say which "
                f"count (prefer: {', '.join(PREFER)}), or remove one entry of each.{lines}"
            )
        write_whole(
            target, mine.fingerprint, mine.model_name, made.entries, made.events, overwrite=overwrite, progress=progress
        )
    return made


def conflict_text(one: Conflict) -> str:
    """A conflict in one line."""
    first, second = one.first, one.second
    return (
        f"{first.question!r} ({_picture(first)}): {first.answer!r} (first, entry '{first.id}') or {second.answer!r} "
        f"(second, entry '{second.id}')"
    )


def _picture(entry: Entry) -> str:
    return "no picture" if entry.image_key is None else f"picture {entry.image_key.removeprefix('sha256:')[:12]}"


def hidden(book: Codebook, ids: Sequence[str], progress: Progress | None = None) -> list[tuple[str, str]]:
    """(entry, older entry) where the first of these answers the older one's own request, because their keys are equal."""
    found = []
    for done, id in enumerate(ids, 1):
        if id in book:
            found += [(id, older) for older in book.hidden_by(book.get(id))]
        if progress is not None:
            progress(done, len(ids))
    return found


# --- how they differ ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """How two codebooks differ, by facts.

    Args:
        only_first, only_second: active entries whose fact the other one does not answer.
        changed: active entries of one fact with different answers.
        remade: the same answer to the same fact, by edits that were made apart.
        statuses: (entry of the first, entry of the second) of one edit whose status differs.
        equal: how many active edits are the same in both.
    """

    only_first: list[Entry]
    only_second: list[Entry]
    changed: list[tuple[Entry, Entry]]
    remade: list[tuple[Entry, Entry]]
    statuses: list[tuple[Entry, Entry]]
    equal: int

    def __bool__(self) -> bool:
        return bool(self.only_first or self.only_second or self.changed or self.remade or self.statuses)


def differences(first: Codebook, second: Codebook) -> Difference:
    """Compares two codebooks; they may be of different models, since facts are what is compared."""
    mine = {entry.id: entry for entry in first.entries()}
    theirs = {entry.id: entry for entry in second.entries()}
    shared = {id for id in mine if id in theirs and _is_same_edit(mine[id], theirs[id])}
    statuses = [(mine[id], theirs[id]) for id in mine if id in shared and mine[id].status != theirs[id].status]
    equal = {id for id in shared if mine[id].status == theirs[id].status == "active"}
    left = [entry for entry in first.active() if entry.id not in equal]
    right = [entry for entry in second.active() if entry.id not in equal]
    by_id = {entry.id: entry for entry in right}
    index = FactIndex(right)
    changed, remade, matched = [], [], set()
    only_first = []
    for entry in left:
        fact = Fact.of(entry)
        others = [by_id[id] for id in index.candidates(fact) if Fact.of(by_id[id]).asks_as(fact)]
        for other in others:
            (remade if Fact.of(other).answers_as(fact) else changed).append((entry, other))
            matched.add(other.id)
        if not others:
            only_first.append(entry)
    named = {entry.id for pair in statuses for entry in pair}
    return Difference(
        [entry for entry in only_first if entry.id not in named],
        [entry for entry in right if entry.id not in matched and entry.id not in named],
        changed,
        remade,
        statuses,
        len(equal),
    )


# --- parts of joining ---------------------------------------------------------------------------------------------------


def _is_same_edit(first: Entry, second: Entry) -> bool:
    """Whether two entries of one id are one edit: made at the same moment, with the same texts and keys."""
    texts = ("question", "answer", "image_key", "site", "key_site", "created")
    return (
        all(getattr(first, name) == getattr(second, name) for name in texts)
        and len(first.scopes) == len(second.scopes)
        and all(a.key.tobytes() == b.key.tobytes() for a, b in zip(first.scopes, second.scopes, strict=True))
    )


def _settle_shared(
    made: Joined, first: Codebook, second: Codebook, mine: dict[str, Entry], theirs: dict[str, Entry]
) -> list[str]:
    """Of entries that are in both with another status, that of the codebook that changed it later.

    Returns: the ids of those that take the second's.
    """
    taken = []
    last = [{event.entry: event.time for event in book.history()} for book in (first, second)]
    for id in made.shared:
        if mine[id].status == theirs[id].status:
            continue
        if last[1].get(id, "") > last[0].get(id, ""):
            mine[id] = mine[id].with_status(theirs[id].status, theirs[id].retired_by)
            taken.append(id)
        made.statuses[id] = mine[id].status
    return taken


def _new_ids(mine: dict[str, Entry], theirs: dict[str, Entry], shared: Iterable[str]) -> dict[str, str]:
    """id in the second → id in the joined codebook."""
    names = {id: id for id in shared}
    taken = {*mine, *theirs}
    for id in theirs:
        if id in names:
            continue
        new, number = id, 1
        while new in mine or (number > 1 and new in taken):
            number += 1
            new = f"{id}-{number}"
        names[id] = new
        taken.add(new)
    return names


def _renamed(entry: Entry, names: dict[str, str]) -> Entry:
    by, parent = entry.retired_by, entry.parent
    return replace(
        entry,
        id=names[entry.id],
        retired_by=by if by is None else names.get(by, by),
        parent=parent if parent is None else names.get(parent, parent),
    )


def _history(first: Codebook, second: Codebook, names: dict[str, str]) -> list[Event]:
    """Both histories by time; what was logged before they went apart is there once."""
    known = set(first.history())
    theirs = [event._replace(entry=names.get(event.entry, event.entry)) for event in second.history()]
    return sorted([*first.history(), *(event for event in theirs if event not in known)], key=lambda event: event.time)


def _decide(
    made: Joined,
    entries: dict[str, Entry],
    rivals: Iterable[tuple[Entry, Entry]],
    names: dict[str, str],
    prefer: str | None,
    events: list[Event],
) -> None:
    for mine, theirs in rivals:
        kept = prefer or ""
        if prefer == "newest":
            kept = "second" if theirs.created > mine.created else "first"
        made.conflicts.append(Conflict(mine, theirs, kept))
        if not kept:
            continue
        winner, loser = (mine.id, names[theirs.id]) if kept == "first" else (names[theirs.id], mine.id)
        if entries[loser].status == "active" and entries[winner].status == "active":
            entries[loser] = entries[loser].with_status("retired", winner)
            events.append(Event(now(), "retired", loser, f"by '{winner}'"))
