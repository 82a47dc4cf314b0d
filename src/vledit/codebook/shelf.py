"""The index beside a large codebook file that lets it open at once: its keys as memory-mapped arrays.

The file holds everything and is the only source of truth. The folder `NAME.index` beside it is derived from it, may be deleted
at any time, and is used only if it matches the file (same codebook, same last entry, same number of entries).  It holds the keys
and their short forms (`sketch`), and under which picture and wording each entry is asked. So a request, or one more edit, reads
only the entries that it is about.  Entries added since the index was written are read from the file.  After a crash while it is
written, the old index or none is left.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from ..data.cache import write_atomic
from .entry import Entry
from .facts import places
from .record import reads_elsewhere
from .relation import Fact
from .sketch import BLOCK, Sketch

if TYPE_CHECKING:
    from .store import Store

LARGE = 5_000
"""Files with as many entries get a shelf."""
MOST_SINCE = 65_536
"""Behind so many entries that came since, a shelf is made anew."""
FORMAT = 2
"""The first knew no entries whose change started from another's."""
MANIFEST = "manifest.json"
_ARRAYS = {"keys": "<f4", "short": "<f4", "norms": "<f8", "ranks": "<i8"}


@dataclass(frozen=True)
class Head:
    """Which codebook a shelf is of, and what all its keys have in common.

    Args:
        created, fingerprint: of the codebook; last, digest: order and digest of its newest entry on the shelf.
        count: entries on the shelf. group: of all its entries, see `group_of`.
    """

    created: str
    fingerprint: str
    last: int
    digest: str
    count: int
    group: tuple[str, ...]
    width: int
    short: int
    format: int = FORMAT


def folder_of(path: Path) -> Path:
    """Where the shelf of a codebook file lies."""
    return path.with_name(path.name + ".index")


def group_of(entry: Entry) -> tuple[str, ...]:
    """What entries must have in common to lie on one shelf: site, scope, prompt, tokens, distance; and where their keys are read,
    if not at that site."""
    scope = entry.scopes[0]
    elsewhere = (entry.key_site,) if reads_elsewhere(entry) else ()
    return entry.site, scope.name, scope.prompt, scope.key_tokens, scope.distance, *elsewhere


class Shelf:
    """An open shelf."""

    def __init__(self, folder: Path, head: Head):
        self.folder, self.head = folder, head
        rows = {"keys": (head.width,), "short": (head.short,), "norms": (), "ranks": ()}
        self.arrays = {
            name: np.memmap(folder / name, dtype=kind, mode="r", shape=(head.count, *rows[name]))
            for name, kind in _ARRAYS.items()
        }
        with np.load(folder / "sketch.npz") as kept:
            self.sketch = Sketch.kept(dict(kept), head.group[4])
        uri = f"{(folder / 'facts').absolute().as_uri()}?mode=ro"
        self._facts = sqlite3.connect(uri, uri=True, check_same_thread=False)

    def close(self) -> None:
        self._facts.close()

    def asked(self, fact: Fact) -> list[int]:
        """Orders of entries that may ask the same as `fact`."""
        return sorted({order for place in places(fact) for order in self._at(place)})

    def continued(self, id: str) -> list[int]:
        """Orders of entries whose change started from that of the entry `id`."""
        return self._at(_continuing(id))

    def _at(self, place: tuple[Any, ...]) -> list[int]:
        found = self._facts.execute("SELECT entry FROM facts WHERE place = ? ORDER BY entry", (_short(place),))
        return [order for (order,) in found]


def opened(store: Store) -> Shelf | None:
    """The shelf of a codebook file; None where there is none that fits it."""
    folder = folder_of(store.path)
    try:
        record = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        head = Head(**{**record, "group": tuple(record["group"])})
        if head.format != FORMAT or (head.created, head.fingerprint) != _identity(store):
            return None
        if store.digest(head.last) != bytes.fromhex(head.digest):
            return None
        since = store.count(after=head.last)
        if store.count() != head.count + since or since > MOST_SINCE:  # some were purged, or reading so many takes long
            return None
        return Shelf(folder, head)
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, sqlite3.Error):
        return None


def write(store: Store) -> bool:
    """Makes the shelf of all entries, in one pass over the file; whether there is one now.

    There is none of entries whose keys cannot be compared with each other, or where the folder cannot be written.
    """
    folder = folder_of(store.path)
    with contextlib.suppress(OSError, sqlite3.Error):
        folder.mkdir(exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)  # until all is there, there is none
        written = _write_all(store, folder)
        if written:
            return True
    with contextlib.suppress(OSError):
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()
    return False


