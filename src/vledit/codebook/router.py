"""Which entry answers a request: the nearest key, if the request lies within that key's radius.

Source: BalancEdit, Eq. 1; the explanations follow Fig. 4.  Decided once per request, on the prompt, row by row.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from .entry import Entry
from .index import KeyIndex
from .scope import Scope, as_rows, between, points

Queries = Any
"""(B, H) rows where one kind of key is enough, else a mapping from scope name or `Query` to (B, H) rows."""


class Query(NamedTuple):
    """A key that requests must bring to be routed: read where, from which prompt, pooled over which tokens."""

    site: str
    scope: str
    prompt: str
    key_tokens: str

    def __str__(self) -> str:
        return f"'{self.scope}' ({self.key_tokens} tokens of the {self.prompt} prompt at {self.site})"


class Reading(NamedTuple):
    """How a request lies to one scope of an entry; `distance` is inf where the request has no such key."""

    scope: str
    distance: float
    radius: float

    @property
    def inside(self) -> bool:
        """Whether the request is inside this scope."""
        return self.distance <= self.radius

    @property
    def ratio(self) -> float:
        """distance / radius: at most 1 inside."""
        if self.distance == 0:
            return 0.0
        return self.distance / self.radius if self.radius > 0 else math.inf


@dataclass(frozen=True)
class Decision:
    """What the router says to one request.

    Args:
        entry: id of the entry whose transformation answers, or None for the base model.
        nearest: id of the nearest entry, fired or not; None in an empty codebook.
        distance, radius: of the nearest entry's primary scope (None in an empty codebook; inf where the request has
            no such key, e.g. no visual tokens). The radius is that among as many entries as there are, `Scope.radius_among`.
        fired: whether `entry` is set.
        explanation: one line for a person.
        site: the nearest entry's site, at which it acts.
        readings: every scope of the nearest entry.
    """

    entry: str | None
    nearest: str | None
    distance: float | None
    radius: float | None
    fired: bool
    explanation: str
    site: str | None = None
    readings: tuple[Reading, ...] = ()


class _Found(NamedTuple):
    entry: Entry
    rank: int
    readings: tuple[Reading, ...]
    fired: bool


class Router:
    """Routes requests over active entries.

    Entries are grouped by what their distances can be compared in: the site where keys are read, primary scope (name, prompt, key
    tokens) and distance.  In each group the nearest primary key decides, and it fires if every scope of its entry is inside; of
    equally near keys the newest counts.  Between groups, which the paper does not have, those that fire come first and
    then the smallest distance / radius.

    Args:
        entries: the entries, oldest first; those that are not active are left out.
        compete: which entries contend for nearest: "all", or "inside" only those whose *other* scopes hold the request
            (two edits of one picture then do not hide each other).  The same for entries with one scope.
    """

    def __init__(self, entries: Iterable[Entry] = (), compete: str = "all"):
        if compete not in ("all", "inside"):
            raise InputError(f"compete: '{compete}' is not 'all' or 'inside'.")
        self.compete = compete
        self._entries: dict[str, tuple[Entry, int]] = {}
        self._groups: dict[tuple[Query, str], KeyIndex] = {}
        self._limits: dict[tuple[Query, str], float] = {}
        self._widths: dict[Query, tuple[int, int]] = {}  # width of the keys, number of scopes that have it
        self._sites: dict[str, int] = {}  # where entries act, and how many there
        self._next = 0
        for entry in entries:
            if entry.status == "active":
                self.add(entry)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, id: object) -> bool:
        return id in self._entries

    def check(self, entry: Entry) -> None:
        """Raise InputError unless `entry` could be added: active, not in yet, keys as wide as others of their kind."""
        if entry.status != "active":
            raise InputError(f"entry '{entry.id}' is {entry.status}: only active entries are routed to.")
        if entry.id in self._entries:
            raise InputError(f"entry '{entry.id}' is in the router already.")
        for scope in entry.scopes:
            width, _ = self._widths.get(query_of(entry, scope), (scope.width, 0))
            if width != scope.width:
                raise InputError(
                    f"entry '{entry.id}': its key {query_of(entry, scope)} has width {scope.width}, others have {width}."
                )

    def add(self, entry: Entry, rank: int | None = None) -> None:
        """Let `entry` be routed to; `rank` says how new it is (default: newer than all before).

        Raises: InputError as `check`.
        """
        self.check(entry)
        rank = self._next if rank is None else rank
        self._next = max(self._next, rank + 1)
        group = _group(entry)
        if not self._groups.get(group):
            self._groups[group] = KeyIndex(entry.scopes[0].width, entry.distance)
            self._limits[group] = 0.0
        self._groups[group].add(entry.id, entry.key, rank)
        self._limits[group] = max(self._limits[group], entry.radius)
        for scope in entry.scopes:
            _, count = self._widths.get(query_of(entry, scope), (scope.width, 0))
            self._widths[query_of(entry, scope)] = (scope.width, count + 1)
        self._sites[entry.site] = self._sites.get(entry.site, 0) + 1
        self._entries[entry.id] = (entry, rank)

    def remove(self, id: str) -> None:
        """Route to `id` no more; raises KeyError where it is not in."""
        entry, _ = self._entries.pop(id)
        group = _group(entry)
        self._groups[group].remove(id)
        if not self._groups[group]:
            del self._groups[group], self._limits[group]
        for scope in entry.scopes:
            width, count = self._widths.pop(query_of(entry, scope))
            if count > 1:
                self._widths[query_of(entry, scope)] = (width, count - 1)
        self._sites[entry.site] -= 1
        if not self._sites[entry.site]:
            del self._sites[entry.site]

    def sites(self) -> tuple[str, ...]:
        """Return the sites at which entries act, sorted; keys may be read elsewhere, see `queries`."""
        return tuple(sorted(self._sites))

    def queries(self, site: str | None = None) -> tuple[Query, ...]:
        """Return the keys that a request must bring (those read at `site`, or at any site), sorted."""
        return tuple(sorted(query for query in self._widths if site is None or query.site == site))

    def width(self, query: Query) -> int:
        """Length of the keys of this kind; raises KeyError where no entry has such a key."""
        return self._widths[query][0]

    def decide(self, queries: Queries, *, site: str | None = None, exclude: Collection[str] = ()) -> list[Decision]:
        """Return the decision for each of B requests.

        Args:
            queries: (B, H) rows, where the entries need one kind of key; else a mapping from scope name or `Query`
                to (B, H) rows, as `self.queries()` lists them.  A row of nothing but NaN says that the request has no
                such key.
            site: look only at entries whose keys are read at this site.
            exclude: ids to leave out.
        Returns: one Decision per row; its bits depend on that row and the entries alone.
        Raises: InputError for a missing or ambiguous query, another width, a number that is not finite.
        Source: BalancEdit, Eq. 1.
        """
        asked, size = self._resolve(queries, site)
        found: list[_Found | None] = [None] * size
        for group in self._groups:
            if site is not None and group[0].site != site:
                continue
            for row, one in enumerate(self._nearest(group, asked, exclude)):
                found[row] = min((each for each in (found[row], one) if each), key=_order, default=None)
        return [_decision(one) for one in found]

    def readings(self, queries: Queries, id: str, *, site: str | None = None) -> list[tuple[Reading, ...]]:
        """Return how each of B requests lies to every scope of the entry `id`; arguments as `decide`."""
        asked, size = self._resolve(queries, site)
        return [self._read(self._entries[id][0], asked, row) for row in range(size)]

    def _nearest(self, group: tuple[Query, str], asked: Mapping[Query, np.ndarray], exclude: Collection[str]):
        """Yield the group's nearest entry to each row, or None where the row has no key for it or all are excluded."""
        index, rows = self._groups[group], asked[group[0]]
        present = np.flatnonzero(~np.isnan(rows[:, :1]).any(axis=1))
        counts = None if not exclude else (lambda _, id: id not in exclude)
        plain = dict(zip(present.tolist(), index.nearest(rows[present], counts), strict=True))
        fallback = self._newest(group, exclude) if len(plain) < len(rows) else None
        for row in range(len(rows)):
            id = plain[row][0] if row in plain else fallback
            if id is None:
                yield None
                continue
            found = self._found(id, asked, row)
            if self.compete == "inside" and not all(reading.inside for reading in found.readings[1:]):
                # only now, and only as far as any radius reaches: the walk looks at every entry's other scopes
                other = self._inside(group, asked, row, exclude) if row in plain else None
                found = other or found
            yield found

    def _inside(self, group: tuple[Query, str], asked: Mapping[Query, np.ndarray], row: int, exclude: Collection[str]):
        def accept(_: int, id: str) -> bool:
            entry = self._entries[id][0]
            return id not in exclude and all(reading.inside for reading in self._read(entry, asked, row)[1:])

        query = asked[group[0]][row : row + 1]
        id = self._groups[group].nearest(query, accept, self._limits[group])[0][0]
        return None if id is None else self._found(id, asked, row)

    def _newest(self, group: tuple[Query, str], exclude: Collection[str]) -> str | None:
        found = self._groups[group].newest(exclude)
        return None if found is None else found[1]

    def _found(self, id: str, asked: Mapping[Query, np.ndarray], row: int) -> _Found:
        entry, rank = self._entries[id]
        readings = self._read(entry, asked, row)
        return _Found(entry, rank, readings, all(reading.inside for reading in readings))

    def _read(self, entry: Entry, asked: Mapping[Query, np.ndarray], row: int) -> tuple[Reading, ...]:
        return tuple(
            Reading(
                scope.name,
                _distance(scope, asked[query_of(entry, scope)][row]),
                scope.radius_among(self._widths[query_of(entry, scope)][1]),
            )
            for scope in entry.scopes
        )

    def _resolve(self, queries: Queries, site: str | None) -> tuple[dict[Query, np.ndarray], int]:
        """Return the rows of every needed query, checked, and B."""
        needed = self.queries(site)
        if not isinstance(queries, Mapping):
            if len(needed) > 1:
                raise InputError(f"queries: give a mapping; this codebook needs {', '.join(map(str, needed))}.")
            queries = {needed[0] if needed else "": queries}
        queries = {name: as_rows(rows, f"queries[{name}]") for name, rows in queries.items()}
        sizes = {str(name): len(rows) for name, rows in queries.items()}
        if len(set(sizes.values())) != 1:
            raise InputError(f"queries: one number of rows is expected in all, not {sizes}.")
        asked: dict[Query, np.ndarray] = {}
        for query in needed:
            namesakes = [other for other in needed if other.scope == query.scope]
            if query not in queries and query.scope in queries and len(namesakes) > 1:
                listed = ", ".join(map(str, namesakes))
                raise InputError(f"queries: '{query.scope}' may be any of {listed}; give site= or Query names.")
            rows = queries.get(query, queries.get(query.scope))
            if rows is None:
                raise InputError(f"queries: {query} is missing; given: {', '.join(sizes) or 'none'}.")
            asked[query] = _checked(rows, query, self._widths[query][0])
        return asked, next(iter(sizes.values()))


