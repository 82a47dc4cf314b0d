"""Splits by object: no object, and no picture of the source, is in two splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

from vledit.data.cache import sha256_json
from vledit.errors import InputError

SPLITS = ("train", "validation", "test")


def read_shares(text: str) -> dict[str, float]:
    """Read "0.6,0.1,0.3".  Raises: InputError unless these are three shares that add up to 1."""
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise InputError(
            f"shares: '{text}' is not three shares of {', '.join(SPLITS)} that add up to 1, e.g. 0.6,0.1,0.3."
        )
    return dict(zip(SPLITS, shares, strict=True))


def split_by(keys: Sequence[Sequence[Hashable]], shares: Mapping[str, float], seed: int = 0) -> list[str]:
    """The split of each record.

    Records that share a key are kept together (so are those that are linked through others). Groups are taken in an order
    that their keys and the seed decide, the largest first where one is larger than a split may hold; each goes to the split
    that is furthest from its share.

    Args:
        keys: of each record, what it shares with others: its object, its picture.
    """
    groups = _linked(keys)
    order = sorted(groups.items(), key=lambda item: (-len(item[1]), sha256_json([seed, item[0]])))
    filled = dict.fromkeys(shares, 0)
    found = [""] * len(keys)
    for _, members in order:
        total = sum(filled.values()) + len(members)
        split = max(shares, key=lambda name: (shares[name] * total - filled[name], shares[name]))
        filled[split] += len(members)
        for member in members:
            found[member] = split
    return found


def _linked(keys: Sequence[Sequence[Hashable]]) -> dict[str, list[int]]:
    """Name of a group → its records: those that are connected by keys (union-find)."""
    parent = list(range(len(keys)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    first: dict[Hashable, int] = {}
    for number, own in enumerate(keys):
        for key in own:
            other = root(first.setdefault(key, number))
            mine = root(number)
            parent[max(other, mine)] = min(other, mine)
    groups: dict[int, list[int]] = defaultdict(list)
    for number in range(len(keys)):
        groups[root(number)].append(number)
    return {str(min(map(str, keys[start]), default=start)): members for start, members in groups.items()}