def _write_all(store: Store, folder: Path) -> bool:
    known: tuple[Any, int] | None = None
    count = last = 0
    facts = _new_facts(folder / "facts")
    with (
        contextlib.closing(facts),
        facts,
        (folder / "keys").open("wb") as keys,
        (folder / "ranks").open("wb") as ranks,
    ):
        for some in store.each():
            for _, entry in some:
                own = (group_of(entry), len(entry.key))
                known = known or own
                if own != known or len(entry.scopes) != 1:
                    return False
            np.stack([entry.key for _, entry in some]).astype(_ARRAYS["keys"]).tofile(keys)
            np.array([order for order, _ in some], dtype=_ARRAYS["ranks"]).tofile(ranks)
            facts.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?)", _rows(some))
            count, last = count + len(some), some[-1][0]
    if known is None:
        return False
    group, width = known
    whole = np.memmap(folder / "keys", dtype=_ARRAYS["keys"], mode="r", shape=(count, width))
    sketch = Sketch(whole, group[4], short=True)
    with (folder / "short").open("wb") as shorts, (folder / "norms").open("wb") as norms:
        for start in range(0, count, BLOCK):
            short, lengths = sketch.rounded(np.asarray(whole[start : start + BLOCK]))
            short.astype(_ARRAYS["short"]).tofile(shorts)
            lengths.astype(_ARRAYS["norms"]).tofile(norms)
    np.savez(folder / "sketch.npz", **sketch.state())  # type: ignore[arg-type]
    shape = sketch.width or width
    _manifest(folder, Head(*_identity(store), last, store.digest(last).hex(), count, group, width, shape))
    return True


def extend(store: Store, shelf: Shelf, ordered: Sequence[tuple[int, Entry]]) -> None:
    """Appends entries that came since; nothing that is there is written again.  Where that cannot be, it stays as it is."""
    head, folder = shelf.head, shelf.folder
    if not ordered or any(group_of(entry) != head.group or len(entry.scopes) > 1 for _, entry in ordered):
        return
    keys = np.stack([entry.key for _, entry in ordered])
    short, norms = shelf.sketch.rounded(keys)
    new = {"keys": keys, "short": short, "norms": norms, "ranks": np.array([order for order, _ in ordered])}
    last = ordered[-1][0]
    with contextlib.suppress(OSError, sqlite3.Error):
        for name, kind in _ARRAYS.items():
            own = np.dtype(kind).itemsize * int(np.prod(shelf.arrays[name].shape))
            with (folder / name).open("r+b") as stream:  # what a crash left behind the rows that count is written over
                stream.seek(own)
                stream.write(new[name].astype(kind, copy=False).tobytes())
                stream.truncate()
        with contextlib.closing(sqlite3.connect(folder / "facts")) as facts, facts:
            facts.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?)", _rows(ordered))
        digest = store.digest(last).hex()
        _manifest(folder, Head(**{**asdict(head), "last": last, "digest": digest, "count": head.count + len(ordered)}))


def _identity(store: Store) -> tuple[str, str]:
    return store.meta.get("created", ""), store.fingerprint


def _manifest(folder: Path, head: Head) -> None:
    write_atomic(folder / MANIFEST, (json.dumps(asdict(head), indent=1) + "\n").encode())


def _new_facts(path: Path) -> sqlite3.Connection:
    path.unlink(missing_ok=True)
    facts = sqlite3.connect(path)
    facts.execute("CREATE TABLE facts(place BLOB, entry INTEGER, PRIMARY KEY(place, entry)) WITHOUT ROWID")
    return facts


def _rows(ordered: Iterable[tuple[int, Entry]]) -> Iterator[tuple[bytes, int]]:
    for order, entry in ordered:
        for place in places(Fact.of(entry)):
            yield _short(place), order
        if entry.parent is not None:
            yield _short(_continuing(entry.parent)), order


def _continuing(id: str) -> tuple[Any, ...]:
    """Where entries are found whose change started from that of `id`; no picture and wording are three."""
    return "continues", id, ""


def _short(place: tuple[Any, ...]) -> bytes:
    return hashlib.sha256(json.dumps(place, ensure_ascii=True).encode()).digest()[:16]