def query_of(entry: Entry, scope: Scope) -> Query:
    """The key that a request must bring to be compared with this scope of the entry."""
    return Query(entry.key_site, scope.name, scope.prompt, scope.key_tokens)


def _group(entry: Entry) -> tuple[Query, str]:
    return query_of(entry, entry.scopes[0]), entry.distance


def _order(found: _Found) -> tuple[bool, float, int]:
    return not found.fired, found.readings[0].ratio, -found.rank


def _distance(scope: Scope, row: np.ndarray) -> float:
    if np.isnan(row[0]):
        return math.inf
    key = points(scope.key[None, :], scope.distance)
    return float(between(key, points(row[None, :], scope.distance)[0], scope.distance)[0])


def _checked(rows: np.ndarray, query: Query, width: int) -> np.ndarray:
    if rows.shape[1] != width:
        raise InputError(f"queries: {query} has width {rows.shape[1]}, the entries' keys have {width}.")
    bad = ~np.isfinite(rows).all(axis=1) & ~np.isnan(rows).all(axis=1)
    if bad.any():
        raise InputError(f"queries: row {int(np.flatnonzero(bad)[0])} of {query} is not finite.")
    return rows


def _decision(found: _Found | None) -> Decision:
    if found is None:
        return Decision(None, None, None, None, False, "The base model answers: the codebook has no active entry.")
    entry, primary = found.entry, found.readings[0]
    return Decision(
        entry=entry.id if found.fired else None,
        nearest=entry.id,
        distance=primary.distance,
        radius=primary.radius,
        fired=found.fired,
        explanation=_explain(entry, found),
        site=entry.site,
        readings=found.readings,
    )


def _explain(entry: Entry, found: _Found) -> str:
    parts = []
    for scope, reading in zip(entry.scopes, found.readings, strict=True):
        where = f" in '{reading.scope}'" if len(found.readings) > 1 else ""
        if math.isinf(reading.distance):
            parts.append(f"the request has no {scope.key_tokens} tokens to compare{where}")
            continue
        side = "within" if reading.inside else "outside of"
        parts.append(
            f"{scope.distance} distance {reading.distance:.4g} is {side} its radius {reading.radius:.4g}{where}"
        )
    text = "; ".join(parts)
    if found.fired:
        return f"Edit '{entry.id}' ({entry.title()}) answers: {text}."
    return f"The base model answers. The nearest edit is '{entry.id}' ({entry.title()}), but {text}."
